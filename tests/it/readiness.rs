//! What the contract of a service asks of the layer: readiness, clones, and what is gone when. Poll by poll.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt, limit::ConcurrencyLimit, steer::Steer};
use tower_token_refresh::{
    ErrorKind, FetchContext, FetchError, ResponseFuture, Session, SkipRefresh, Token, TokenRefresh,
    TokenRefreshLayer, source_fn,
    test_util::{Endpoint, Failure, ModelAuthority, ModelBody, TestClock},
};

use crate::{
    identity::promised,
    script::idle,
    stacks::{Answer, Parts, SECOND, Sent, kind, reserve, send, soon},
    world::{get, origin},
};

type Mock = tower_test::mock::Mock<Sent, Answer>;
type Handle = tower_test::mock::Handle<Sent, Answer>;

/// A client over a mock service, with a token in use.
async fn mocked(authority: &ModelAuthority) -> (Session, TokenRefresh<Mock>, Handle) {
    let session = Session::builder(authority.source()).build();
    session.token().await.unwrap();
    let (mock, handle) = tower_test::mock::pair();
    (session.clone(), TokenRefreshLayer::new(session, origin()).layer(mock), handle)
}

fn refused() -> Answer {
    let mut response = Response::new(ModelBody::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn credential(request: &Sent) -> String {
    request.headers()["authorization"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_service_below() {
    let (_, client, mut handle) = mocked(&ModelAuthority::new()).await;
    let mut client = tower_test::mock::Spawn::new(client);
    handle.allow(0);
    assert_pending!(client.poll_ready::<Request<ModelBody>>());
    handle.allow(1);
    assert!(client.is_woken());
    assert_ready_ok!(client.poll_ready::<Request<ModelBody>>());
    handle.send_error("the connection is gone");
    let error = assert_ready_err!(client.poll_ready::<Request<ModelBody>>());
    assert_eq!(error.to_string(), "the connection is gone");
}

#[tokio::test(start_paused = true)]
async fn readiness_does_not_wait_for_a_token() {
    let session = Session::builder(source_fn(|_| std::future::pending())).build();
    let (mock, _handle) = tower_test::mock::pair::<Sent, Answer>();
    let client = TokenRefreshLayer::new(session, origin()).layer(mock);
    let mut client = tower_test::mock::Spawn::new(client);
    assert_ready_ok!(client.poll_ready::<Request<ModelBody>>());
    let mut call = task::spawn(client.call(get("/me")));
    assert_pending!(call.poll());
    assert_ready_ok!(client.poll_ready::<Request<ModelBody>>());
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_seen_again_as_soon_as_there_is_a_token() {
    let authority = ModelAuthority::new();
    let (_, mut client, mut handle) = mocked(&authority).await;
    let gate = authority.hold(Endpoint::Refresh);
    let mut call = task::spawn(client.ready().await.unwrap().call(get("/me")));
    let (first, answer) = handle.next_request().await.unwrap();
    assert_pending!(call.poll());
    answer.send_response(refused());
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_pending!(handle.poll_request());
    gate.waiting(1).await;
    assert!(!call.is_woken());
    gate.open();
    idle().await;
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let (second, answer) = handle.next_request().await.unwrap();
    assert_ne!(credential(&first), credential(&second));
    answer.send_response(Response::new("done".into()));
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).body().bytes(), "done");
}

#[tokio::test(start_paused = true)]
async fn a_resend_that_waited_for_readiness_takes_the_token_of_that_moment() {
    let authority = ModelAuthority::new();
    let (session, mut client, mut handle) = mocked(&authority).await;
    let mut call = resending(&mut client, &mut handle).await;
    session.replace(Token::new("from-elsewhere")).await.unwrap();
    handle.allow(1);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let (second, _) = handle.next_request().await.unwrap();
    assert_eq!(credential(&second), "Bearer from-elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_resend_that_waited_for_readiness_is_never_sent_as_somebody_else() {
    let authority = ModelAuthority::new();
    for ended in [ErrorKind::SessionChanged, ErrorKind::SessionEnded] {
        let (session, mut client, mut handle) = mocked(&authority).await;
        let mut call = resending(&mut client, &mut handle).await;
        if ended == ErrorKind::SessionChanged {
            session.login(Token::new("of-somebody-else")).await.unwrap();
        } else {
            session.logout().await.unwrap();
        }
        handle.allow(1);
        let error = assert_ready_err!(call.poll());
        assert_eq!(kind(&error), ended);
        assert_pending!(handle.poll_request());
    }
}

/// Another request has had that token condemned meanwhile, and the refresh it has started fails.
#[tokio::test(start_paused = true)]
async fn a_resend_that_waited_again_in_vain_goes_out_with_the_token_there_is() {
    let authority = ModelAuthority::new();
    let (session, mut client, mut handle) = mocked(&authority).await;
    let mut call = resending(&mut client, &mut handle).await;
    let present = session.token().await.unwrap();

    let (mock, mut other) = tower_test::mock::pair::<Sent, Answer>();
    let mut refusing = task::spawn(TokenRefreshLayer::new(session, origin()).layer(mock).oneshot(get("/me")));
    assert_pending!(refusing.poll());
    authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let gate = authority.hold(Endpoint::Refresh);
    other.next_request().await.unwrap().1.send_response(refused());
    assert_pending!(refusing.poll());
    gate.waiting(1).await;

    handle.allow(1);
    assert_pending!(call.poll());
    assert_pending!(handle.poll_request());
    gate.open();
    assert_eq!(soon(refusing).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_pending!(call.poll());
    let (second, _) = handle.next_request().await.unwrap();
    assert_eq!(credential(&second), format!("Bearer {}", present.access().expose()));
}

/// A resend whose token has expired before the service is ready waits once more, and nothing is held against the refresh.
#[tokio::test(start_paused = true)]
async fn a_resend_is_not_sent_with_a_token_that_has_expired_before_the_service_was_ready() {
    for is_late in [false, true] {
        let (clock, told) = (TestClock::new(), Arc::new(Mutex::new(Vec::new())));
        let session = tokens_of_ten_seconds(&clock, &told);
        session.token().await.unwrap();
        let (mock, mut handle) = tower_test::mock::pair();
        let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
        let mut call = if is_late {
            let mut call = task::spawn(client.ready().await.unwrap().call(get("/me")));
            assert_pending!(call.poll());
            handle.allow(0);
            session.refresh().await.unwrap();
            handle.next_request().await.unwrap().1.send_response(refused());
            assert_pending!(call.poll());
            call
        } else {
            resending(&mut client, &mut handle).await
        };
        clock.advance(Duration::from_secs(10));
        handle.allow(1);
        assert_pending!(call.poll());
        idle().await;
        assert_pending!(call.poll());
        let (second, answer) = handle.next_request().await.unwrap();
        assert_eq!(credential(&second), "Bearer token-3");
        answer.send_response(Response::default());
        assert_eq!(assert_ready_ok!(call.poll()).status(), StatusCode::OK);
        session.refresh().await.unwrap();
        assert_eq!(*told.lock().unwrap(), [0; 4], "no refresh was fruitless");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_whose_token_expires_before_the_service_is_ready_fails_as_the_next_refresh_does() {
    let (clock, life) = (TestClock::new(), Duration::from_secs(600));
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(life);
    let session = Session::builder(authority.source()).clock(clock.clone()).build();
    session.token().await.unwrap();
    let (mock, mut handle) = tower_test::mock::pair();
    let mut client = TokenRefreshLayer::new(session, origin()).layer(mock);
    let call = resending(&mut client, &mut handle).await;
    clock.advance(life);
    authority.fail_next(Endpoint::Refresh, Failure::Reset);
    handle.allow(1);
    assert_eq!(kind(&soon(call).await.unwrap_err()), ErrorKind::Transient);
    assert_eq!(authority.counts().refreshes, 2);
}

/// The same for a request whose refusal is returned at once.
#[tokio::test(start_paused = true)]
async fn a_request_with_one_attempt_is_not_sent_with_a_token_that_has_expired_before_the_service_was_ready() {
    let clock = TestClock::new();
    let session = tokens_of_ten_seconds(&clock, &Arc::default());
    let (mock, mut handle) = tower_test::mock::pair::<Sent, Answer>();
    let mut client = TokenRefreshLayer::new(session.clone(), origin()).layer(mock);
    let mut request = get("/me");
    request.extensions_mut().insert(SkipRefresh);
    let mut call = task::spawn(client.ready().await.unwrap().call(request));
    handle.allow(0);
    assert_pending!(call.poll());
    idle().await;
    assert_pending!(call.poll());
    clock.advance(Duration::from_secs(10));
    handle.allow(1);
    assert_pending!(call.poll());
    idle().await;
    assert_pending!(call.poll());
    let (sent, _) = handle.next_request().await.unwrap();
    assert_eq!(credential(&sent), "Bearer token-2");
}

/// Nor with one that was only promised, by somebody who has a refresh token.
#[tokio::test(start_paused = true)]
async fn a_request_whose_service_was_not_ready_through_two_logins_waits_for_the_token_that_the_last_one_gets()
{
    let authority = ModelAuthority::new();
    let (session, mut client, mut handle) = mocked(&authority).await;
    let login = async || session.login(promised(&authority).await).await.unwrap();
    client.ready().await.unwrap();
    login().await;
    let mut call = task::spawn(client.call(get("/me")));
    handle.allow(0);
    assert_pending!(call.poll());
    for _ in 0..2 {
        session.token().await.unwrap();
        assert_pending!(call.poll(), "for the service");
        login().await;
        handle.allow(1);
        assert_pending!(call.poll(), "for the token");
        handle.allow(0);
    }
    session.token().await.unwrap();
    handle.allow(1);
    assert_pending!(call.poll());
    let (sent, _) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!(credential(&sent), format!("Bearer {}", session.token().await.unwrap().access().expose()));
}

/// Or no token that lives shorter than its requests wait would ever be sent.
#[tokio::test(start_paused = true)]
async fn a_request_whose_service_is_ready_is_sent_with_what_it_has_waited_for_though_that_has_expired() {
    let (clock, fetches) = (TestClock::new(), Arc::default());
    let session = tokens_of_ten_seconds(&clock, &fetches);
    let (mock, mut handle) = tower_test::mock::pair::<Sent, Answer>();
    let mut client = TokenRefreshLayer::new(session, origin()).layer(mock);
    for n in 1..=2 {
        let mut call = task::spawn(client.ready().await.unwrap().call(get("/me")));
        assert_pending!(call.poll());
        idle().await;
        clock.advance(Duration::from_secs(10));
        assert_pending!(call.poll());
        let (sent, _) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(credential(&sent), format!("Bearer token-{n}"));
        assert_eq!(fetches.lock().unwrap().len(), n);
    }
}

/// It writes down how many fruitless refreshes each fetch was told of.
fn tokens_of_ten_seconds(clock: &TestClock, told: &Arc<Mutex<Vec<u32>>>) -> Session {
    let (fetches, told) = (AtomicUsize::new(0), told.clone());
    let source = source_fn(move |cx: FetchContext| {
        told.lock().unwrap().push(cx.fruitless());
        let token = format!("token-{}", fetches.fetch_add(1, Ordering::Relaxed) + 1);
        let token = Token::new(token).expires_in(Duration::from_secs(10));
        std::future::ready(Ok::<_, FetchError>(token))
    });
    Session::builder(source).clock(clock.clone()).build()
}

/// Drives a request to where its resend waits for the service to be ready.
async fn resending(
    client: &mut TokenRefresh<Mock>,
    handle: &mut Handle,
) -> task::Spawn<ResponseFuture<Mock, ModelBody>> {
    let mut call = task::spawn(client.ready().await.unwrap().call(get("/me")));
    assert_pending!(call.poll());
    handle.allow(0);
    handle.next_request().await.unwrap().1.send_response(refused());
    assert_pending!(call.poll());
    idle().await;
    assert_pending!(call.poll());
    assert_pending!(handle.poll_request());
    call
}

#[tokio::test(start_paused = true)]
async fn a_finished_future_and_the_refused_response_are_gone_before_readiness_is_asked_for() {
    let parts = Parts::new().revoked().await;
    let gate = parts.authority.hold(Endpoint::Refresh);
    let (probe, diary) = Probe::new();
    let mut call = task::spawn(parts.layer.layer(probe).oneshot(get("/me")));
    assert_pending!(call.poll());
    gate.waiting(1).await;
    assert_eq!(diary.read(), ["ready", "called", "future dropped"]);
    gate.open();
    idle().await;
    assert_eq!(assert_ready_ok!(call.poll()).status(), StatusCode::UNAUTHORIZED);
    let second = ["response dropped", "ready", "called", "future dropped", "response dropped"];
    assert_eq!(diary.read()[3..], second);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_given_back_before_the_wait_for_a_first_token() {
    let parts = Parts::new();
    let gate = parts.authority.hold(Endpoint::Login);
    let (probe, diary) = Probe::new();
    let mut client = parts.layer.layer(probe);
    reserve(&mut client);
    let mut call = task::spawn(client.call(get("/me")));
    assert_eq!(diary.read(), ["ready", "readiness dropped"]);
    assert_pending!(call.poll());
    gate.waiting(1).await;
    assert_eq!(diary.read(), ["ready", "readiness dropped"]);
}

/// What is cloned for each request is a whole stack, in a box of its own where it is boxed.
#[tokio::test(start_paused = true)]
async fn only_a_request_that_has_waited_is_sent_by_a_clone() {
    let parts = Parts::new();
    let clones = Arc::new(AtomicUsize::new(0));
    let inner = {
        let clones = clones.clone();
        OnClone {
            inner: parts.api.clone(),
            run: Arc::new(move || _ = clones.fetch_add(1, Ordering::Relaxed)),
        }
    };
    let mut client = parts.layer.layer(inner);
    let mut cloned_by = async |is_refused| {
        if is_refused {
            parts.authority.revoke_access();
        }
        let before = clones.load(Ordering::Relaxed);
        assert_eq!(soon(send(&mut client, get("/me"))).await.unwrap().status(), StatusCode::OK);
        clones.load(Ordering::Relaxed) - before
    };
    // That which takes the place of the one that was ready, and that which sends.
    assert_eq!(cloned_by(false).await, 2);
    assert_eq!(cloned_by(false).await, 0);
    assert_eq!(cloned_by(true).await, 1);
    assert_eq!(cloned_by(false).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_when_it_is_cloned_fails_one_request() {
    let parts = Parts::new().revoked().await;
    let panics = Arc::new(AtomicBool::new(false));
    let inner = {
        let panics = panics.clone();
        let run = move || assert!(!panics.swap(false, Ordering::Relaxed), "no clone today");
        OnClone { inner: parts.api.clone(), run: Arc::new(run) }
    };
    let client = parts.layer.layer(inner);
    let unlucky = client.clone().oneshot(get("/me"));
    panics.store(true, Ordering::Relaxed);
    let unlucky = tokio::spawn(unlucky);
    assert!(unlucky.await.unwrap_err().is_panic());
    parts.authority.revoke_access();
    assert_eq!(soon(client.oneshot(get("/me"))).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_service_is_cloned_under_no_lock() {
    let parts = Parts::new().revoked().await;
    let other = Arc::default();
    let client = parts.layer.layer(OnClone { inner: parts.api.clone(), run: elsewhere(&other) });
    let gate = parts.authority.hold(Endpoint::Refresh);
    let mut first = task::spawn(client.clone().oneshot(get("/me")));
    let second = Arc::new(Mutex::new(task::spawn(client.oneshot(get("/me")))));
    assert_pending!(first.poll());
    assert_pending!(second.lock().unwrap().poll());
    gate.open();
    parts.session.token().await.unwrap();
    *other.lock().unwrap() = Some(Box::new({
        let second = second.clone();
        move || assert_pending!(second.lock().unwrap().poll())
    }));
    assert_eq!(assert_ready_ok!(first.poll()).status(), StatusCode::OK);
    let mut second = second.lock().unwrap();
    assert!(second.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()).status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_cloned_from_a_ready_one_is_not_taken_at_its_word() {
    let parts = Parts::new();
    let steer = Steer::new([ConcurrencyLimit::new(parts.api.clone(), 2)], |_: &Sent, _: &[_]| 0);
    let other = Arc::default();
    let mut client = parts.layer.layer(OnClone { inner: steer, run: elsewhere(&other) });
    let mut worker = client.clone();
    reserve(&mut client);
    reserve(&mut worker);
    let worker = Arc::new(Mutex::new(worker));
    *other.lock().unwrap() = Some(Box::new({
        let worker = worker.clone();
        move || {
            let mut worker = worker.lock().unwrap();
            drop(worker.call(get("/me")));
            let mut ready = task::spawn(worker.ready());
            assert!(ready.poll().is_pending() && ready.is_woken());
        }
    }));
    // There is no token: both give their readiness back, the one while the other clones.
    drop(client.call(get("/me")));
    parts.session.token().await.unwrap();
    let mut worker = Arc::into_inner(worker).unwrap().into_inner().unwrap();
    assert_eq!(soon(send(&mut worker, get("/me"))).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_takes_readiness_future_and_response_along() {
    let parts = Parts::new().revoked().await;
    let gate = parts.authority.hold(Endpoint::Refresh);
    let (probe, diary) = Probe::new();
    let mut call = task::spawn(parts.layer.layer(probe).oneshot(get("/me")));
    assert_pending!(call.poll());
    gate.waiting(1).await;
    drop(call);
    assert_eq!(diary.read(), ["ready", "called", "future dropped", "response dropped"]);
}

// Tools.

/// What becomes of a [`Probe`], its readiness, its futures and its responses.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Diary {
    fn write(&self, event: &'static str) {
        self.0.lock().unwrap().push(event);
    }

    fn read(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

/// A service that does something whenever it is cloned.
struct OnClone<S> {
    inner: S,
    run: Arc<dyn Fn() + Send + Sync>,
}

impl<S: Clone> Clone for OnClone<S> {
    fn clone(&self) -> Self {
        (self.run)();
        OnClone { inner: self.inner.clone(), run: self.run.clone() }
    }
}

impl<S: Service<Sent>> Service<Sent> for OnClone<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Sent) -> S::Future {
        self.inner.call(request)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Has another thread do its job while a service is cloned.
fn elsewhere(job: &Arc<Mutex<Option<Job>>>) -> Arc<dyn Fn() + Send + Sync> {
    let job = job.clone();
    Arc::new(move || {
        let Some(job) = job.lock().unwrap().take() else { return };
        let (over, is_over) = mpsc::channel();
        thread::spawn(move || {
            job();
            over.send(())
        });
        is_over.recv_timeout(10 * SECOND).expect("the other thread waits for a lock");
    })
}

/// A service that is always ready, refuses everything at once, and keeps a diary.
struct Probe {
    diary: Diary,
    is_ready: bool,
}

impl Probe {
    fn new() -> (Self, Diary) {
        let diary = Diary::default();
        (Probe { diary: diary.clone(), is_ready: false }, diary)
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Probe { diary: self.diary.clone(), is_ready: false }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.is_ready {
            self.diary.write("readiness dropped");
        }
    }
}

impl Service<Sent> for Probe {
    type Response = Response<Noted>;
    type Error = BoxError;
    type Future = ProbeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.diary.write("ready");
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Sent) -> ProbeFuture {
        assert!(std::mem::take(&mut self.is_ready), "called without readiness");
        self.diary.write("called");
        ProbeFuture(Noted { diary: self.diary.clone(), event: "future dropped" })
    }
}

struct ProbeFuture(Noted);

impl Future for ProbeFuture {
    type Output = Result<Response<Noted>, BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let body = Noted { diary: self.0.diary.clone(), event: "response dropped" };
        Poll::Ready(Ok(refused().map(|_| body)))
    }
}

/// Notes its end.
#[derive(Debug)]
struct Noted {
    diary: Diary,
    event: &'static str,
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.diary.write(self.event);
    }
}
