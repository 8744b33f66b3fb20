//! A record as the fields of a hash. Moments are microseconds since 1970.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tower_token_refresh::{
    Secret,
    store::{Damaged, Record, SessionId, StoredToken},
};

/// Names and values, in turns.
pub(crate) fn encode(record: &Record) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = |name: &str, value: String| fields.extend([name.to_owned(), value]);
    field("session", format!("{:032x}", record.session.0));
    field("revision", record.revision.to_string());
    if let Some(token) = &record.token {
        field("access", token.access.expose().to_owned());
        let moments = [
            ("expires_at", token.expires_at),
            ("refresh_expires_at", token.refresh_expires_at),
            ("refresh_received_at", token.refresh_received_at),
        ];
        for (name, moment) in moments {
            if let Some(moment) = moment {
                field(name, micros(moment).to_string());
            }
        }
        if let Some(refresh) = &token.refresh {
            field("refresh", refresh.expose().to_owned());
        }
        if let Some(kind) = &token.kind {
            field("kind", kind.clone());
        }
    }
    fields
}

/// `None` where nothing but a lease was ever written.
pub(crate) fn decode(mut fields: HashMap<String, Vec<u8>>) -> Result<Option<Record>, Damaged> {
    let mut text = |name: &str| fields.remove(name).map(String::from_utf8).transpose().map_err(|_| DAMAGED);
    let Some(session) = text("session")? else { return Ok(None) };
    let session = SessionId(u128::from_str_radix(&session, 16).map_err(|_| DAMAGED)?);
    let revision = text("revision")?.and_then(|revision| revision.parse().ok()).ok_or(DAMAGED)?;
    let Some(access) = text("access")? else { return Ok(Some(Record::new(session, revision, None))) };
    let moment = |text: Option<String>| text.map(|text| moment(&text).ok_or(DAMAGED)).transpose();
    let mut token = StoredToken::new(access);
    token.expires_at = moment(text("expires_at")?)?;
    token.refresh_expires_at = moment(text("refresh_expires_at")?)?;
    token.refresh_received_at = moment(text("refresh_received_at")?)?;
    token.refresh = text("refresh")?.map(Secret::from);
    token.kind = text("kind")?;
    Ok(Some(Record::new(session, revision, token)))
}

const DAMAGED: Damaged = Damaged::new("the record in Redis is damaged");

fn micros(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn moment(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(text.parse().ok()?))
}
