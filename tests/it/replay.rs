//! The body of the second attempt, and what happens where there can be none.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use tokio::sync::mpsc;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};
use tower_test::mock;
use tower_token_refresh::{
    BoxError, Classify, Error, ErrorKind, FetchContext, FetchError, NoToken, NotResent, Placement,
    RefreshFailure, ReplayBody, Session, SkipRefresh, Standard, Token, TokenRefresh, TokenRefreshLayer,
    body::{NotReplayable, Rebuild},
    classify::Answer,
    source_fn,
    test_util::{Endpoint, Failure, Gate, ModelAuthority, ModelBody, Refusal, Route, Upload},
};

use crate::{
    script::{Lab, Reset, Sent, ToMock, chunked, numbered, outcome, status, until, within},
    world::{API, World, get, origin, post},
};

const LIMIT: usize = 1000;

fn limited(layer: TokenRefreshLayer) -> TokenRefreshLayer {
    layer.replay_limit(LIMIT).unwrap()
}

/// Bytes of which no two stretches are alike.
fn pattern(length: usize) -> &'static [u8] {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>().leak()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("x-digest".parse().unwrap(), HeaderValue::from_static("abcd"))])
}

fn posting<B>(body: B) -> Request<B> {
    Request::post(API).body(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_within_the_limit_is_sent_twice_byte_for_byte() {
    for length in [0, 1, 2, LIMIT - 1, LIMIT] {
        let bytes = pattern(length);
        let check = |sent: Vec<Sent>, hint, trailers: Option<&HeaderMap>| {
            assert_eq!(sent.len(), 2, "{length} bytes");
            for sent in &sent {
                assert_eq!((&*sent.body, sent.trailers.as_ref()), (bytes, trailers), "{length} bytes");
                assert_eq!(sent.hint.exact(), hint, "what a content-length is made of");
            }
        };
        let lab = Lab::with([status(401), status(200)], |session| session, limited);
        lab.send(posting(Full::<Bytes>::from(bytes))).await.unwrap();
        check(lab.sent(), Some(length as u64), None);
        for chunk in [1, 100, LIMIT] {
            let lab = Lab::with([status(401), status(200)], |session| session, limited);
            lab.send(posting(chunked(bytes.chunks(chunk), None))).await.unwrap();
            check(lab.sent(), None, None);
        }
        if length + 100 <= LIMIT {
            let lab = Lab::with([status(401), status(200)], |session| session, limited);
            lab.send(posting(chunked(bytes.chunks(100), Some(trailers())))).await.unwrap();
            check(lab.sent(), None, Some(&trailers()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_limit_is_sent_once_whole_and_the_caller_is_told_why() {
    let bytes = pattern(LIMIT + 1);
    let refusal = || Ok(Response::builder().status(401).body(ModelBody::from("why not")).unwrap());
    for chunk in [None, Some(1), Some(100), Some(LIMIT)] {
        let lab = Lab::with([refusal(), status(200)], |session| session, limited);
        let response = match chunk {
            None => lab.send(posting(Full::<Bytes>::from(bytes))).await,
            Some(chunk) => lab.send(posting(chunked(bytes.chunks(chunk), None))).await,
        }
        .unwrap();
        assert_eq!(
            (response.status(), &**response.body().bytes()),
            (StatusCode::UNAUTHORIZED, &b"why not"[..])
        );
        let outcome = outcome(&response);
        assert_eq!((outcome.attempts(), outcome.is_refused()), (1, true));
        assert_eq!(outcome.not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
        assert_eq!((lab.sent().len(), &*lab.sent()[0].body), (1, bytes), "whole, and once");

        // The token is refreshed for the next request all the same.
        assert!(lab.send(get("/me")).await.unwrap().extensions().is_empty());
        assert_eq!(lab.sent()[1].authorization(), ["Bearer token-2"]);
        assert_eq!(lab.fetches(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_limit_that_is_accepted_passes_whole() {
    let bytes = pattern(100 * LIMIT);
    let lab = Lab::with([status(200)], |session| session, limited);
    let body = chunked(bytes.chunks(4096), Some(trailers()));
    assert!(lab.send(posting(body)).await.unwrap().extensions().is_empty());
    assert_eq!((&*lab.sent()[0].body, &lab.sent()[0].trailers), (bytes, &Some(trailers())));
}

#[tokio::test(start_paused = true)]
async fn trailers_that_do_not_fit_make_a_body_that_is_sent_once() {
    let lab = Lab::with([status(401)], |session| session, limited);
    let body = chunked([pattern(LIMIT)], Some(trailers()));
    let response = lab.send(posting(body)).await.unwrap();
    assert_eq!(outcome(&response).not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
    assert_eq!(lab.sent()[0].trailers, Some(trailers()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_caller_can_rebuild_is_resent_whatever_its_size() {
    let bytes = pattern(10 * LIMIT);
    type Layers = fn(TokenRefreshLayer) -> TokenRefreshLayer;
    for layer in [limited as Layers, TokenRefreshLayer::without_replay] {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let rebuild = Rebuild::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Full::<Bytes>::from(bytes)
        });
        let request = || {
            let mut request = posting(Full::<Bytes>::from(bytes));
            request.extensions_mut().insert(rebuild.clone());
            request
        };
        let lab = Lab::with([status(401), status(200), status(200)], |session| session, layer);
        assert_eq!(lab.send(request()).await.unwrap().status(), StatusCode::OK);
        assert_eq!(made.load(Ordering::Relaxed), 1);
        lab.send(request()).await.unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 1, "an accepted body is not made again");
        for sent in lab.sent() {
            assert_eq!((&*sent.body, sent.hint.exact()), (bytes, Some(bytes.len() as u64)));
        }
        assert_eq!(lab.sent().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn without_replay_only_requests_without_a_body_are_resent() {
    let lab = Lab::with(
        [status(401), status(200), status(401), status(401)],
        |session| session,
        TokenRefreshLayer::without_replay,
    );
    assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::OK);
    assert_eq!((lab.sent().len(), lab.fetches()), (2, 2));
    for response in [
        lab.send(post("/", "x")).await.unwrap(),
        lab.send(posting(chunked([&b"x"[..]], None))).await.unwrap(),
    ] {
        assert_eq!(outcome(&response).not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
        assert_eq!(lab.sent().pop().unwrap().body, "x");
    }
    assert_eq!(lab.sent().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn without_replay_an_upload_that_nobody_has_read_is_not_sent_again_either() {
    let (builder, _) = numbered();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let inner = tower::service_fn(move |_: Request<ReplayBody<_>>| {
        count.fetch_add(1, Ordering::Relaxed);
        async { status(401) }
    });
    let client = TokenRefreshLayer::new(builder.build(), origin()).without_replay().layer(inner);
    let response = within(client.oneshot(posting(chunked([&b"x"[..]], None)))).await.unwrap();
    assert_eq!(outcome(&response).not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_predicate_is_not_asked_about_a_request_of_which_nothing_is_kept() {
    let lab = Lab::with(
        [status(401), status(401), status(401)],
        |session| session,
        |layer| {
            let layer = layer.without_replay().resend_if(|_, _, _| unreachable!("nothing is kept"));
            layer.classifier(|answer: &Answer<'_>| Standard.classify(answer))
        },
    );
    for response in [
        lab.send(posting(Full::<Bytes>::from("an order"))).await,
        lab.send(post("/orders", "an order")).await,
        lab.send(posting(chunked([&b"an order"[..]], None))).await,
    ] {
        let reason = outcome(&response.unwrap()).not_resent();
        assert_eq!(reason, Some(NotResent::Body(NotReplayable::TooLarge)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_extensions_of_a_request_of_which_nothing_is_kept_are_not_cloned() {
    #[derive(Default)]
    struct Counted(Arc<AtomicUsize>);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::Relaxed);
            Counted(self.0.clone())
        }
    }
    let clones = Arc::new(AtomicUsize::new(0));
    let lab = Lab::with([status(200)], |session| session, TokenRefreshLayer::without_replay);
    let mut upload = posting(chunked([&b"an upload"[..]], None));
    upload.extensions_mut().insert(Counted(clones.clone()));
    lab.send(upload).await.unwrap();
    assert_eq!(clones.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn every_method_is_resent_by_default() {
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "x-own"] {
        let lab = Lab::new([status(401), status(200)]);
        let request = Request::builder().method(method).uri(API).body(ModelBody::from("x")).unwrap();
        assert_eq!(lab.send(request).await.unwrap().status(), StatusCode::OK);
        assert_eq!((lab.sent().len(), lab.sent()[1].head.method.as_str()), (2, method));
    }
}

#[tokio::test(start_paused = true)]
async fn a_predicate_on_the_head_can_forbid_the_resend() {
    let query = Placement::query("access_token").unwrap();
    let lab = Lab::with(
        [status(401), status(200), status(403), status(200), status(401), status(200)],
        |session| session.placement(query),
        |layer| {
            layer.resend_if(|method, uri, headers| {
                assert_eq!(uri.query(), None, "it sees the caller's own head");
                method != Method::POST || headers.contains_key("idempotency-key")
            })
        },
    );
    let response = lab.send(post("/orders", "an order")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(outcome(&response).not_resent(), Some(NotResent::Forbidden));
    assert_eq!(outcome(&response).attempts(), 1);
    // Refreshed all the same: the next request is accepted at once.
    assert!(lab.send(get("/me")).await.unwrap().extensions().is_empty());
    assert_eq!((lab.sent().len(), lab.fetches()), (2, 2));
    // Methods and heads that it allows are resent, once the new token is old enough to be doubted.
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::OK);
    let mut keyed = post("/orders", "an order");
    keyed.headers_mut().insert("idempotency-key", HeaderValue::from_static("1"));
    assert_eq!(lab.send(keyed).await.unwrap().status(), StatusCode::OK);
    assert_eq!((lab.sent().len(), lab.fetches()), (6, 4));
}

/// Nobody is kept from a token that is only suspected: a retry at once would be refused with it again.
#[tokio::test(start_paused = true)]
async fn a_403_that_is_not_resent_comes_back_when_a_retry_finds_the_new_token() {
    let body = NotResent::Body(NotReplayable::TooLarge);
    for (reason, fails) in [(body, false), (body, true), (NotResent::Forbidden, false)] {
        let world = World::new();
        let layer = TokenRefreshLayer::new(world.session.clone(), origin());
        let layer = if reason == body { limited(layer) } else { layer.resend_if(|_, _, _| false) };
        let client = layer.layer(world.api.clone().refusal(Refusal::ForbiddenCode(10006)));
        let upload = || client.clone().oneshot(posting(ModelBody::from(pattern(LIMIT + 1))));
        world.session.token().await.unwrap();
        world.authority.revoke_access();
        if fails {
            world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
        }
        let refresh = world.authority.hold(Endpoint::Refresh);
        let mut first = task::spawn(upload());
        assert_pending!(first.poll());
        within(refresh.waiting(1)).await;
        assert_pending!(first.poll(), "{reason:?}");
        refresh.open();
        let response = within(first).await.unwrap();
        assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::FORBIDDEN, 1));
        assert_eq!(outcome(&response).not_resent(), Some(reason));
        assert_eq!(response.extensions().get::<RefreshFailure>().is_some(), fails);
        let retried = within(upload()).await.unwrap().status();
        assert_eq!(retried, if fails { StatusCode::FORBIDDEN } else { StatusCode::OK });
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_never_resent_is_refreshed_for_at_each_real_refusal_and_seldom_where_it_is_always_refused() {
    let never = |layer: TokenRefreshLayer| layer.resend_if(|_, _, _| false);
    let lab = Lab::with([], |session| session, never);
    for round in 1..20 {
        lab.answers([status(200), status(403)]);
        for _ in 0..2 {
            lab.send(post("/orders", "an order")).await.unwrap();
        }
        until(|| lab.fetches() == round + 1).await;
        tokio::time::advance(Duration::from_secs(50)).await;
    }

    let lab = Lab::with([], |session| session, never);
    for _ in 0..3600 {
        lab.answers([status(403)]);
        let response = lab.send(post("/orders", "an order")).await.unwrap();
        assert_eq!(outcome(&response).not_resent(), Some(NotResent::Forbidden));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // 2, 4, 8, 16, 32 and then 60 s apart, as where requests are resent.
    assert!(lab.fetches() <= 67, "{} fetches in an hour", lab.fetches());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_resent_is_told_why_there_will_be_no_new_token() {
    let patience = |text| FetchError::transient(text).retry_after(Duration::from_secs(60));
    // Later on it looks into the store whether there is something to go on with.
    let waits = [0, 6].map(Duration::from_secs);
    for ((failure, kind), wait) in [
        (FetchError::login_required as fn(&'static str) -> FetchError, ErrorKind::LoginRequired),
        (patience, ErrorKind::Transient),
    ]
    .into_iter()
    .flat_map(|failure| waits.map(|wait| (failure, wait)))
    {
        let fetches = AtomicUsize::new(0);
        let source = source_fn(move |_: FetchContext| {
            let is_first = fetches.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if is_first { Ok(Token::new("token-1")) } else { Err(failure("no more")) } }
        });
        let session = Session::builder(source).build();
        session.token().await.unwrap();
        session.refresh().await.unwrap_err();
        tokio::time::sleep(wait).await;
        let lab = Lab::new([status(401), status(401)]);
        let layer = limited(TokenRefreshLayer::new(session, origin()));
        for (layer, reason) in [
            (layer.clone(), NotResent::Body(NotReplayable::TooLarge)),
            (layer.resend_if(|_, _, _| false), NotResent::Forbidden),
        ] {
            let length = if reason == NotResent::Forbidden { 1 } else { LIMIT + 1 };
            let result =
                within(layer.layer(lab.script()).oneshot(posting(Full::<Bytes>::from(pattern(length)))))
                    .await;
            assert_eq!(Error::of(&result).map(Error::kind), Some(kind));
            assert_eq!(outcome(&result.unwrap()).not_resent(), Some(reason));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_resent_after_a_logout_is_told_of_that() {
    let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
    let session = numbered().0.build();
    session.token().await.unwrap();
    let client = TokenRefreshLayer::new(session.clone(), origin()).resend_if(|_, _, _| false).layer(mock);
    let mut call = task::spawn(client.oneshot(post("/orders", "an order")));
    assert_pending!(call.poll());
    let (_, answer) = within(handle.next_request()).await.unwrap();
    session.logout().await.unwrap();
    answer.send_response(status(401).unwrap());
    let result = within(call).await;
    assert_eq!(Error::of(&result).map(Error::kind), Some(ErrorKind::SessionEnded));
    assert_eq!(outcome(&result.unwrap()).not_resent(), Some(NotResent::Forbidden));
}

#[tokio::test(start_paused = true)]
async fn the_refused_response_is_gone_before_the_service_is_asked_for_readiness() {
    #[derive(Debug)]
    struct Held {
        _until_dropped: Arc<()>,
    }

    impl Body for Held {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }
    }

    let held = Arc::new(());
    let (mock, mut handle) = mock::pair::<Request<ReplayBody<ModelBody>>, Response<Held>>();
    let session = numbered().0.build();
    session.token().await.unwrap();
    let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
    handle.allow(1);
    let mut request = task::spawn(client.ready().await.unwrap().call(get("/me")));
    let (_, answer) = within(handle.next_request()).await.unwrap();
    let mut refusal = Response::new(Held { _until_dropped: held.clone() });
    *refusal.status_mut() = StatusCode::UNAUTHORIZED;
    answer.send_response(refusal);
    assert_pending!(request.poll());
    assert_eq!(Arc::strong_count(&held), 2, "kept while the refresh runs");
    session.token().await.unwrap();
    assert_pending!(request.poll());
    assert_eq!(Arc::strong_count(&held), 1, "the service is not ready, and may wait for this very response");
    handle.allow(1);
    assert_pending!(request.poll());
    let (_, answer) = within(handle.next_request()).await.unwrap();
    answer.send_response(Response::new(Held { _until_dropped: held.clone() }));
    within(request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_refused_early_is_cut_off_before_the_service_is_asked_for_readiness() {
    let (mock, mut handle) = mock::pair();
    let session = numbered().0.build();
    session.token().await.unwrap();
    let mut client = limited(TokenRefreshLayer::new(session.clone(), origin())).layer(mock);
    let gate = Gate::new();
    let (bytes, request) = upload(&gate);
    handle.allow(1);
    let mut request = task::spawn(client.ready().await.unwrap().call(request));
    let (first, answer) = within(handle.next_request()).await.unwrap();
    let first = tokio::spawn(BodyExt::collect(first.into_body()));
    within(gate.waiting(1)).await;
    answer.send_response(status(401).unwrap());
    assert_pending!(request.poll());
    session.token().await.unwrap();
    assert_pending!(request.poll());
    within(first).await.unwrap().expect_err("the service may wait for the connection that has this upload");
    handle.allow(1);
    assert_pending!(request.poll());
    gate.open();
    let (second, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(within(BodyExt::collect(second.into_body())).await.unwrap().to_bytes(), bytes);
    answer.send_response(status(200).unwrap());
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_not_resent() {
    let body = StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from("some"))), Err("disk on fire")]));
    // A server that answers although the body broke off.
    let inner = tower::service_fn(|request: Request<ReplayBody<_>>| async move {
        let error = BodyExt::collect(request.into_body()).await.unwrap_err();
        assert_eq!(error.to_string(), "disk on fire");
        status(401)
    });
    let client = TokenRefreshLayer::new(numbered().0.build(), origin()).layer(inner);
    let response = client.oneshot(posting(body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(outcome(&response).not_resent(), Some(NotResent::Body(NotReplayable::Failed)));
}

/// One request of each kind to the layer, and its body, which waits at the gate.
fn uploads(
    gate: &Gate,
) -> Vec<(&'static str, Request<impl Body<Data = Bytes, Error = Infallible> + Send + use<>>)> {
    let kinds = ["ordinary", "SkipRefresh", "NoToken", "another origin", "a credential of its own"];
    let upload = |kind| {
        let mut request = upload(gate).1;
        match kind {
            "SkipRefresh" => drop(request.extensions_mut().insert(SkipRefresh)),
            "NoToken" => drop(request.extensions_mut().insert(NoToken)),
            "another origin" => *request.uri_mut() = "https://other.test/upload".parse().unwrap(),
            "a credential of its own" => {
                request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Basic eDo="));
            }
            _ => {}
        }
        (kind, request)
    };
    kinds.map(upload).into()
}

type Pump<B> = BoxCloneService<Request<ReplayBody<B>>, Response<ModelBody>, Reset>;

/// What becomes of bodies.
type Told = mpsc::UnboundedReceiver<Result<Bytes, BoxError>>;

/// A client around a service that reads bodies in a task of its own, as hyper does, and answers at once or never.
async fn pumping<B>(has_token: bool, answers: bool) -> (TokenRefresh<Pump<B>>, Told)
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (tell, told) = mpsc::unbounded_channel();
    let inner = tower::service_fn(move |request: Request<ReplayBody<B>>| {
        let tell = tell.clone();
        tokio::spawn(async move { tell.send(request.into_body().collect().await.map(Collected::to_bytes)) });
        async move { if answers { status(200) } else { std::future::pending().await } }
    });
    let session = numbered().0.build();
    if has_token {
        session.token().await.unwrap();
    }
    (TokenRefreshLayer::new(session, origin()).layer(BoxCloneService::new(inner)), told)
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_ends_with_its_caller_whatever_the_request_is_to_the_layer() {
    for has_token in [true, false] {
        let gate = Gate::new();
        for (kind, request) in uploads(&gate) {
            let (client, mut told) = pumping(has_token, false).await;
            let response = tokio::spawn(client.oneshot(request));
            within(gate.waiting(1)).await;
            response.abort();
            within(told.recv()).await.unwrap().expect_err(kind);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_after_its_answer_whatever_the_request_is_to_the_layer() {
    for has_token in [true, false] {
        let gate = Gate::new();
        for (kind, request) in uploads(&gate) {
            let (client, mut told) = pumping(has_token, true).await;
            within(client.oneshot(request)).await.unwrap();
            within(gate.waiting(1)).await;
            gate.let_through(1);
            assert_eq!(within(told.recv()).await.unwrap().expect(kind), pattern(10 * LIMIT));
        }
    }
}

/// An upload of ten times the limit, of which little more than a tenth of the limit comes before the gate.
fn upload(
    gate: &Gate,
) -> (&'static [u8], Request<impl Body<Data = Bytes, Error = Infallible> + Send + use<>>) {
    let bytes = pattern(10 * LIMIT);
    let gate = gate.clone();
    let frames = stream::unfold((bytes.chunks(LIMIT / 8), gate, 0), |(mut chunks, gate, at)| async move {
        if at == 1 {
            gate.pass().await;
        }
        let chunk = Bytes::from_static(chunks.next()?);
        Some((Ok(Frame::data(chunk)), (chunks, gate, at + 1)))
    });
    (bytes, Request::post(format!("{API}/upload")).body(StreamBody::new(Box::pin(frames))).unwrap())
}

/// The API refuses `/upload` before it reads it; the token is revoked.
async fn early(layer: impl FnOnce(TokenRefreshLayer) -> TokenRefreshLayer) -> World {
    let world = World::with(ModelAuthority::new(), |session| session, |to_limit| layer(limited(to_limit)));
    let _ = world.api.clone().route("/upload", Route::RefuseEarly);
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    world
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_refused_early_is_resent_whole_though_it_is_larger_than_the_limit() {
    let world = early(|layer| layer).await;
    let gate = Gate::new();
    let (bytes, request) = upload(&gate);
    let response = tokio::spawn(world.client.clone().oneshot(request));
    // The second attempt has replayed what there was and waits for the rest.
    within(gate.waiting(1)).await;
    until(|| world.api.requests().len() == 2).await;
    gate.open();
    let response = within(response).await.unwrap().unwrap();
    assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
    let [first, second] = &world.api.requests()[..] else { panic!("it is sent twice") };
    assert_eq!((&*second.body, second.upload), (bytes, Upload::Complete));
    assert_eq!(first.upload, Upload::Broken, "the first attempt is cut off");
    assert!(bytes.starts_with(&first.body));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_refused_early_goes_on_however_its_wait_ends() {
    for end in ["failure", "timeout", "no place", "logout", "login"] {
        let world = early(|layer| layer.max_held(1).unwrap()).await;
        let refresh = world.authority.hold(Endpoint::Refresh);
        let mut holder = task::spawn(world.get("/me"));
        if end == "no place" {
            assert_pending!(holder.poll());
        }
        let gate = Gate::new();
        let (bytes, request) = upload(&gate);
        let response = tokio::spawn(world.client.clone().oneshot(request));
        within(refresh.waiting(1)).await;
        let of_upload = || {
            let mut received = world.api.requests().into_iter();
            received.find(|request| request.head.uri.path() == "/upload").expect("it was sent")
        };
        let not_resent = match end {
            "failure" => {
                world.authority.fail_always(Endpoint::Refresh, Failure::Reset);
                refresh.open();
                NotResent::RefreshFailed
            }
            "no place" => NotResent::TooManyWaiting,
            "logout" => {
                world.session.logout().await.unwrap();
                NotResent::RefreshFailed
            }
            "login" => {
                world.session.login(Token::new("of-another-account")).await.unwrap();
                NotResent::RefreshFailed
            }
            // By its timeout.
            _ => NotResent::RefreshFailed,
        };
        let response = within(response).await.unwrap().unwrap();
        let outcome = outcome(&response);
        assert_eq!((response.status(), outcome.attempts()), (StatusCode::UNAUTHORIZED, 1), "{end}");
        assert_eq!(outcome.not_resent(), Some(not_resent), "{end}");
        gate.open();
        until(|| of_upload().upload != Upload::Open).await;
        assert_eq!((&*of_upload().body, of_upload().upload), (bytes, Upload::Complete), "{end}");
    }
}
