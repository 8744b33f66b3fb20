//! A record as the fields of a hash. Moments are microseconds since 1970; what is not there is an empty text, so that one
//! command writes all of them.

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
    let token = record.token.as_ref();
    let text = |secret: Option<&Secret>| secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
    let moment = |of: fn(&StoredToken) -> Option<SystemTime>| {
        token.and_then(of).map(|moment| micros(moment).to_string()).unwrap_or_default()
    };
    let fields = [
        ("session", format!("{:032x}", record.session.0)),
        ("revision", record.revision.to_string()),
        ("state", if token.is_some() { "in" } else { "out" }.to_owned()),
        ("access", text(token.map(|token| &token.access))),
        ("refresh", text(token.and_then(|token| token.refresh.as_ref()))),
        ("expires_at", moment(|token| token.expires_at)),
        ("refresh_expires_at", moment(|token| token.refresh_expires_at)),
        ("refresh_received_at", moment(|token| token.refresh_received_at)),
        ("kind", token.and_then(|token| token.kind.clone()).unwrap_or_default()),
    ];
    fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// `None` where nothing but a lease was ever written.
pub(crate) fn decode(fields: HashMap<Vec<u8>, Vec<u8>>) -> Result<Option<Record>, Damaged> {
    if !fields.contains_key(&b"session"[..]) {
        return Ok(None);
    }
    record(fields).map(Some).ok_or(Damaged::new("the record in Redis is damaged"))
}

fn record(mut fields: HashMap<Vec<u8>, Vec<u8>>) -> Option<Record> {
    let mut text = |name: &str| String::from_utf8(fields.remove(name.as_bytes())?).ok();
    let session = SessionId(u128::from_str_radix(&text("session")?, 16).ok()?);
    let revision = text("revision")?.parse().ok()?;
    match text("state")?.as_str() {
        "in" => {}
        "out" => return Some(Record::new(session, revision, None)),
        _ => return None,
    }
    let mut token = StoredToken::new(text("access")?);
    token.refresh = Some(text("refresh")?).filter(|refresh| !refresh.is_empty()).map(Secret::from);
    token.expires_at = moment(&text("expires_at")?)?;
    token.refresh_expires_at = moment(&text("refresh_expires_at")?)?;
    token.refresh_received_at = moment(&text("refresh_received_at")?)?;
    token.kind = Some(text("kind")?).filter(|kind| !kind.is_empty());
    Some(Record::new(session, revision, token))
}

fn micros(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The outer `None` is for what is no moment.
fn moment(text: &str) -> Option<Option<SystemTime>> {
    if text.is_empty() {
        return Some(None);
    }
    UNIX_EPOCH.checked_add(Duration::from_micros(text.parse().ok()?)).map(Some)
}

/// What is no number is no record: whatever is saved takes its place.
pub(crate) fn number(field: &Option<Vec<u8>>) -> u64 {
    let text = field.as_deref().and_then(|field| str::from_utf8(field).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
