//! Sessions, layers, requests and events.

use std::time::Duration;

use http::{Request, StatusCode};
use tokio_test::task;
use tower::{Layer, Service, ServiceExt};
use tower_token_refresh::{
    BoxError, Challenged, Codes, Error, FetchContext, FetchError, GrpcUnauthenticated, Outcome, Placement,
    RefreshFailure, ReplayBody, Secret, Session, SessionMap, Standard, Statuses, Tips, Token,
    TokenRefreshLayer,
    body::Rebuild,
    classify::{Answer, Classify, Verdict},
    event::Event,
    source_fn,
    store::{MemoryStore, TokenStore},
    test_util::{Endpoint, Failure, ModelApi, ModelAuthority, ModelBody, Phase, Refusal, TestClock},
};

use super::Seen;
use crate::world::{API, get, origin, post};

fn canaries() -> Token {
    Token::new("canary-access")
        .refresh_token("canary-refresh")
        .token_type("canary-type")
        .expires_in(Duration::from_secs(60))
}

/// A session that shows what it is given and what it tells.
fn session(seen: &Seen, placement: Placement, store: impl TokenStore) -> Session {
    let (given, told) = (seen.clone(), seen.clone());
    let source = source_fn(move |cx: FetchContext| {
        given.debug(&cx);
        std::future::ready(match cx.refresh_token() {
            None => Ok(canaries()),
            Some(_) => Err(FetchError::login_required("the grant is over")),
        })
    });
    seen.debug(&source);
    let builder = Session::builder(source)
        .store(store)
        .placement(placement)
        .observer(move |event: &Event<'_>| told.debug(event));
    seen.debug(&builder);
    builder.build()
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_anything_that_we_print() {
    let seen = Seen::default();
    seen.debug(&Secret::from("canary"));
    seen.debug(&canaries());
    let store = MemoryStore::new();
    for placement in [
        Placement::bearer(),
        Placement::basic(),
        Placement::header("x-token").unwrap(),
        Placement::query("access_token").unwrap(),
        Placement::custom(|_, _| Err("refused by the closure".into())),
    ] {
        seen.debug(&placement);
        let session = session(&seen, placement, store.clone());
        let layer = TokenRefreshLayer::new(session.clone(), origin());
        let api = ModelApi::new(ModelAuthority::new());
        let mut client = layer.layer(api.clone());
        let mut changes = session.subscribe();
        seen.debug(&task::spawn(changes.next()).poll());
        session.logout().await.unwrap();
        seen.debug(&task::spawn(changes.next()).poll());
        session.login(canaries()).await.unwrap();
        seen.debug(&task::spawn(changes.next()).poll());
        let future = client.call(post("/", "canary-body"));
        seen.debug(&future);
        seen.debug(&session.token().await.unwrap());
        match future.await {
            Ok(response) => {
                seen.debug(response.extensions().get::<RefreshFailure>().unwrap());
                seen.error(response.extensions().get::<RefreshFailure>().unwrap().error());
                seen.debug(response.extensions().get::<Outcome>().unwrap());
                seen.debug(&response);
                seen.debug(&Error::of(&Ok::<_, BoxError>(response)));
            }
            Err(error) => seen.error(&*error),
        }
        // With nothing left.
        match client.call(get("/")).await {
            Ok(response) => seen.debug(&response),
            Err(error) => seen.error(&*error),
        }
        seen.debug(&task::spawn(changes.next()).poll());
        let unscoped = Request::get("/").body(ModelBody::default()).unwrap();
        seen.debug(&client.call(unscoped).await.unwrap());
        for bad in ["canary\r\nx", "canary:\u{7f}"] {
            // Only a placement of the user's own takes any text.
            for changed in [session.login(Token::new(bad)).await, session.replace(Token::new(bad)).await] {
                if let Err(error) = changed {
                    seen.error(&error);
                }
            }
        }
        seen.debug(&(&session, &layer, &client, &changes));
        seen.debug(&(&api, api.requests()));
    }
    seen.debug(&store);
    seen.debug(&store.load().await.unwrap());
    seen.has_no_canary_among(&[
        "Changes {",
        "FetchContext {",
        "Issued {",
        "Issued(",
        "LoggedOut",
        "LoginRequired",
        "Outcome {",
        "ReceivedRequest {",
        "RefreshFailure(",
        "ResponseFuture {",
        "Secret(..)",
        "Session {",
        "SessionBuilder {",
        "SourceFn",
        "Token {",
        "TokenRefresh {",
        "TokenRefreshLayer {",
        "Unscoped",
    ]);
}

/// The credential is on the request then: the header is marked, and the test kit leaves values out.
#[tokio::test(start_paused = true)]
async fn no_secret_is_in_what_a_request_shows_on_its_way() {
    let seen = Seen::default();
    for placement in [Placement::bearer(), Placement::basic(), Placement::header("x-token").unwrap()] {
        let session = session(&seen, placement, MemoryStore::new());
        let shown = seen.clone();
        let api = ModelApi::new(ModelAuthority::new());
        let below = api.clone().map_request(move |request: Request<ReplayBody<ModelBody>>| {
            shown.debug(&request);
            request
        });
        let layer = TokenRefreshLayer::new(session, origin());
        let mut request = post("/", "canary-body");
        request.extensions_mut().insert(Rebuild::new(|| ModelBody::from("canary-body")));
        seen.debug(&request.extensions().get::<Rebuild<ModelBody>>());
        seen.debug(&layer.layer(below).oneshot(request).await.unwrap());
        seen.debug(&api.requests());
    }
    seen.has_no_canary_among(&["Sensitive", "ReplayBody", "Rebuild", "ReceivedRequest {"]);
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_classifiers_tips_maps_and_the_test_kit() {
    let seen = Seen::default();
    let response = http::Response::builder()
        .status(StatusCode::UNAUTHORIZED)
        .header("www-authenticate", "Bearer error=\"canary\"")
        .body(ModelBody::from("canary"))
        .unwrap();
    let (method, uri) = (http::Method::GET, format!("{API}/?access_token=canary").parse().unwrap());
    let answer = Answer::new(&method, &uri, 1, &response);
    seen.debug(&answer);
    for verdict in [
        Standard.classify(&answer),
        Challenged::new("Bearer").unwrap().classify(&answer),
        Statuses::reject([StatusCode::UNAUTHORIZED]).unwrap().classify(&answer),
        Codes::reject([1_i64]).unwrap().classify(&answer),
        GrpcUnauthenticated.classify(&answer),
    ] {
        seen.debug(&verdict);
    }
    assert_eq!(Standard.classify(&answer), Verdict::Reject);
    let result = Ok::<_, BoxError>(response);
    let tips = Tips::zh();
    seen.debug(&tips.explain(&result));
    seen.display(&tips.explain(&result).unwrap());

    let shown = seen.clone();
    let map = SessionMap::builder(move |_: &&str| session(&shown, Placement::bearer(), MemoryStore::new()));
    seen.debug(&map);
    let map = map.build();
    seen.debug(&map.get(&"canary-account"));
    seen.debug(&map);
    map.get(&"canary-account").token().await.unwrap();
    map.settle().await.unwrap();

    let authority =
        ModelAuthority::new().account("canary-account", "canary-password").clock(TestClock::new());
    let token = authority.login_as("canary-account", "canary-password").await.unwrap();
    let gate = authority.hold(Endpoint::Refresh);
    let refresh = authority.refresh("canary-refresh");
    drop(task::spawn(refresh).poll());
    gate.open();
    authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    seen.debug(&authority.refresh("canary-refresh").await);
    seen.debug(&authority.refresh("canary-refresh").await);
    let api = ModelApi::new(authority.clone()).refusal(Refusal::Errcode(7));
    seen.debug(&(&authority, authority.counts(), authority.requests(), &token, &api, &gate, Phase::Judge));
    seen.has_no_canary_among(&[
        "Answer {",
        "Tip {",
        "SessionMap {",
        "ModelAuthority {",
        "ModelApi {",
        "Counts {",
    ]);
}
