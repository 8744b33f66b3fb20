//! The authority ends the grant.

use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_token_refresh::{BoxError, Error, TokenSource, store::MemoryStore};

use crate::{
    authority::Authority,
    kind::{DJANGO, Kind, OIDC_PROVIDER, OIDC_PROVIDER_WITH_403},
    world::{World, within},
};

async fn without_a_login(kind: Kind) {
    let world = World::new(kind).await;
    world.authority.revoke(&world.session.token().await.unwrap()).await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        calls.spawn(world.client().oneshot(world.authority.request()));
    }
    while let Some(answer) = calls.join_next().await {
        refused(answer.unwrap(), kind);
    }
    refused(world.get().await, kind);
    assert_eq!(world.ends(), 1);
    world.assert_token_calls(1, 0, 1).await;

    world.log_in().await;
    world.get_in(1).await;
    assert_eq!(world.ends(), 1);
    world.assert_token_calls(2, 0, 1).await;
}

/// The server's answer comes back, with the reason why there is no better one.
fn refused(answer: Result<Response<Incoming>, BoxError>, kind: Kind) {
    assert!(Error::of(&answer).expect("the refresh failed").is_login_required());
    assert_eq!(answer.unwrap().status(), kind.refusal);
}

#[tokio::test]
async fn a_grant_that_oidc_provider_has_revoked_is_presented_once_and_ends_the_session() {
    within(without_a_login(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_grant_that_oidc_provider_has_revoked_ends_the_session_behind_a_403_too() {
    within(without_a_login(OIDC_PROVIDER_WITH_403)).await;
}

#[tokio::test]
async fn a_grant_that_django_has_revoked_is_presented_once_and_ends_the_session() {
    within(without_a_login(DJANGO)).await;
}

/// Somebody else has presented a refresh token that was spent, so the authority trusts nobody any more.
async fn by_a_thief(kind: Kind) {
    let world = World::new(kind).await;
    let stolen = world.session.token().await.unwrap();
    world.authority.expire().await;
    world.get_in(2).await;
    let stolen = stolen.refresh().unwrap().expose();
    let form = format!("grant_type=refresh_token&refresh_token={stolen}");
    assert_eq!(world.authority.post("/token", &form).await.0, StatusCode::BAD_REQUEST);
    for _ in 0..2 {
        refused(world.get().await, kind);
    }
    assert_eq!(world.ends(), 1);
    world.assert_token_calls(1, 1, 2).await;
}

#[tokio::test]
async fn a_grant_that_oidc_provider_has_ended_for_a_reuse_elsewhere_ends_the_session() {
    within(by_a_thief(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_grant_that_django_has_ended_for_a_reuse_elsewhere_ends_the_session() {
    within(by_a_thief(DJANGO)).await;
}

async fn with_a_login(kind: Kind) {
    let authority = Authority::new(kind).await;
    let password = authority.password();
    let world = World::with(authority, MemoryStore::new(), |grant| grant.or_else(password)).await;
    world.get_in(1).await;
    world.assert_token_calls(1, 0, 0).await;
    world.authority.revoke(&world.session.token().await.unwrap()).await;
    world.get_in(2).await;
    assert_eq!(world.ends(), 0);
    world.assert_token_calls(2, 0, 1).await;
}

#[tokio::test]
async fn a_password_begins_a_new_grant_at_oidc_provider_in_the_place_of_a_revoked_one() {
    within(with_a_login(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_password_begins_a_new_grant_at_django_in_the_place_of_a_revoked_one() {
    within(with_a_login(DJANGO)).await;
}
