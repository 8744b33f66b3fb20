//! The second attempt: when it comes, and that nothing comes after it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, SET_COOKIE},
};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock;
use tower_token_refresh::{
    FetchContext, FetchError, NotResent, Outcome, ReplayBody, Session, SkipRefresh, Token, TokenRefreshLayer,
    body::NotReplayable,
    event::Event,
    source_fn,
    test_util::{ModelAuthority, ModelBody, Phase, Refusal, Route},
};

use crate::{
    script::{Lab, Reset, ToMock, numbered, outcome, status, within},
    world::{World, get, origin, post},
};

#[tokio::test(start_paused = true)]
async fn a_first_refusal_leads_to_one_refresh_and_one_resend() {
    for refusal in
        [Refusal::Unauthorized, Refusal::Status(StatusCode::FORBIDDEN), Refusal::ForbiddenCode(10006)]
    {
        let world = World::revoked().await;
        let _ = world.api.clone().refusal(refusal);
        let response = world.send(post("/echo", "hello")).await.unwrap();
        assert_eq!((response.status(), &**response.body().bytes()), (StatusCode::OK, &b"hello"[..]));
        assert_eq!((world.api.requests().len(), world.authority.counts().refreshes), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_outside_sees_one_call_and_the_cookie_of_the_resend() {
    let cookie = |answer: Result<Response<ModelBody>, Reset>, value: &'static str| {
        let mut response = answer.unwrap();
        response.headers_mut().insert(SET_COOKIE, HeaderValue::from_static(value));
        Ok(response)
    };
    for has_token in [false, true] {
        let lab = Lab::new([cookie(status(401), "of=the-refusal"), cookie(status(200), "of=the-resend")]);
        if has_token {
            lab.session.token().await.unwrap();
        }
        let (calls, jar) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, kept) = (calls.clone(), jar.clone());
        let outside = lab.client.clone().map_request(move |request: Request<ModelBody>| {
            counted.fetch_add(1, Ordering::Relaxed);
            request
        });
        let outside = outside.map_response(move |response: Response<ModelBody>| {
            kept.lock().unwrap().extend(response.headers().get_all(SET_COOKIE).iter().cloned());
            response
        });
        assert_eq!(within(outside.oneshot(get("/me"))).await.unwrap().status(), StatusCode::OK);
        assert_eq!((calls.load(Ordering::Relaxed), lab.sent().len()), (1, 2));
        assert_eq!(*jar.lock().unwrap(), ["of=the-resend"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_refusal_is_final_and_comes_back_whole() {
    let refusal = |number: u16| {
        Ok(Response::builder()
            .status(if number == 1 { 401 } else { 403 })
            .header("www-authenticate", format!(r#"Bearer realm="{number}""#))
            .header("x-number", number)
            .body(ModelBody::from(format!("refusal {number}")))
            .unwrap())
    };
    let lab = Lab::new([refusal(1), refusal(2)]);
    let response = lab.send(post("/orders", "an order")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.headers()["www-authenticate"], r#"Bearer realm="2""#);
    assert_eq!((response.headers().len(), &response.headers()["x-number"]), (2, &2.into()));
    assert_eq!(response.body().bytes(), "refusal 2");
    let outcome = outcome(&response);
    assert_eq!((outcome.attempts(), outcome.is_refused(), outcome.not_resent()), (2, true, None));
    assert_eq!((lab.sent().len(), lab.fetches()), (2, 2));
    // Nobody is logged out by it, and nothing is fetched for it afterwards.
    assert_eq!(lab.session.token().await.unwrap().access().expose(), "token-2");
    assert_eq!(lab.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_resend_brings_is_final() {
    for code in [200, 204, 302, 400, 404, 407, 429, 500, 503] {
        let lab = Lab::new([status(403), status(code)]);
        let response = lab.send(get("/me")).await.unwrap();
        assert_eq!(response.status(), code);
        let outcome = outcome(&response);
        assert_eq!((outcome.attempts(), outcome.is_refused(), outcome.not_resent()), (2, false, None));
        assert_eq!((lab.sent().len(), lab.fetches()), (2, 2), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_error_of_the_resend_is_final_and_the_services_own() {
    let lab = Lab::new([status(401), Err(Reset), status(200)]);
    let failure = lab.send(post("/orders", "an order")).await.unwrap_err();
    assert_eq!(failure.downcast_ref(), Some(&Reset));
    assert_eq!((lab.sent().len(), lab.fetches()), (2, 2));
    // The new token is none the worse for it.
    let response = lab.send(get("/me")).await.unwrap();
    assert!(response.extensions().is_empty());
    assert_eq!(lab.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_for_the_resend_ends_the_request() {
    let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
    let (builder, fetches) = numbered();
    let mut client = TokenRefreshLayer::new(builder.build(), origin()).layer(mock);
    let request = client.ready().await.unwrap().call(get("/me"));
    let request = tokio::spawn(request);
    let (_, answer) = within(handle.next_request()).await.unwrap();
    handle.send_error(Reset);
    answer.send_response(status(401).unwrap());
    let failure = within(request).await.unwrap().unwrap_err();
    assert_eq!(failure.downcast_ref(), Some(&Reset));
    assert_eq!(fetches.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_marked_skip_refresh_gets_its_refusal_at_once() {
    for code in [401, 403] {
        let refusal = Response::builder().status(code).body(ModelBody::from("no")).unwrap();
        let lab = Lab::new([Ok(refusal), status(code), status(200)]);
        lab.session.token().await.unwrap();
        let mut request = post("/orders", "an order");
        request.extensions_mut().insert(SkipRefresh);
        let response = lab.send(request).await.unwrap();
        assert_eq!((response.status().as_u16(), &**response.body().bytes()), (code, &b"no"[..]));
        assert!(response.extensions().is_empty());
        assert_eq!(lab.sent()[0].authorization(), ["Bearer token-1"]);
        assert_eq!((lab.sent().len(), lab.fetches()), (1, 1));
        // The mark is one request's affair: the next one is refreshed.
        assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::OK);
        assert_eq!((lab.sent().len(), lab.fetches()), (3, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_shows_in_events_and_outcome_only() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let heard = log.clone();
    let accepted = Response::builder()
        .header("x-from", "the resend")
        .extension(7_u8)
        .body(ModelBody::from("accepted"))
        .unwrap();
    let lab = Lab::with(
        [status(403), Ok(accepted)],
        |session| {
            session.observer(move |event: &Event<'_>| {
                heard.lock().unwrap().push(match event {
                    Event::Issued { old, new, .. } => (*old, *new),
                    other => panic!("nothing else happens: {other:?}"),
                });
            })
        },
        |layer| layer,
    );
    let response = lab.send(get("/me")).await.unwrap();
    assert_eq!((response.status(), &**response.body().bytes()), (StatusCode::OK, &b"accepted"[..]));
    assert_eq!(
        (response.headers().len(), &response.headers()["x-from"]),
        (1, &"the resend".parse().unwrap())
    );
    assert_eq!((response.extensions().len(), response.extensions().get()), (2, Some(&7_u8)));
    let log = log.lock().unwrap();
    let [(None, first), (Some(old), new)] = log[..] else { panic!("two tokens were issued: {log:?}") };
    assert_eq!((old, outcome(&response).generation()), (first, new));
}

#[tokio::test(start_paused = true)]
async fn a_recovery_takes_one_refresh_and_one_resend_longer() {
    const SEND: Duration = Duration::from_millis(80);
    const FETCH: Duration = Duration::from_millis(300);
    let session = Session::builder(source_fn(|_: FetchContext| async {
        sleep(FETCH).await;
        Ok::<_, FetchError>(Token::new("new"))
    }))
    .build();
    session.login(Token::new("old")).await.unwrap();
    let inner = tower::service_fn(|request: Request<ReplayBody<ModelBody>>| async move {
        sleep(SEND).await;
        let is_old = request.headers()[AUTHORIZATION] == "Bearer old";
        Ok::<_, Infallible>(status(if is_old { 401 } else { 200 }).unwrap())
    });
    let client = TokenRefreshLayer::new(session, origin()).layer(inner);
    for (expected, case) in [(SEND + FETCH + SEND, "a recovery"), (SEND, "an accepted request")] {
        let began = Instant::now();
        let response = client.clone().oneshot(post("/orders", "an order")).await.unwrap();
        assert_eq!((response.status(), began.elapsed()), (StatusCode::OK, expected), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_follows_from_the_one_before() {
    let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
    let session = numbered().0.build();
    session.token().await.unwrap();
    let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
    let mut request = task::spawn(client.ready().await.unwrap().call(get("/me")));
    // It is sent by the call itself.
    let (sent, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(sent.headers()[AUTHORIZATION], "Bearer token-1");
    assert_pending!(request.poll());
    answer.send_response(status(401).unwrap());
    assert!(request.is_woken());
    assert_pending!(request.poll());
    assert!(handle.poll_request().is_pending(), "the refresh comes first");
    session.token().await.unwrap();
    assert!(request.is_woken());
    assert_pending!(request.poll());
    let (sent, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(sent.headers()[AUTHORIZATION], "Bearer token-2");
    answer.send_response(status(401).unwrap());
    assert!(request.is_woken());
    assert_eq!(within(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(handle.poll_request().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_of_a_replaced_token_costs_no_fetch() {
    let world = World::with(ModelAuthority::new().newest_only(), |session| session, |layer| layer);
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    // Refused with the old token, but the answer is on its way for long.
    let gate = world.api.hold_path(Phase::Answer, "/late");
    let late = tokio::spawn(world.client.clone().oneshot(post("/late", "hello")));
    within(gate.waiting(1)).await;
    assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
    gate.open();
    let response = within(late).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(outcome(&response).attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 1, "the fresh token is not thrown away");
    assert_eq!(world.get("/me").await.unwrap().extensions().get::<Outcome>(), None);
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_of_what_cannot_be_resent_is_returned_although_there_is_a_better_token() {
    type Layers = fn(TokenRefreshLayer) -> TokenRefreshLayer;
    let forbidden: Layers = |layer| layer.resend_if(|method, _, _| method != "POST");
    for (layer, reason) in [
        (forbidden, NotResent::Forbidden),
        (TokenRefreshLayer::without_replay, NotResent::Body(NotReplayable::TooLarge)),
    ] {
        let world = World::with(ModelAuthority::new().newest_only(), |session| session, layer);
        world.session.token().await.unwrap();
        world.authority.revoke_access();
        let gate = world.api.hold_path(Phase::Answer, "/late");
        let late = tokio::spawn(world.client.clone().oneshot(post("/late", "an order")));
        within(gate.waiting(1)).await;
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
        let sent = world.api.requests().len();
        gate.open();
        let response = within(late).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!((outcome(&response).attempts(), outcome(&response).not_resent()), (1, Some(reason)));
        assert_eq!(world.api.requests().len(), sent, "nothing was sent after the refusal");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_token_replaced_by_hand_costs_no_fetch() {
    let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
    let (builder, fetches) = numbered();
    let session = builder.build();
    session.token().await.unwrap();
    let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
    let request = tokio::spawn(client.ready().await.unwrap().call(get("/me")));
    let (_, answer) = within(handle.next_request()).await.unwrap();
    session.replace(Token::new("by-hand")).await.unwrap();
    answer.send_response(status(401).unwrap());
    let (sent, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(sent.headers()[AUTHORIZATION], "Bearer by-hand");
    answer.send_response(status(200).unwrap());
    within(request).await.unwrap().unwrap();
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn no_request_is_sent_more_than_twice_however_often_it_is_refused() {
    let world = World::new();
    let api = world.api.clone().route("/never", Route::Always(Refusal::Unauthorized));
    for _ in 0..10 {
        let before = api.requests().len();
        let response = world.send(post("/never", "an order")).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(outcome(&response).is_refused());
        assert!(api.requests().len() - before <= 2);
        assert_eq!(usize::from(outcome(&response).attempts()), api.requests().len() - before);
    }
    assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK, "others go on");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_what_cannot_be_resent_costs_a_bounded_number_of_fetches() {
    type Layers = fn(TokenRefreshLayer) -> TokenRefreshLayer;
    let forbidden: Layers = |layer| layer.resend_if(|method, _, _| method != "POST");
    for layer in [forbidden, TokenRefreshLayer::without_replay] {
        let world = World::with(ModelAuthority::new(), |session| session, layer);
        let _ = world.api.clone().route("/never", Route::Always(Refusal::Unauthorized));
        for _ in 0..50 {
            let response = world.send(post("/never", "an order")).await.unwrap();
            assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::UNAUTHORIZED, 1));
            // What it has started ends before the next request.
            world.session.settle().await.unwrap();
        }
        // The second, because nobody can know from one refusal that the new token was not revoked as well.
        assert_eq!(world.authority.counts().refreshes, 2);
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK, "others go on");
        // A real revocation is recovered from once the damper's window is over.
        tokio::time::advance(Duration::from_secs(5)).await;
        world.authority.revoke_access();
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
    }
}
