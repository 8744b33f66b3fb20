//! How many refused responses are held.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, NotResent, Outcome, ReplayBody, TokenRefreshLayer,
    test_util::{Endpoint, Failure, ModelAuthority, ModelBody, Phase, Refusal},
};

use crate::{
    script::{numbered, outcome, until, within},
    world::{World, get, origin, post},
};

/// At most `limit` refused requests may wait; the token is revoked.
async fn revoked(limit: usize) -> World {
    let world = World::with(
        ModelAuthority::new(),
        |session| session.cooling(Duration::ZERO, Duration::ZERO).unwrap(),
        |layer| layer.max_held(limit).unwrap(),
    );
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    world
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_a_refusal_comes_back_at_once_while_the_refresh_goes_on() {
    let world = revoked(2).await;
    // They have to be sent before the first refusal condemns the token.
    let answers = world.api.hold(Phase::Answer);
    let refresh = world.authority.hold(Endpoint::Refresh);
    let requests: Vec<_> =
        (0..5).map(|_| tokio::spawn(world.client.clone().oneshot(post("/echo", "hello")))).collect();
    within(answers.waiting(5)).await;
    answers.open();
    within(refresh.waiting(1)).await;

    let (mut waiting, mut returned) = (Vec::new(), 0);
    until(|| requests.iter().filter(|request| request.is_finished()).count() == 3).await;
    for request in requests {
        if !request.is_finished() {
            waiting.push(request);
            continue;
        }
        let response = within(request).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.body().bytes(), r#"{"error":"invalid_token"}"#);
        assert_eq!(outcome(&response).not_resent(), Some(NotResent::TooManyWaiting));
        assert_eq!(outcome(&response).attempts(), 1);
        returned += 1;
    }
    assert_eq!((waiting.len(), returned), (2, 3));
    refresh.open();
    for request in waiting {
        assert_eq!(within(request).await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_waits_for_nothing_and_needs_no_place() {
    let world = revoked(1).await;
    let answers = world.api.hold(Phase::Answer);
    let mut requests = [(); 2].map(|()| task::spawn(world.client.clone().oneshot(get("/me"))));
    for request in &mut requests {
        assert_pending!(request.poll());
    }
    answers.open();
    let [mut first, late] = requests;
    assert_pending!(first.poll());
    // The refresh is over, and the first one has its place until it is polled.
    world.session.token().await.unwrap();
    let response = within(late).await.unwrap();
    assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
    assert_eq!(within(first).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_again_takes_no_place_from_what_can_be() {
    let world = World::new();
    let api = world.api.clone().refusal(Refusal::ForbiddenCode(10006));
    let layer = TokenRefreshLayer::new(world.session.clone(), origin()).max_held(1).unwrap();
    let client = layer.resend_if(|method, _, _| method == Method::GET).layer(api);
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let refresh = world.authority.hold(Endpoint::Refresh);
    let upload = within(client.clone().oneshot(post("/echo", "hello"))).await.unwrap();
    assert_eq!(outcome(&upload).not_resent(), Some(NotResent::Forbidden), "at once");
    let mut other = task::spawn(client.oneshot(get("/me")));
    assert_pending!(other.poll());
    refresh.open();
    assert_eq!(within(other).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_makes_room_for_another() {
    let world = revoked(1).await;
    let answers = world.api.hold(Phase::Answer);
    let refresh = world.authority.hold(Endpoint::Refresh);
    let mut requests = [(); 3].map(|()| Some(task::spawn(world.client.clone().oneshot(get("/me")))));
    for request in requests.iter_mut().flatten() {
        assert_pending!(request.poll());
    }
    answers.open();
    let [first, second, third] = &mut requests;
    assert_pending!(first.as_mut().unwrap().poll());
    within(refresh.waiting(1)).await;
    drop(first.take());
    // Its place is free; the one after that finds none.
    assert_pending!(second.as_mut().unwrap().poll());
    let response = within(third.take().unwrap()).await.unwrap();
    assert_eq!(outcome(&response).not_resent(), Some(NotResent::TooManyWaiting));
    refresh.open();
    assert_eq!(within(second.take().unwrap()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_leaves_nothing_of_itself_in_its_future() {
    let session = numbered().0.build();
    session.token().await.unwrap();
    let broken = service_fn(|_: Request<ReplayBody<ModelBody>>| async {
        Err::<Response<ModelBody>, _>(BoxError::from("reset"))
    });
    let mut client = TokenRefreshLayer::new(session, origin()).layer(broken);
    let mut request = get("/me");
    let mark = Arc::new(());
    request.extensions_mut().insert(mark.clone());
    let mut kept = Box::pin(client.call(request));
    within(&mut kept).await.unwrap_err();
    assert_eq!(Arc::strong_count(&mark), 1);
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_waiter_is_free_again_however_its_wait_ended() {
    let world = revoked(1).await;
    for _ in 0..3 {
        world.authority.revoke_access();
        let response = world.get("/me").await.unwrap();
        assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
    }
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, ""));
    world.authority.revoke_access();
    let mut kept = Vec::new();
    for _ in 0..3 {
        // Polled to its end and kept: what has ended holds nothing.
        let mut request = Box::pin(world.client.clone().call(get("/me")));
        let response = within(&mut request).await.unwrap();
        assert_eq!(outcome(&response).not_resent(), Some(NotResent::RefreshFailed));
        kept.push(request);
    }
    world.authority.heal(Endpoint::Refresh);
    let response = world.get("/me").await.unwrap();
    assert_eq!(response.extensions().get::<Outcome>().map(Outcome::attempts), Some(2));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_being_sent_again_has_given_its_place_back() {
    let world = revoked(1).await;
    let answers = world.api.hold_path(Phase::Answer, "/slow");
    answers.let_through(1);
    let slow = tokio::spawn(world.client.clone().oneshot(get("/slow")));
    within(answers.arrived(2)).await;
    world.authority.revoke_access();
    let response = world.get("/me").await.unwrap();
    assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
    answers.open();
    assert_eq!(within(slow).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn layers_that_were_made_from_one_another_count_for_themselves() {
    let world = revoked(1).await;
    let unlimited = TokenRefreshLayer::new(world.session.clone(), origin());
    let limited = unlimited.clone().max_held(1).unwrap();
    let answers = world.api.hold(Phase::Answer);
    let refresh = world.authority.hold(Endpoint::Refresh);
    let mut requests =
        [unlimited, limited].map(|layer| task::spawn(layer.layer(world.api.clone()).oneshot(get("/me"))));
    for request in &mut requests {
        assert_pending!(request.poll());
    }
    answers.open();
    for request in &mut requests {
        assert_pending!(request.poll());
    }
    refresh.open();
    for request in requests {
        assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    }
}
