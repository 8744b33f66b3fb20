//! A token call without an answer. Whether the refresh token is spent is unknown then, and only the authority's word
//! ends the session.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tower_token_refresh::{BoxError, Error};

use crate::{
    kind::{DJANGO, DJANGO_WITH_GRACE, Kind, OIDC_PROVIDER},
    proxy::Way,
    world::{World, within},
};

/// For how long a session leaves the authority alone after its silence.
const AFTER_SILENCE: Duration = Duration::from_secs(30);

/// A session whose refresh got no answer. Requests are refused on their own merit until the pause is over.
async fn after_silence(kind: Kind, way: Way, refreshes: u64) -> World {
    let world = World::new(kind).await;
    world.authority.expire().await;
    world.proxy.set(way);
    for _ in 0..2 {
        assert!(failure(world.get().await, kind).is_transient());
    }
    world.clock.advance(AFTER_SILENCE - Duration::from_secs(5));
    assert!(failure(world.get().await, kind).is_transient());
    world.assert_token_calls(1, refreshes, 0).await;
    assert_eq!(world.ends(), 0);
    world.proxy.set(Way::Open);
    world.clock.advance(Duration::from_secs(5));
    world
}

fn failure(answer: Result<Response<Incoming>, BoxError>, kind: Kind) -> Error {
    let failure = Error::of(&answer).expect("the refresh failed").clone();
    assert_eq!(answer.unwrap().status(), kind.refusal);
    failure
}

async fn request_lost(kind: Kind) {
    let world = after_silence(kind, Way::LoseRequests, 0).await;
    world.get_in(2).await;
    world.assert_token_calls(1, 1, 0).await;
}

#[tokio::test]
async fn a_refresh_that_oidc_provider_has_never_seen_is_made_again_after_a_pause() {
    within(request_lost(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_refresh_that_django_has_never_seen_is_made_again_after_a_pause() {
    within(request_lost(DJANGO)).await;
}

/// The one loss that nobody can prevent, unless the authority has grace.
async fn answer_lost(kind: Kind) {
    let world = after_silence(kind, Way::LoseAnswers, 1).await;
    for _ in 0..2 {
        assert!(failure(world.get().await, kind).is_login_required());
    }
    assert_eq!(world.ends(), 1);
    world.assert_token_calls(1, 1, 1).await;

    world.log_in().await;
    world.get_in(1).await;
}

#[tokio::test]
async fn an_answer_of_oidc_provider_that_was_lost_costs_a_login() {
    within(answer_lost(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn an_answer_of_django_that_was_lost_costs_a_login() {
    within(answer_lost(DJANGO)).await;
}

#[tokio::test]
async fn an_answer_of_django_that_was_lost_is_repeated_within_its_grace() {
    within(async {
        let world = after_silence(DJANGO_WITH_GRACE, Way::LoseAnswers, 1).await;
        world.get_in(2).await;
        world.assert_token_calls(1, 2, 0).await;
        world.authority.expire().await;
        world.get_in(2).await;
        world.assert_token_calls(1, 3, 0).await;
    })
    .await;
}
