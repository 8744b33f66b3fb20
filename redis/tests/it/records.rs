//! What is saved, and what gives way.

use std::{
    error::Error,
    pin::pin,
    time::{Duration, UNIX_EPOCH},
};

use tokio::time::timeout;
use tower_token_refresh::store::{
    Damaged, LeaseLost, Record, SessionId, StoredToken, Superseded, TokenStore,
};
use tower_token_refresh_redis::RedisStores;

use crate::{line::Line, server::Server};

pub(crate) fn record(revision: u64, access: &str) -> Record {
    Record::new(SessionId(7), revision, StoredToken::new(access))
}

/// The access token in the store.
pub(crate) async fn access(store: &impl TokenStore) -> Option<String> {
    Some(store.load().await.unwrap()?.token?.access.expose().to_owned())
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_saved() {
    let server = Server::start();
    let store = server.store();
    assert!(store.load().await.unwrap().is_none());

    let mut whole = StoredToken::new("access \r\n\0 中");
    whole.refresh = Some("refresh".into());
    let moment = |seconds| Some(UNIX_EPOCH + Duration::from_micros(seconds));
    (whole.expires_at, whole.refresh_expires_at) = (moment(1_000_001), moment(2));
    (whole.refresh_received_at, whole.kind) = (moment(0), Some("DPoP".to_owned()));
    let saved = Record::new(SessionId(u128::MAX - 1), 40, whole.clone());
    store.save(&saved, None).await.unwrap();
    let found = server.store().load().await.unwrap().unwrap();
    assert_eq!((found.session, found.revision), (saved.session, 40));
    let token = found.token.unwrap();
    assert_eq!(token.access.expose(), whole.access.expose());
    assert_eq!(token.refresh.unwrap().expose(), "refresh");
    assert_eq!((token.expires_at, token.refresh_expires_at), (whole.expires_at, whole.refresh_expires_at));
    assert_eq!((token.refresh_received_at, token.kind), (whole.refresh_received_at, whole.kind));

    store.save(&record(50, "another"), None).await.unwrap();
    let bare = store.load().await.unwrap().unwrap().token.unwrap();
    assert!(bare.refresh.is_none() && bare.expires_at.is_none() && bare.kind.is_none(), "nothing of before");
    store.save(&Record::new(SessionId(7), 60, None), None).await.unwrap();
    let out = store.load().await.unwrap().unwrap();
    assert!((out.session, out.revision) == (SessionId(7), 60) && out.token.is_none());
    assert!(server.stores().store("another").load().await.unwrap().is_none());
}

#[tokio::test]
async fn a_refresh_gives_way_to_a_later_lease_and_a_later_record_and_a_login_to_none() {
    let server = Server::start();
    let store = server.store();
    let first = store.lock().await.unwrap();
    let of_first = first.fence();
    store.save(&record(1, "one"), Some(of_first)).await.unwrap();
    drop(first);
    let second = store.lock().await.unwrap();
    assert!(second.fence() > of_first);
    assert!(store.save(&record(9, "late"), Some(of_first)).await.unwrap_err().is::<LeaseLost>());

    server.store().save(&record(1, "login"), None).await.unwrap();
    let found = store.load().await.unwrap().unwrap();
    assert_eq!((found.revision, access(&store).await.as_deref()), (3, Some("login")));
    let outdone = store.save(&record(2, "refresh"), Some(second.fence())).await.unwrap_err();
    assert!(outdone.is::<Superseded>());
    store.save(&record(3, "refresh"), Some(second.fence())).await.unwrap();
    assert_eq!(access(&store).await.as_deref(), Some("refresh"));
}

#[tokio::test]
async fn of_many_who_save_at_once_each_outdoes_the_one_before() {
    let server = Server::start();
    let stores = server.stores();
    let saves = (0..40).map(|number| {
        let store = if number % 2 == 0 { stores.store("acme:token") } else { server.store() };
        tokio::spawn(async move { store.save(&record(1, "login"), None).await.unwrap() })
    });
    for save in saves.collect::<Vec<_>>() {
        save.await.unwrap();
    }
    assert_eq!(server.store().load().await.unwrap().unwrap().revision, 80);
}

#[tokio::test]
async fn a_write_that_was_given_up_and_comes_late_never_takes_the_place_of_the_next_one() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let slow = line.store();
    slow.save(&record(1, "one"), None).await.unwrap();
    line.hold_scripts();
    let late = tokio::spawn({
        let slow = slow.clone();
        async move { slow.save(&record(3, "late"), None).await }
    });
    line.has_one().await;
    late.abort();
    server.store().save(&Record::new(SessionId(7), 5, None), None).await.unwrap();
    line.let_scripts_pass();
    // Comes behind it on the same connection.
    let found = slow.load().await.unwrap().unwrap();
    assert!(found.token.is_none(), "the logout holds");
}

#[tokio::test]
async fn a_lease_that_is_handed_out_while_a_write_is_on_its_way_counts() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let (slow, other) = (line.store(), server.store());
    let lease = other.lock().await.unwrap();
    let fence = lease.fence();
    slow.save(&record(1, "one"), Some(fence)).await.unwrap();
    line.hold_scripts();
    let late = tokio::spawn(async move { slow.save(&record(2, "late"), Some(fence)).await });
    line.has_one().await;
    drop(lease);
    let _later = other.lock().await.unwrap();
    line.let_scripts_pass();
    assert!(late.await.unwrap().unwrap_err().is::<LeaseLost>());
    assert_eq!(access(&other).await.as_deref(), Some("one"));
}

#[tokio::test]
async fn what_is_no_record_is_damaged_and_gives_way_to_the_next_save() {
    let server = Server::start();
    let store = server.store();
    let mut raw =
        redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for (field, value) in
        [("session", "x"), ("revision", "\u{0}"), ("expires_at", "soon"), ("access", "\u{0}"), ("state", "")]
    {
        store.save(&record(1, "good"), None).await.unwrap();
        let bytes = if value == "\u{0}" { vec![0xff] } else { value.as_bytes().to_vec() };
        let set = redis::cmd("HSET").arg("{acme:token}").arg(field).arg(bytes).to_owned();
        set.query_async::<()>(&mut raw).await.unwrap();
        assert!(store.load().await.unwrap_err().is::<Damaged>(), "{field}");
        store.save(&record(1, "next"), None).await.unwrap();
        assert_eq!(access(&store).await.as_deref(), Some("next"), "{field}");
    }
}

fn texts(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|error| format!("{error} {error:?}\n")).collect()
}

#[tokio::test]
async fn no_error_repeats_what_the_server_repeats() {
    let server = Server::with(&["--rename-command", "EVAL", ""]);
    let store = server.store();
    let error = store.save(&record(1, "canary"), None).await.unwrap_err();
    let texts = texts(&*error);
    assert!(texts.contains("Redis has failed: response error"), "{texts}");
    assert!(!texts.contains("canary") && !texts.contains("args"), "{texts}");
    assert!(!format!("{store:?} {:?}", server.stores()).contains("127.0.0.1"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_the_kind_of_failure() {
    let mut server = Server::start();
    server.stop();
    let error = timeout(Duration::from_secs(10), server.store().load()).await.unwrap().unwrap_err();
    assert!(texts(&*error).contains("connection refused"), "{}", texts(&*error));
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert!(RedisStores::new("http://127.0.0.1/").is_err());
    let stores = RedisStores::new("redis://127.0.0.1/").unwrap();
    for lifetime in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        assert!(stores.clone().lease_lifetime(lifetime).is_err());
    }
}

#[tokio::test]
async fn the_commands_in_the_docs_are_enough() {
    let server = Server::start();
    let allowed = include_str!("../../src/lib.rs").lines().find(|line| line.contains("+hello")).unwrap();
    let allowed: Vec<_> = allowed.trim_start_matches("//!").split_whitespace().collect();
    let mut set = redis::cmd("ACL");
    set.arg("SETUSER").arg("app").arg("on").arg(">pw").arg("~{acme:token}*").arg("&tower-token-refresh:*");
    set.arg(&allowed).query_async::<()>(&mut server.raw().await).await.unwrap();
    let stores = RedisStores::new(format!("redis://app:pw@127.0.0.1:{}/", server.port())).unwrap();
    let store = stores.lease_lifetime(Duration::from_secs(1)).unwrap().store("acme:token");
    let lease = store.lock().await.unwrap();
    store.save(&record(1, "one"), Some(lease.fence())).await.unwrap();
    assert_eq!(access(&store).await.as_deref(), Some("one"));
    // It is prolonged meanwhile.
    assert!(timeout(Duration::from_secs(3), server.store().lock()).await.is_err());
    drop(lease);
    let _next = timeout(Duration::from_secs(5), server.store().lock()).await.unwrap().unwrap();
    let mut changed = pin!(store.changed(1));
    assert!(timeout(Duration::from_millis(400), &mut changed).await.is_err());
    server.store().save(&record(2, "two"), None).await.unwrap();
    timeout(Duration::from_secs(5), changed).await.expect("by a message");
}
