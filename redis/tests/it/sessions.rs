//! Replicas of a service.

use std::time::Duration;

use http::{Request, StatusCode};
use tokio::time::timeout;
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    Origin, Session, Token, TokenRefreshLayer,
    session::State,
    source_fn,
    test_util::{ModelApi, ModelAuthority, ModelBody, Rotation},
};

use crate::server::Server;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_one_replica_does_the_others_know_at_once() {
    let server = Server::start();
    let replica = || {
        let source = source_fn(|_| async { Ok(Token::new("from-the-source")) });
        Session::builder(source).store(server.store()).build()
    };
    let (one, other) = (replica(), replica());
    one.login(Token::new("first")).await.unwrap();
    assert_eq!(other.token().await.unwrap().access().expose(), "first");
    let mut changes = other.subscribe();
    let known = changes.next().await;
    one.login(Token::new("second")).await.unwrap();
    let now = timeout(LONG, changes.next()).await.expect("a message comes long before the next look");
    assert_ne!(now, known);
    assert_eq!(other.token().await.unwrap().access().expose(), "second");
    one.logout().await.unwrap();
    while timeout(LONG, changes.next()).await.unwrap() != Some(State::LoggedOut) {}
    assert!(other.token().await.unwrap_err().is_login_required());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_refresh_once_between_them_and_present_no_refresh_token_twice() {
    let server = Server::start();
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    let api = ModelApi::new(authority.clone());
    let origin: Origin = "https://api.test".parse().unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let session = Session::builder(authority.source()).store(server.store()).build();
            TokenRefreshLayer::new(session, origin.clone()).layer(api.clone())
        })
        .collect();
    let ask_all = || async {
        let asked = clients.iter().map(|client| {
            let request = Request::get("https://api.test/me").body(ModelBody::default()).unwrap();
            tokio::spawn(client.clone().oneshot(request))
        });
        for answer in asked.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
        }
    };
    ask_all().await;
    let before = authority.counts();
    for round in 1..=30 {
        authority.revoke_access();
        ask_all().await;
        assert_eq!(authority.counts().refreshes, before.refreshes + round);
    }
    let counts = authority.counts();
    assert_eq!((counts.presented_again(), counts.family_deaths), (0, 0));
    assert_eq!(counts.logins, before.logins);
}
