//! Several stacks on one session, and several sessions in one stack.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use http::{Request, StatusCode};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, FetchContext, Origin, Placement, Session, TokenRefreshLayer, source_fn,
    test_util::{Endpoint, Failure, Gate, ModelApi, ModelAuthority, ModelBody, Phase},
};

use crate::{
    script::{Lab, numbered, outcome, status, within},
    world::{World, get, origin, post},
};

#[tokio::test(start_paused = true)]
async fn two_stacks_of_one_session_share_one_refresh() {
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).build();
    session.token().await.unwrap();
    authority.revoke_access();
    // A layer with one service and one with two; each of them is cloned as well.
    let apis = [(); 3].map(|()| ModelApi::new(authority.clone()));
    let gates = apis.each_ref().map(|api| api.hold(Phase::Answer));
    let [one, two] = [(); 2].map(|()| TokenRefreshLayer::new(session.clone(), origin()));
    let [first, second, third] = apis.clone();
    let clients = [one.layer(first), two.layer(second), two.layer(third)];
    let requests: Vec<_> = clients
        .iter()
        .flat_map(|client| [client.clone(), client.clone()])
        .map(|client| tokio::spawn(client.oneshot(post("/echo", "hello"))))
        .collect();
    for gate in &gates {
        within(gate.waiting(2)).await;
    }
    gates.iter().for_each(Gate::open);
    for request in requests {
        assert_eq!(within(request).await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(authority.counts().refreshes, 1);
    assert_eq!(apis.map(|api| api.requests().len()), [4; 3]);
}

fn of(session: &Session, mut request: Request<ModelBody>) -> Request<ModelBody> {
    request.extensions_mut().insert(session.clone());
    request
}

#[tokio::test(start_paused = true)]
async fn a_session_on_the_request_takes_the_place_of_the_layers_own() {
    let lab = Lab::new([status(401), status(200), status(200)]);
    let (builder, fetches) = numbered();
    let placement = Placement::header("x-api-key").unwrap();
    let bob = builder.placement(placement).build();
    lab.send(of(&bob, get("/me"))).await.unwrap();
    assert_eq!(lab.fetches(), 0, "nobody asks the layer's session");
    assert_eq!(fetches.load(Ordering::Relaxed), 2);
    lab.send(get("/me")).await.unwrap();
    let sent = lab.sent();
    let keys: Vec<_> = sent.iter().map(|sent| sent.values("x-api-key")).collect();
    assert_eq!(keys, [vec!["token-1"], vec!["token-2"], vec![]]);
    assert_eq!(sent[2].authorization(), ["Bearer token-1"]);
    assert!(sent[0].authorization().is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_identities_through_one_stack_share_nothing() {
    let authority = ModelAuthority::new().account("bob", "builder");
    let source = |account: &'static str, password: &'static str| {
        let authority = authority.clone();
        source_fn(move |cx: FetchContext| {
            let authority = authority.clone();
            async move {
                match cx.refresh_token() {
                    Some(token) => authority.refresh(token.expose()).await,
                    None => authority.login_as(account, password).await,
                }
            }
        })
    };
    let alice = Session::builder(source("alice", "wonderland")).build();
    let bob = Session::builder(source("bob", "builder")).build();
    let api = ModelApi::new(authority.clone());
    let client = TokenRefreshLayer::new(alice.clone(), origin()).layer(api.clone());
    let both = |path: &'static str| {
        let requests = (0..20).map(|at| of(if at % 2 == 0 { &alice } else { &bob }, get(path)));
        let sends = requests.map(|request| client.clone().oneshot(request));
        join_all(sends.collect::<Vec<_>>())
    };
    let check = |responses: Vec<Result<http::Response<ModelBody>, BoxError>>| {
        for (at, response) in responses.into_iter().enumerate() {
            let response = response.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(response.body().bytes()).unwrap();
            assert_eq!(answer["account"], if at % 2 == 0 { "alice" } else { "bob" });
        }
    };
    check(both("/me").await);
    assert_eq!(authority.counts().logins, 2);
    authority.revoke_access();
    check(both("/me").await);
    assert_eq!(authority.counts().refreshes, 2, "one for each identity");
    assert_eq!(authority.counts().presented_again(), 0);

    // The end of one is not the end of the other.
    bob.logout().await.unwrap();
    assert!(client.clone().oneshot(of(&bob, get("/me"))).await.is_err());
    check(vec![client.clone().oneshot(of(&alice, get("/me"))).await]);
}

#[tokio::test(start_paused = true)]
async fn the_failed_refresh_of_one_identity_is_nobody_elses() {
    let world = World::revoked().await;
    world.authority.fail_always(Endpoint::Refresh, Failure::OAuth("invalid_grant"));
    let response = world.get("/me").await.unwrap();
    assert_eq!(outcome(&response).attempts(), 1);
    let other = Session::builder(world.authority.source()).build();
    let response = world.send(of(&other, get("/me"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        world.session.token().await.is_ok_and(|token| !world.authority.is_alive(token.access().expose()))
    );
}

#[tokio::test(start_paused = true)]
async fn layers_for_two_origins_stand_one_on_the_other() {
    let lab = Lab::new([status(401), status(200), status(403), status(200), status(401)]);
    let (builder, fetches) = numbered();
    let other: Origin = "https://other.test".parse().unwrap();
    let placement = Placement::header("x-api-key").unwrap();
    let both = TokenRefreshLayer::new(builder.placement(placement).build(), other).layer(lab.client.clone());
    for uri in ["https://api.test/", "https://other.test/", "https://third.test/"] {
        both.clone().oneshot(Request::post(uri).body(ModelBody::from("hello")).unwrap()).await.unwrap();
    }
    let credentials: Vec<_> = lab
        .sent()
        .iter()
        .map(|sent| [sent.authorization().join(","), sent.values("x-api-key").join(",")])
        .collect();
    let expected =
        [["Bearer token-1", ""], ["Bearer token-2", ""], ["", "token-1"], ["", "token-2"], ["", ""]];
    assert_eq!(credentials, expected);
    assert!(lab.sent().iter().all(|sent| sent.body == "hello"));
    assert_eq!([lab.fetches(), fetches.load(Ordering::Relaxed)], [2, 2]);
}
