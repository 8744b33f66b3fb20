//! Redis goes away and comes back.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;
use tower_token_refresh::{Session, store::TokenStore, test_util::ModelAuthority};

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
