//! Many requests find at once that their token has expired.

use http::header;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_token_refresh::{SkipRefresh, test_util::Gate};

use crate::{
    kind::{DJANGO, Kind, LIFETIME, OIDC_PROVIDER, OIDC_PROVIDER_WITH_403},
    world::{World, answered, within},
};

pub(crate) const REQUESTS: usize = 50;

async fn all_refused(kind: Kind) {
    let world = World::new(kind).await;
    world.authority.expire().await;
    let mut only_once = world.authority.request();
    only_once.extensions_mut().insert(SkipRefresh);
    let refusal = world.client().oneshot(only_once).await.unwrap();
    assert_eq!(refusal.status(), kind.refusal);
    assert_eq!(refusal.headers().contains_key(header::WWW_AUTHENTICATE), kind.has_challenge);

    let answers = Gate::new();
    let client = world.client_behind(&answers);
    let mut calls = JoinSet::new();
    for _ in 0..REQUESTS {
        calls.spawn(client.clone().oneshot(world.authority.request()));
    }
    answers.waiting(REQUESTS).await;
    answers.open();
    while let Some(answer) = calls.join_next().await {
        answered(answer.unwrap(), 2).await;
    }
    world.assert_token_calls(1, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_oidc_provider_refuses_with_401_costs_one_refresh() {
    within(all_refused(OIDC_PROVIDER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_oidc_provider_refuses_with_403_costs_one_refresh() {
    within(all_refused(OIDC_PROVIDER_WITH_403)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_django_refuses_with_403_and_no_challenge_costs_one_refresh() {
    within(all_refused(DJANGO)).await;
}

/// The lifetime is the one that the authority has told.
async fn all_past_expiry(kind: Kind) {
    let world = World::new(kind).await;
    world.authority.expire().await;
    world.clock.advance(LIFETIME);
    let mut calls = JoinSet::new();
    for _ in 0..REQUESTS {
        calls.spawn(world.client().oneshot(world.authority.request()));
    }
    while let Some(answer) = calls.join_next().await {
        answered(answer.unwrap(), 1).await;
    }
    world.assert_token_calls(1, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_past_the_expiry_told_by_oidc_provider_waits_for_one_refresh() {
    within(all_past_expiry(OIDC_PROVIDER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_past_the_expiry_told_by_django_waits_for_one_refresh() {
    within(all_past_expiry(DJANGO)).await;
}
