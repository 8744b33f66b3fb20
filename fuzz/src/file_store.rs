//! `FileStore`: whatever the file holds.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tower_token_refresh::{
    FetchContext, FetchError, Session, Token, source_fn,
    store::{FileStore, Record, SessionId, StoredToken, TokenStore},
    test_util::TestClock,
};

use crate::runtime::run;

/// When a [`TestClock`] begins.
const NOW: u64 = 1_700_000_000;

/// The input is the content of the file and, behind a zero byte, that of the file with the lease's number.
///
/// 1. It is a record exactly if a naive reading finds one.
/// 2. A session on anything else goes on as logged out, and what was there is kept aside.
/// 3. What is saved is read back.
pub fn file_store(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (content, number) = (parts.next().unwrap_or_default(), parts.next());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, content).unwrap();
    if let Some(number) = number {
        fs::write(directory.path().join("token.fence"), number).unwrap();
    }
    let store = FileStore::new(&path);
    run(async {
        let loaded = store.load().await;
        let expected = expected(content);
        match (&loaded, &expected) {
            (Ok(Some(record)), Some(expected)) => assert_eq!(&shown(record), expected),
            (Err(_), None) => {}
            _ => panic!("{:?} for {expected:?}", loaded.is_ok()),
        }

        let source = source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("fetched")) });
        let session = Session::builder(source).store(store.clone()).clock(TestClock::new()).build();
        let token = session.token().await.map(|token| token.access().expose().to_owned());
        match &expected {
            Some(shown) if shown.is_alive() => {
                assert_eq!(token.unwrap(), shown.token.as_ref().unwrap().access)
            }
            // A logout, too, is nothing for a session that is new.
            _ => assert_eq!(token.unwrap(), "fetched"),
        }
        if expected.is_none() {
            assert_eq!(fs::read(directory.path().join("token.corrupt")).unwrap(), content, "kept aside");
        }

        let lease = store.lock().await.unwrap();
        let before = store.load().await.unwrap();
        let record = next(content, before.map_or(0, |record| record.revision));
        store.save(&record, Some(lease.fence())).await.unwrap();
        assert_eq!(shown(&store.load().await.unwrap().unwrap()), shown(&record), "read back");
    });
}

/// A record made of the input, which may follow one of this revision.
fn next(content: &[u8], revision: u64) -> Record {
    let text = String::from_utf8_lossy(content).into_owned();
    let number = u64::from(content.first().copied().unwrap_or_default());
    let moment = UNIX_EPOCH + Duration::from_secs(number << 24);
    let mut token = StoredToken::new(text.as_str());
    token.refresh = (number % 2 == 0).then(|| text.chars().rev().collect::<String>().into());
    token.kind = (number % 7 == 0).then(|| content.escape_ascii().to_string());
    token.expires_at = (number % 3 == 0).then_some(moment);
    token.refresh_expires_at = (number % 5 == 0).then_some(moment);
    token.refresh_received_at = (number % 11 == 0).then_some(moment);
    let session = SessionId(u128::from(number) << 100 | 7);
    Record::new(session, revision.saturating_add(1), (number != u64::from(b'L')).then_some(token))
}

/// A record in parts that can be compared.
#[derive(Debug, PartialEq)]
struct Shown {
    session: u128,
    revision: u64,
    token: Option<ShownToken>,
}

#[derive(Debug, PartialEq)]
struct ShownToken {
    access: String,
    refresh: Option<String>,
    expires_at: Option<u64>,
    refresh_expires_at: Option<u64>,
    refresh_received_at: Option<u64>,
    kind: Option<String>,
}

impl Shown {
    /// Whether a session can use it.
    fn is_alive(&self) -> bool {
        self.token.as_ref().is_some_and(|ShownToken { access, expires_at, .. }| {
            let is_sendable = !access.is_empty() && access.bytes().all(|byte| byte.is_ascii_graphic());
            is_sendable && expires_at.is_none_or(|moment| moment > NOW)
        })
    }
}

fn shown(record: &Record) -> Shown {
    let seconds = |moment: SystemTime| moment.duration_since(UNIX_EPOCH).unwrap().as_secs();
    Shown {
        session: record.session.0,
        revision: record.revision,
        token: record.token.as_ref().map(|token| ShownToken {
            access: token.access.expose().to_owned(),
            refresh: token.refresh.as_ref().map(|refresh| refresh.expose().to_owned()),
            expires_at: token.expires_at.map(seconds),
            refresh_expires_at: token.refresh_expires_at.map(seconds),
            refresh_received_at: token.refresh_received_at.map(seconds),
            kind: token.kind.clone(),
        }),
    }
}

/// The record in a text, if it is one.
fn expected(content: &[u8]) -> Option<Shown> {
    let file: Value = serde_json::from_slice(content).ok()?;
    let file = file.as_object()?;
    let token = match file.get("token")? {
        Value::Null => None,
        Value::Object(token) => Some(ShownToken {
            access: token.get("access")?.as_str()?.to_owned(),
            refresh: optional(token.get("refresh"), |value| Some(value.as_str()?.to_owned()))?,
            expires_at: optional(token.get("expires_at"), moment)?,
            refresh_expires_at: optional(token.get("refresh_expires_at"), moment)?,
            refresh_received_at: optional(token.get("refresh_received_at"), moment)?,
            kind: optional(token.get("kind"), |value| Some(value.as_str()?.to_owned()))?,
        }),
        _ => return None,
    };
    (file.get("version")?.as_u64()? == 1).then_some(Shown {
        session: u128::from_str_radix(file.get("session")?.as_str()?, 16).ok()?,
        revision: file.get("revision")?.as_u64()?,
        token,
    })
}

fn optional<T>(value: Option<&Value>, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(value) => read(value).map(Some),
    }
}

/// What the system's clock can hold.
fn moment(value: &Value) -> Option<u64> {
    let seconds = value.as_u64()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map(|_| seconds)
}
