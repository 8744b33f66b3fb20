//! The content of the file: JSON with a version. Fields that are not known are ignored, so that a later release may add
//! some without a new version.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{
    secret::Secret,
    store::{Damaged, Record, SessionId, StoredToken},
};

const VERSION: u64 = 1;

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let token = record.token.as_ref().map(|token| {
        json!({
            "access": token.access.expose(),
            "refresh": token.refresh.as_ref().map(Secret::expose),
            "expires_at": token.expires_at.map(unix_seconds),
            "refresh_expires_at": token.refresh_expires_at.map(unix_seconds),
            "refresh_received_at": token.refresh_received_at.map(unix_seconds),
            "kind": token.kind,
        })
    });
    let file = json!({
        "version": VERSION,
        "session": format!("{:032x}", record.session.0),
        "revision": record.revision,
        "token": token,
    });
    format!("{file:#}\n").into_bytes()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, Damaged> {
    let damaged = || Damaged::new("the token file is damaged");
    // The parser's own error may quote what it has read.
    let file: Value = serde_json::from_slice(bytes).map_err(|_| damaged())?;
    match file["version"].as_u64() {
        Some(VERSION) => record(file).ok_or_else(damaged),
        Some(_) => Err(Damaged::new("the token file has an unknown version")),
        None => Err(damaged()),
    }
}

fn record(mut file: Value) -> Option<Record> {
    Some(Record {
        session: SessionId(u128::from_str_radix(file["session"].as_str()?, 16).ok()?),
        revision: file["revision"].as_u64()?,
        token: match file.get_mut("token")? {
            Value::Null => None,
            token @ Value::Object(_) => Some(StoredToken {
                access: secret(&mut token["access"])?,
                refresh: optional(&mut token["refresh"], secret)?,
                expires_at: optional(&mut token["expires_at"], moment)?,
                refresh_expires_at: optional(&mut token["refresh_expires_at"], moment)?,
                refresh_received_at: optional(&mut token["refresh_received_at"], moment)?,
                kind: optional(&mut token["kind"], |kind| kind.as_str().map(str::to_owned))?,
            }),
            _ => return None,
        },
    })
}

fn optional<T>(value: &mut Value, read: fn(&mut Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() { Some(None) } else { read(value).map(Some) }
}

/// Moves the text out of the tree, which would else be copied.
fn secret(value: &mut Value) -> Option<Secret> {
    match value.take() {
        Value::String(text) => Some(text.into()),
        _ => None,
    }
}

fn moment(value: &mut Value) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(value.as_u64()?))
}

/// Whole seconds, rounded down: a token that is thought to die a second early does no harm.
fn unix_seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
