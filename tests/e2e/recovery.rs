//! A refused request is sent again with a new token.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    Outcome,
    test_util::{Endpoint, Phase, Refusal},
};

use crate::kit::{Http, Server, Tracked, World, full, get, pool, post, watched, within};

async fn refused(http: Http, refusal: Refusal) {
    let world = World::revoked(http, |api| api.refusal(refusal)).await;
    let response = world.client().oneshot(post(world.url("/echo?a=1"), full("hello"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let outcome = *response.extensions().get::<Outcome>().unwrap();
    assert_eq!((outcome.attempts(), outcome.is_refused(), outcome.not_resent()), (2, false, None));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.api.requests().len(), 2);
    world.server.idle().await;
}

#[tokio::test]
async fn a_401_over_http1_is_recovered_from() {
    within(refused(Http::One, Refusal::Unauthorized)).await;
}

#[tokio::test]
async fn a_401_over_http2_is_recovered_from() {
    within(refused(Http::Two, Refusal::Unauthorized)).await;
}

#[tokio::test]
async fn a_403_over_http1_is_recovered_from() {
    within(refused(Http::One, Refusal::Status(StatusCode::FORBIDDEN))).await;
}

#[tokio::test]
async fn a_403_over_http2_is_recovered_from() {
    within(refused(Http::Two, Refusal::Status(StatusCode::FORBIDDEN))).await;
}

async fn refused_late(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let client = world.client();
    let gate = world.api.hold_path(Phase::Answer, "/late");
    let late = tokio::spawn(client.clone().oneshot(get(world.url("/late"))));
    gate.waiting(1).await;
    let prompt = client.oneshot(get(world.url("/prompt"))).await.unwrap();
    assert_eq!(prompt.status(), StatusCode::OK);
    gate.open();
    let late = late.await.unwrap().unwrap();
    assert_eq!(late.status(), StatusCode::OK);
    assert_eq!(late.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test]
async fn a_late_refusal_over_http1_costs_no_second_fetch() {
    within(refused_late(Http::One)).await;
}

#[tokio::test]
async fn a_late_refusal_over_http2_costs_no_second_fetch() {
    within(refused_late(Http::Two)).await;
}

async fn hundred_refused(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let client = world.client();
    let gate = world.api.hold(Phase::Answer);
    let mut calls = JoinSet::new();
    for n in 0..100 {
        let body = full(format!("request {n}"));
        calls.spawn(client.clone().oneshot(post(world.url("/echo"), body)));
    }
    gate.waiting(100).await;
    gate.open();
    let mut texts = Vec::new();
    while let Some(response) = calls.join_next().await {
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        texts.push(response.into_body().collect().await.unwrap().to_bytes());
    }
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 100);
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.authority.counts().logins, 1);
    assert_eq!(world.api.requests().len(), 200);
    world.server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_refusals_over_http1_cost_one_fetch() {
    within(hundred_refused(Http::One)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_refusals_over_http2_cost_one_fetch() {
    within(hundred_refused(Http::Two)).await;
}

/// Refusals of which a connection of HTTP/2 has room for a few, while they are held.
async fn hundred_large_refused(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let api = world.api.clone();
    let large = service_fn(move |request: Request<Tracked<Incoming>>| {
        let answer = api.clone().oneshot(request);
        async move {
            let mut response = answer.await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                *response.body_mut() = vec![b'x'; 128 * 1024].into();
            }
            Ok(response)
        }
    });
    let server = Server::start(http, large).await;
    let (layer, mut judged) = watched(world.layer_at(&server));
    let client = layer.layer(pool(http));
    let fetch = world.authority.hold(Endpoint::Refresh);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        calls.spawn(client.clone().oneshot(get(server.url("/"))));
    }
    judged.at_least(100).await;
    fetch.open();
    while let Some(response) = calls.join_next().await {
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().refreshes, 1);
}
#[tokio::test]
async fn a_hundred_large_refusals_over_http1_are_recovered_from_by_a_source_with_its_own_connection() {
    within(hundred_large_refused(Http::One)).await;
}

#[tokio::test]
async fn a_hundred_large_refusals_over_http2_are_recovered_from_by_a_source_with_its_own_connection() {
    within(hundred_large_refused(Http::Two)).await;
}

async fn leader_gone(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let (client, mut judged) = world.watched_client();
    let answers = world.api.hold_path(Phase::Answer, "/follower");
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        calls.spawn(client.clone().oneshot(get(world.url("/follower"))));
    }
    answers.waiting(3).await;
    let fetch = world.authority.hold(Endpoint::Refresh);
    let leader = tokio::spawn(client.oneshot(get(world.url("/leader"))));
    fetch.waiting(1).await;
    answers.open();
    judged.at_least(4).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    fetch.open();
    while let Some(response) = calls.join_next().await {
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().refreshes, 1);
    world.server.idle().await;
}

#[tokio::test]
async fn a_refresh_over_http1_serves_the_others_when_its_leader_is_gone() {
    within(leader_gone(Http::One)).await;
}

#[tokio::test]
async fn a_refresh_over_http2_serves_the_others_when_its_leader_is_gone() {
    within(leader_gone(Http::Two)).await;
}
