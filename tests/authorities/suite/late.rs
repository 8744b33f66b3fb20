//! A refusal of the token before arrives after the refresh.

use tower::ServiceExt;
use tower_token_refresh::test_util::Gate;

use crate::{
    kind::{DJANGO, Kind, OIDC_PROVIDER, OIDC_PROVIDER_WITH_403},
    world::{World, answered, within},
};

async fn refused_late(kind: Kind) {
    let world = World::new(kind).await;
    world.authority.expire().await;
    let refusal = Gate::new();
    let late = tokio::spawn(world.client_behind(&refusal).oneshot(world.authority.request()));
    refusal.waiting(1).await;
    world.get_in(2).await;
    refusal.open();
    answered(late.await.unwrap(), 2).await;
    world.assert_token_calls(1, 1, 0).await;
}

#[tokio::test]
async fn a_late_401_of_oidc_provider_costs_no_second_refresh() {
    within(refused_late(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_late_403_of_oidc_provider_costs_no_second_refresh() {
    within(refused_late(OIDC_PROVIDER_WITH_403)).await;
}

#[tokio::test]
async fn a_late_403_of_django_costs_no_second_refresh() {
    within(refused_late(DJANGO)).await;
}
