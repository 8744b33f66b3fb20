//! How the credential gets on a request.

use std::{
    collections::HashSet,
    convert::Infallible,
    error::Error as _,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header::AUTHORIZATION,
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer};
use tower_test::mock;
use tower_token_refresh::{
    Error, ErrorKind, FetchContext, FetchError, NoToken, Outcome, Placement, RefreshFailure, Session,
    SkipRefresh, Token, TokenRefreshLayer,
    event::Event,
    session::SessionBuilder,
    source_fn,
    store::{MemoryStore, TokenStore},
    test_util::{Credential, Endpoint, Gate, ModelApi, ModelAuthority, ModelBody, TestClock},
};

use crate::{
    script::{Lab, ToMock, filled, numbered, status, within},
    world::{API, World, get, origin, post},
};

#[tokio::test(start_paused = true)]
async fn a_good_token_goes_out_once_and_causes_nothing_else() {
    let lab = Lab::new([status(200)]);
    lab.session.token().await.unwrap();
    let response = lab.send(get("/me")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.extensions().is_empty());
    assert_eq!(lab.sent()[0].authorization(), ["Bearer token-1"]);
    assert_eq!((lab.sent().len(), lab.fetches()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_fetch_and_never_go_out_empty() {
    for (placement, empty) in [(Placement::bearer(), "Bearer "), (Placement::basic(), "Basic Og==")] {
        let world = World::with(ModelAuthority::new(), |session| session.placement(placement), |layer| layer);
        let gate = world.authority.hold(Endpoint::Login);
        // One fetch is on already, as after a start-up; the requests come while it is.
        let start_up = tokio::spawn({
            let session = world.session.clone();
            async move { session.token().await }
        });
        within(gate.waiting(1)).await;
        let mut requests = [(); 3].map(|()| task::spawn(world.client.clone().oneshot(get("/me"))));
        for request in &mut requests {
            assert_pending!(request.poll());
        }
        assert_eq!(world.api.requests().len(), 0, "nothing goes out without a token");
        gate.open();
        for request in requests {
            assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
        }
        within(start_up).await.unwrap().unwrap();
        assert_eq!(world.authority.counts().token_calls(), 1);
        for received in world.api.requests() {
            assert_ne!(received.head.headers[AUTHORIZATION], empty);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_sent_and_the_error_says_why() {
    type Failing = fn() -> FetchError;
    let table: [(Failing, ErrorKind, bool, bool); 3] = [
        (|| FetchError::transient("unreachable"), ErrorKind::Transient, true, false),
        (|| FetchError::configuration("invalid_client"), ErrorKind::Configuration, false, false),
        (|| FetchError::login_required("invalid_grant"), ErrorKind::LoginRequired, false, true),
    ];
    for (failing, kind, is_transient, is_login_required) in table {
        let source = source_fn(move |_: FetchContext| async move { Err::<Token, _>(failing()) });
        let lab = Lab::with([], |_| Session::builder(source), |layer| layer);
        for request in [get("/me"), post("/orders", "an order")] {
            let failure = lab.send(request).await.unwrap_err();
            let error = failure.downcast_ref::<Error>().expect("the error is ours");
            assert_eq!(error.kind(), kind);
            assert_eq!((error.is_transient(), error.is_login_required()), (is_transient, is_login_required));
        }
        assert_eq!(lab.sent().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_logout_nothing_is_sent_and_the_error_asks_for_a_login() {
    let lab = Lab::new([]);
    lab.session.token().await.unwrap();
    lab.session.logout().await.unwrap();
    let failure = lab.send(get("/me")).await.unwrap_err();
    assert_eq!(Error::find(&*failure).unwrap().kind(), ErrorKind::SessionEnded);
    assert_eq!((lab.sent().len(), lab.fetches()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_marked_no_token_goes_bare_and_its_refusal_starts_nothing() {
    for code in [401, 403] {
        let lab = Lab::new([status(code), status(code)]);
        let bare = || {
            let mut request = post("/login", "alice");
            request.extensions_mut().insert(NoToken);
            request
        };
        assert_eq!(lab.send(bare()).await.unwrap().status(), code, "there is no token yet");
        assert_eq!(lab.fetches(), 0);
        lab.session.token().await.unwrap();
        let response = lab.send(bare()).await.unwrap();
        assert_eq!(response.status(), code);
        assert!(response.extensions().is_empty());
        for sent in lab.sent() {
            assert_eq!(sent.authorization(), [""; 0]);
            assert_eq!(sent.body, "alice");
        }
        assert_eq!((lab.sent().len(), lab.fetches()), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_marked_no_token_does_not_wait_for_a_fetch() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let mut waits = task::spawn(world.client.clone().oneshot(get("/me")));
    assert_pending!(waits.poll());
    within(gate.waiting(1)).await;
    let mut login = post("/login", "alice");
    login.extensions_mut().insert(NoToken);
    assert_eq!(world.send(login).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    gate.open();
    assert_eq!(within(waits).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().token_calls(), 1);
}

/// Tokens that cannot be sent; `canary` stands in those that have a text of their own.
fn unsendable() -> Vec<(Placement, &'static str)> {
    let placements = [
        Placement::bearer(),
        Placement::basic(),
        Placement::header("x-api-key").unwrap(),
        Placement::query("access_token").unwrap(),
    ];
    let texts = [
        "",
        "canary\r\nx-admin: 1",
        "canary\n",
        "canary canary",
        "canary\u{7f}",
        "canary\0",
        "canary-\u{e9}",
        "\tcanary",
    ];
    let everywhere = placements.into_iter().flat_map(|p| texts.map(move |text| (p.clone(), text)));
    everywhere
        .chain([(Placement::basic(), "canary:secret"), (Placement::custom(|_, _| Ok(())), "")])
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_sent_is_an_error_that_nobody_sees_the_text_of() {
    for (placement, text) in unsendable() {
        let heard = Arc::new(Mutex::new(String::new()));
        let store = MemoryStore::new();
        let lab = Lab::with(
            [],
            |_| {
                let source = source_fn(move |_: FetchContext| async move { Ok(Token::new(text)) });
                let log = heard.clone();
                Session::builder(source)
                    .placement(placement.clone())
                    .store(store.clone())
                    .observer(move |event: &Event<'_>| log.lock().unwrap().push_str(&format!("{event:?}")))
            },
            |layer| layer,
        );
        let failure = lab.send(get("/me")).await.unwrap_err();
        let error = failure.downcast_ref::<Error>().expect("the error is ours");
        assert_eq!(error.kind(), ErrorKind::InvalidValue, "{placement:?} {text:?}");
        let heard = heard.lock().unwrap().clone();
        assert!(heard.contains("RefreshFailed"), "{heard}");
        let said = format!("{error} {error:?} {:?} {heard}", error.source());
        assert!(!said.contains("canary"), "{said}");
        assert_eq!(lab.sent().len(), 0);
        assert!(store.load().await.unwrap().is_none(), "it is not stored: {placement:?} {text:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_no_room_for_the_credential_is_an_error() {
    let mut request = filled(get("/me"));
    let lab = Lab::new([status(401), status(200)]);
    for _ in 0..2 {
        let error = lab.send(request.clone()).await.unwrap_err();
        assert_eq!(Error::find(&*error).unwrap().kind(), ErrorKind::InvalidValue);
        // At first there was none, and the request had to wait for it.
        lab.session.token().await.unwrap();
    }
    request.headers_mut().remove("x-0");
    assert_eq!(lab.send(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(lab.sent()[1].authorization(), ["Bearer token-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_of_the_callers_own_is_left_alone_in_a_head_that_is_full() {
    let mut request = get("/me");
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Own"));
    let request = filled(request);
    let lab = Lab::new([status(200), status(200)]);
    for sent in 0..2 {
        assert_eq!(lab.send(request.clone()).await.unwrap().status(), StatusCode::OK);
        assert_eq!(lab.sent()[sent].authorization(), ["Own"]);
        // At first there was none.
        lab.session.token().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_sent_does_not_replace_the_one_there_is() {
    let store = MemoryStore::new();
    let lab = Lab::with(
        [status(401)],
        |_| {
            let source = source_fn(|_: FetchContext| async { Ok(Token::new("")) });
            Session::builder(source).store(store.clone())
        },
        |layer| layer,
    );
    lab.session.login(Token::new("first")).await.unwrap();
    let response = lab.send(get("/me")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let failure: &RefreshFailure = response.extensions().get().unwrap();
    assert_eq!(failure.error().kind(), ErrorKind::InvalidValue);
    let record = store.load().await.unwrap().unwrap();
    assert_eq!(record.token.unwrap().access.expose(), "first");
    assert_eq!(lab.session.token().await.unwrap().access().expose(), "first");
}

/// Counts how often it is dropped.
struct Counted {
    left: Option<Bytes>,
    is_known: bool,
    drops: Arc<AtomicUsize>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.take().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.left {
            Some(data) if self.is_known => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_known && self.left.is_none()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gets_no_token_drops_its_body_once() {
    let failing = || {
        Session::builder(source_fn(|_: FetchContext| async {
            Err::<Token, _>(FetchError::transient("unreachable"))
        }))
    };
    let unfit = || numbered().0.placement(Placement::custom(|_, _| Err("not today".into())));
    let sessions: [(&dyn Fn() -> SessionBuilder, _); 3] =
        [(&failing, false), (&unfit, false), (&unfit, true)];
    for (session, has_token) in sessions {
        for (left, is_known) in
            [(None, true), (None, false), (Some("an order"), true), (Some("an order"), false)]
        {
            let lab = Lab::with([], |_| session(), |layer| layer);
            if has_token {
                lab.session.token().await.unwrap();
            }
            let drops = Arc::new(AtomicUsize::new(0));
            let body = Counted { left: left.map(Bytes::from), is_known, drops: drops.clone() };
            let request = Request::post(API).body(body).unwrap();
            lab.send(request).await.unwrap_err();
            assert_eq!(drops.load(Ordering::Relaxed), 1);
            assert_eq!(lab.sent().len(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_share_one_sensitive_header_value() {
    let lab = Lab::new((0..1000).map(|_| status(200)));
    for _ in 0..1000 {
        lab.send(get("/me")).await.unwrap();
    }
    let sent = lab.sent();
    let values = || sent.iter().map(|sent| &sent.head.headers[AUTHORIZATION]);
    assert!(values().all(HeaderValue::is_sensitive));
    let buffers: HashSet<_> = values().map(|value| value.as_bytes().as_ptr()).collect();
    assert_eq!(buffers.len(), 1);
    assert_eq!(lab.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_credential_of_the_callers_own_is_left_alone_and_its_refusal_starts_nothing() {
    for (placement, own) in [
        (Placement::bearer(), Request::get(API).header("authorization", "Bearer mine")),
        (Placement::basic(), Request::get(API).header("authorization", "Digest mine")),
        (Placement::header("x-api-key").unwrap(), Request::get(API).header("x-api-key", "mine")),
        (Placement::query("access_token").unwrap(), Request::get(format!("{API}/?access%5Ftoken=mine&b=1"))),
    ] {
        let lab = Lab::with([status(401)], |session| session.placement(placement.clone()), |layer| layer);
        lab.session.token().await.unwrap();
        let own = own.body(ModelBody::default()).unwrap();
        let (before, _) = own.clone().into_parts();
        let response = lab.send(own).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.extensions().is_empty());
        let sent = lab.sent();
        assert_eq!((&sent[0].head.uri, &sent[0].head.headers), (&before.uri, &before.headers));
        assert_eq!((sent.len(), lab.fetches()), (1, 1), "{placement:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_not_the_placements_own_is_no_credential_of_the_callers() {
    let placement = Placement::query("access_token").unwrap();
    let lab = Lab::with([status(200)], |session| session.placement(placement), |layer| layer);
    let request = Request::get(format!("{API}/p?b=access_token"))
        .header("authorization", "Bearer of-something-else")
        .body(ModelBody::default())
        .unwrap();
    lab.send(request).await.unwrap();
    assert_eq!(lab.sent()[0].head.uri, "https://api.test/p?b=access_token&access_token=token-1");
    assert_eq!(lab.sent()[0].authorization(), ["Bearer of-something-else"]);
}

#[tokio::test(start_paused = true)]
async fn each_placement_is_replaced_and_not_repeated_on_the_resend() {
    for (placement, name, values) in [
        (Placement::bearer(), "authorization", ["Bearer token-1", "Bearer token-2"]),
        (Placement::basic(), "authorization", ["Basic dG9rZW4tMTo=", "Basic dG9rZW4tMjo="]),
        (Placement::header("X-API-Key").unwrap(), "x-api-key", ["token-1", "token-2"]),
        (
            Placement::header_with_scheme("authorization", "Token").unwrap(),
            "authorization",
            ["Token token-1", "Token token-2"],
        ),
    ] {
        let lab = Lab::with(
            [status(401), status(200)],
            |session| session.placement(placement.clone()),
            |layer| layer,
        );
        assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::OK);
        let sent = lab.sent();
        for (sent, value) in sent.iter().zip(values) {
            assert_eq!(sent.values(name), [value], "{placement:?}");
            assert_eq!(sent.head.headers.len(), 1);
        }
        assert_eq!(sent.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_query_holds_exactly_one_token_on_both_attempts() {
    let authority = ModelAuthority::new();
    let placement = Placement::query("access_token").unwrap();
    let session = Session::builder(authority.source()).placement(placement).build();
    let api = ModelApi::new(authority.clone()).credential(Credential::Query("access_token"));
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(api.clone());
    let old = session.token().await.unwrap();
    authority.revoke_access();
    let response = client.oneshot(get("/p?b=2&a=1&b=%7e+")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let new = session.token().await.unwrap();
    let queries: Vec<_> =
        api.requests().iter().map(|request| request.head.uri.query().unwrap().to_owned()).collect();
    let expected = [old, new].map(|token| format!("b=2&a=1&b=%7e+&access_token={}", token.access().expose()));
    assert_eq!(queries, expected);
    for request in api.requests() {
        assert!(!request.head.headers.contains_key(AUTHORIZATION));
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_placement_runs_for_each_attempt_on_the_callers_own_head() {
    let placement = Placement::custom(|head, token| {
        assert!(!head.headers().contains_key("x-token"), "nothing is left of the attempt before");
        head.headers_mut().insert("x-token", HeaderValue::from_str(token.access().expose())?);
        Ok(())
    });
    let lab = Lab::with([status(401), status(200)], |session| session.placement(placement), |layer| layer);
    lab.send(get("/me")).await.unwrap();
    let sent = lab.sent();
    assert_eq!([sent[0].values("x-token"), sent[1].values("x-token")], [["token-1"], ["token-2"]]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_does_not_fit_is_an_error_and_nothing_is_sent() {
    let placement = Placement::query("a-name-for-which-there-is-no-room").unwrap();
    let lab = Lab::with([], |session| session.placement(placement), |layer| layer);
    let request = get(&format!("/{}", "x".repeat(65_500)));
    for _ in ["while there is no token", "with a token"] {
        let failure = lab.send(request.clone()).await.unwrap_err();
        let error = Error::find(&*failure).unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(!format!("{error} {error:?}").contains("token-1"));
    }
    assert_eq!((lab.sent().len(), lab.fetches()), (0, 1));
}

/// A head with something in every corner.
fn rich(method: &str, uri: &str, version: Version) -> Request<ModelBody> {
    Request::builder()
        .method(method)
        .uri(uri)
        .version(version)
        .header("x-first", "1")
        .header("accept", "text/plain")
        .header("x-many", "b")
        .header("X-Many", "a")
        .header("cookie", HeaderValue::from_bytes(b"caf\xe9=1").unwrap())
        .header("x-many", "b")
        // As HTTP/2 allows it and HTTP/1.1 does not.
        .header(HeaderName::from_static("x\"quoted"), "1")
        .header("content-length", "5")
        .header("host", "somewhere-else.test")
        .extension(7_u8)
        .extension("trace-id")
        .body(ModelBody::from("hello"))
        .unwrap()
}

/// Everything of a head but its credential, in order.
#[derive(Debug, PartialEq)]
struct Facts {
    line: (Method, String, Version),
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: (Option<u8>, Option<&'static str>),
}

fn facts(head: &Parts) -> Facts {
    let headers = head.headers.iter().filter(|(name, _)| *name != AUTHORIZATION);
    Facts {
        line: (head.method.clone(), head.uri.to_string(), head.version),
        headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
        extensions: (head.extensions.get().copied(), head.extensions.get().copied()),
    }
}

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "x-own"];
const VERSIONS: [Version; 5] =
    [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];

#[tokio::test(start_paused = true)]
async fn a_request_arrives_as_the_caller_gave_it_on_both_attempts() {
    for (at, method) in METHODS.into_iter().enumerate() {
        for (body, has_token) in [("", true), ("", false), ("hello", true), ("hello", false)] {
            let lab = Lab::new([status(401), status(200)]);
            if has_token {
                lab.session.token().await.unwrap();
            }
            let uri = "https://API.test:443/a%2Fb/../c;d?q=%7e+&q=&&x#";
            let request = rich(method, uri, VERSIONS[at % 5]).map(|_| ModelBody::from(body));
            let (given, _) = request.clone().into_parts();
            assert_eq!(lab.send(request).await.unwrap().status(), StatusCode::OK);
            let sent = lab.sent();
            assert_eq!(sent.len(), 2, "{method}");
            for (sent, token) in sent.iter().zip(["Bearer token-1", "Bearer token-2"]) {
                assert_eq!(facts(&sent.head), facts(&given));
                assert_eq!(sent.head.extensions.len(), given.extensions.len(), "no mark is left on it");
                assert_eq!(sent.head.headers.len(), given.headers.len() + 1);
                assert_eq!((sent.authorization(), &*sent.body), (vec![token], body.as_bytes()));
                assert_eq!(sent.hint.exact(), Some(body.len() as u64));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_ours_arrives_byte_for_byte() {
    type Mark = fn(&mut Request<ModelBody>);
    let outside: Mark = |request| *request.uri_mut() = "https://other.test/p?q=1&q=2".parse().unwrap();
    let no_token: Mark = |request| {
        request.extensions_mut().insert(NoToken);
    };
    let own: Mark = |request| {
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Own"));
    };
    for (at, method) in METHODS.into_iter().enumerate() {
        for mark in [outside, no_token, own] {
            let lab = Lab::new([status(401)]);
            let mut request = rich(method, "https://api.test/p?q=1&q=2", VERSIONS[at % 5]);
            mark(&mut request);
            let (given, _) = request.clone().into_parts();
            let response = lab.send(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert!(response.extensions().is_empty());
            let sent = lab.sent();
            assert_eq!(facts(&sent[0].head), facts(&given));
            assert_eq!(sent[0].head.headers.get(AUTHORIZATION), given.headers.get(AUTHORIZATION));
            assert_eq!(sent[0].head.extensions.len(), given.extensions.len());
            assert_eq!((&sent[0].body[..], sent[0].hint.exact()), (&b"hello"[..], Some(5)));
            assert_eq!((sent.len(), lab.fetches()), (1, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_a_queue_takes_the_token_of_the_moment_it_leaves() {
    let (session, _) = numbered();
    let session = session.build();
    let gate = Gate::new();
    let (seen, held) = (Arc::new(Mutex::new(Vec::new())), gate.clone());
    let inner = tower::service_fn({
        let seen = seen.clone();
        move |request: ToMock| {
            seen.lock().unwrap().push(request.headers()[AUTHORIZATION].clone());
            let held = held.clone();
            async move {
                held.pass().await;
                Ok::<_, Infallible>(Response::new(ModelBody::default()))
            }
        }
    });
    // One request at a time, so that the second one waits in the queue, outside of the layer.
    let client = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .layer(TokenRefreshLayer::new(session.clone(), origin()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(inner);
    session.token().await.unwrap();
    let first = tokio::spawn(client.clone().oneshot(get("/first")));
    within(gate.waiting(1)).await;
    let mut second = task::spawn(client.oneshot(get("/second")));
    assert_pending!(second.poll());
    tokio::task::yield_now().await;
    session.replace(Token::new("swapped")).await.unwrap();
    gate.let_through(1);
    within(first).await.unwrap().unwrap();
    gate.open();
    within(second).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["Bearer token-1", "Bearer swapped"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_the_service_takes_the_token_of_the_moment_it_is_sent() {
    let session = numbered().0.build();
    let layer = TokenRefreshLayer::new(session.clone(), origin());
    let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
    let mut client = layer.layer(mock);

    // The first attempt: there is a token by now, but the service is not ready again.
    handle.allow(1);
    client.ready().await.unwrap();
    let mut request = task::spawn(client.call(get("/me")));
    handle.allow(0);
    assert_pending!(request.poll());
    assert_eq!(session.token().await.unwrap().access().expose(), "token-1");
    assert_pending!(request.poll());
    session.replace(Token::new("swapped")).await.unwrap();
    handle.allow(1);
    assert!(request.is_woken());
    assert_pending!(request.poll());
    let (sent, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(sent.headers()[AUTHORIZATION], "Bearer swapped");

    // The resend: the refresh has brought a token, which is replaced before the service is ready.
    handle.allow(0);
    answer.send_response(status(401).unwrap());
    assert_pending!(request.poll());
    assert_eq!(session.token().await.unwrap().access().expose(), "token-2");
    assert_pending!(request.poll());
    session.replace(Token::new("swapped again")).await.unwrap_err();
    session.replace(Token::new("swapped-again")).await.unwrap();
    handle.allow(1);
    assert!(request.is_woken());
    assert_pending!(request.poll());
    let (sent, answer) = within(handle.next_request()).await.unwrap();
    assert_eq!(sent.headers().get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer swapped-again"]);
    answer.send_response(status(200).unwrap());
    assert_eq!(within(request).await.unwrap().extensions().get::<Outcome>().unwrap().attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_while_the_service_is_not_ready_is_not_sent() {
    for replaces in [false, true] {
        let (clock, fetches) = (TestClock::new(), AtomicUsize::new(0));
        let short = |text: String| Token::new(text).expires_in(Duration::from_secs(10));
        let session = Session::builder(source_fn(move |_: FetchContext| {
            let number = fetches.fetch_add(1, Ordering::Relaxed) + 1;
            async move { Ok::<_, FetchError>(short(format!("token-{number}"))) }
        }))
        .clock(clock.clone())
        .build();
        let (mock, mut handle) = mock::pair::<ToMock, Response<ModelBody>>();
        let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
        handle.allow(1);
        client.ready().await.unwrap();
        let mut request = task::spawn(client.call(get("/me")));
        handle.allow(0);
        assert_pending!(request.poll());
        session.token().await.unwrap();
        assert_pending!(request.poll());
        if replaces {
            session.replace(short("replaced".to_owned())).await.unwrap();
        }
        clock.advance(Duration::from_secs(20));
        handle.allow(1);
        let answering = async {
            let (sent, answer) = handle.next_request().await.unwrap();
            answer.send_response(status(200).unwrap());
            sent
        };
        let (response, sent) = within(async { tokio::join!(request, answering) }).await;
        assert_eq!(response.unwrap().status(), StatusCode::OK);
        assert_eq!(sent.headers()[AUTHORIZATION], "Bearer token-2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_marked_skip_refresh_waits_for_the_first_token_like_any_other() {
    let lab = Lab::new([status(403)]);
    let mut request = get("/me");
    request.extensions_mut().insert(SkipRefresh);
    assert_eq!(lab.send(request).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(lab.sent()[0].authorization(), ["Bearer token-1"]);
    assert_eq!((lab.sent().len(), lab.fetches()), (1, 1));
}
