//! The request that started the refresh is dropped after the authority has rotated the refresh token.

use tower::ServiceExt;
use tower_token_refresh::test_util::Gate;

use crate::{
    kind::{DJANGO, Kind, OIDC_PROVIDER},
    proxy::Way,
    world::{World, within},
};

async fn leader_gone(kind: Kind) {
    let world = World::new(kind).await;
    world.authority.expire().await;
    let answer = Gate::new();
    world.proxy.set(Way::Hold(answer.clone()));
    let leader = tokio::spawn(world.client().oneshot(world.authority.request()));
    answer.waiting(1).await;
    world.assert_token_calls(1, 1, 0).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    answer.open();
    world.session.settle().await.unwrap();
    world.get_in(1).await;
    world.assert_token_calls(1, 1, 0).await;

    world.authority.expire().await;
    world.get_in(2).await;
    world.assert_token_calls(1, 2, 0).await;
}

#[tokio::test]
async fn a_refresh_at_oidc_provider_is_not_lost_with_the_request_that_started_it() {
    within(leader_gone(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_refresh_at_django_is_not_lost_with_the_request_that_started_it() {
    within(leader_gone(DJANGO)).await;
}
