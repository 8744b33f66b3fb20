//! Redis goes away and comes back.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;
use tower_token_refresh::{Session, store::TokenStore, test_util::ModelAuthority};

use tower_token_refresh_redis::RedisStores;

use crate::{
    line::Line,
    records::{access, record},
    server::Server,
};

#[tokio::test]
async fn without_redis_tokens_are_had_all_the_same_and_saved_when_it_is_back() {
    let mut server = Server::start();
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).store(server.store()).build();
    let first = session.token().await.unwrap();
    assert_eq!(access(&server.store()).await.as_deref(), Some(first.access().expose()));
    server.stop();
    let second = timeout(Duration::from_secs(60), session.refresh()).await.unwrap().unwrap();
    assert_ne!(first.access().expose(), second.access().expose());
    server.start_again();
    timeout(Duration::from_secs(60), session.settle()).await.unwrap().unwrap();
    assert_eq!(access(&server.store()).await.as_deref(), Some(second.access().expose()));
    assert_eq!(authority.counts().presented_again(), 0);
}

#[tokio::test]
async fn a_change_is_told_at_once_although_the_connection_has_broken_meanwhile() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let (store, other) = (line.store(), server.store());
    other.save(&record(2, "one"), None).await.unwrap();
    let mut changed = pin!(store.changed(2));
    assert!(timeout(Duration::from_millis(400), &mut changed).await.is_err());
    line.cut();
    other.save(&record(4, "two"), None).await.unwrap();
    line.mend();
    // Long before it looks again.
    timeout(Duration::from_secs(15), changed).await.unwrap();

    let mut changed = pin!(store.changed(4));
    assert!(timeout(Duration::from_millis(400), &mut changed).await.is_err());
    other.save(&record(6, "three"), None).await.unwrap();
    timeout(Duration::from_secs(15), changed).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_swallows_what_is_sent_is_given_up() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let store = line.store();
    store.save(&record(1, "one"), None).await.unwrap();
    line.swallow(true);
    assert!(timeout(Duration::from_secs(10), store.load()).await.unwrap().is_err());
    line.swallow(false);
    assert_eq!(access(&store).await.as_deref(), Some("one"));
}

#[test]
fn one_runtime_after_another_is_served_and_told() {
    let mut server = Server::start();
    let store = server.store();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..4 {
        runtime().block_on(async {
            timeout(Duration::from_secs(10), store.load()).await.unwrap().unwrap();
            let revision = store.load().await.unwrap().map_or(0, |record| record.revision);
            let mut changed = pin!(store.changed(revision));
            assert!(timeout(Duration::from_millis(400), &mut changed).await.is_err());
            server.store().save(&record(1, "next"), None).await.unwrap();
            timeout(Duration::from_secs(10), changed).await.expect("by a message");
        });
        if round == 1 {
            // The connection breaks, and the runtime ends before there is another.
            let brief = runtime();
            brief.block_on(store.load()).unwrap();
            server.stop();
            assert!(brief.block_on(store.load()).is_err());
            drop(brief);
            server.start_again();
        }
    }
}

#[tokio::test]
async fn a_change_is_told_soon_after_a_long_outage() {
    let mut server = Server::start();
    let store = server.store();
    let mut changed = pin!(store.changed(0));
    assert!(timeout(Duration::from_millis(400), &mut changed).await.is_err());
    server.stop();
    assert!(timeout(Duration::from_secs(3), &mut changed).await.is_err());
    server.start_again();
    server.store().save(&record(1, "one"), None).await.unwrap();
    timeout(Duration::from_secs(10), changed).await.unwrap();
}

#[tokio::test]
async fn what_was_refused_while_connecting_is_tried_again() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let mut takes = async |password: &str| {
        let set = redis::cmd("ACL").arg(&["SETUSER", "default", "resetpass", password]).to_owned();
        set.query_async::<()>(&mut raw).await.unwrap();
    };
    takes(">another").await;
    let url = format!("redis://:pw@127.0.0.1:{}/", server.port());
    let store = RedisStores::new(url).unwrap().store("acme:token");
    store.load().await.unwrap_err();
    takes(">pw").await;
    store.load().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_the_primary_no_more_is_left() {
    let server = Server::start();
    let store = server.store();
    store.save(&record(1, "one"), None).await.unwrap();
    let mut raw = server.raw().await;
    let replica_of = |host: &str, port: &str| redis::cmd("REPLICAOF").arg(host).arg(port).to_owned();
    replica_of("127.0.0.1", "1").query_async::<()>(&mut raw).await.unwrap();
    let connections = || async {
        let list: String =
            redis::cmd("CLIENT").arg("LIST").query_async(&mut server.raw().await).await.unwrap();
        list.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let before = connections().await;
    assert!(store.save(&record(1, "two"), None).await.is_err());
    store.load().await.unwrap();
    let after = connections().await;
    assert!(
        before.iter().filter(|connection| !after.contains(connection)).count() >= 2,
        "{before:?} {after:?}"
    );
}
