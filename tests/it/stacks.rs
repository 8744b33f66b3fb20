//! The layer among tower's other layers, on both sides of each.

use std::{
    collections::{HashMap, VecDeque},
    future::{Ready, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet, yield_now},
    time::timeout,
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::ServiceList,
    limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer, RateLimit, rate::Rate},
    load::{CompleteOnResponse, Constant, PendingRequests},
    load_shed::{LoadShed, error::Overloaded},
    retry::{Policy, Retry, RetryLayer},
    service_fn,
    spawn_ready::SpawnReady,
    steer::Steer,
    timeout::{Timeout, TimeoutLayer, error::Elapsed},
    util::{BoxCloneService, BoxCloneSyncService, Either, option_layer},
};
use tower_token_refresh::{
    Error, ErrorKind, FetchContext, NoToken, Outcome, Placement, RefreshFailure, ReplayBody, Session, Token,
    TokenRefreshLayer, TokenSource,
    session::SessionBuilder,
    source_fn,
    test_util::{Endpoint, Failure, ModelApi, ModelAuthority, ModelBody, Phase},
};

use crate::world::{API, get, origin, post};

pub(crate) type Sent = Request<ReplayBody<ModelBody>>;
pub(crate) type Answer = Response<ModelBody>;
type Boxed<Req> = BoxCloneService<Req, Answer, BoxError>;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A model whose stack is still to be built.
pub(crate) struct Parts {
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) session: Session,
    pub(crate) layer: TokenRefreshLayer,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Self::with(|authority| authority.source(), |builder| builder)
    }

    fn with<S: TokenSource>(
        source: impl FnOnce(&ModelAuthority) -> S,
        session: impl FnOnce(SessionBuilder) -> SessionBuilder,
    ) -> Self {
        let authority = ModelAuthority::new();
        let session = session(Session::builder(source(&authority))).build();
        let layer = TokenRefreshLayer::new(session.clone(), origin());
        Parts { api: ModelApi::new(authority.clone()), authority, session, layer }
    }

    /// Whose source goes through the same limiter as the requests.
    fn with_limited_source(limit: &Arc<Semaphore>) -> Self {
        Self::with(|authority| through(limit.clone(), authority.source()), |builder| builder)
    }

    /// With a token that the authority has revoked.
    pub(crate) async fn revoked(self) -> Self {
        self.session.token().await.unwrap();
        self.authority.revoke_access();
        self
    }

    /// The first token, a refusal and a request as any other, through one handle.
    async fn recovers<S>(&self, mut client: S)
    where
        S: Service<Request<ModelBody>, Response = Answer, Error: Into<BoxError>>,
    {
        for (attempts, refreshes) in [(None, 0), (Some(2), 1), (None, 1)] {
            if attempts.is_some() {
                self.authority.revoke_access();
            }
            let answer = soon(send(&mut client, post("/echo", "hello"))).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.body().bytes(), "hello");
            assert_eq!(answer.extensions().get().map(Outcome::attempts), attempts);
            assert_eq!(self.authority.counts().refreshes, refreshes);
        }
        assert_eq!(self.authority.counts().logins, 1);
    }
}

pub(crate) async fn send<S>(client: &mut S, request: Request<ModelBody>) -> Result<Answer, BoxError>
where
    S: Service<Request<ModelBody>, Response = Answer, Error: Into<BoxError>>,
{
    let client = client.ready().await.map_err(Into::into)?;
    client.call(request).await.map_err(Into::into)
}

/// Makes a client ready that is so at once.
pub(crate) fn reserve<S: Service<Request<ModelBody>, Error: std::fmt::Debug>>(client: &mut S) {
    assert_ready_ok!(task::spawn(client.ready()).poll());
}

/// Far earlier than any time limit of the session: what waits for one of those does not come in time.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(5 * SECOND, future).await.expect("nothing waits for a time limit of the session")
}

fn through(limit: Arc<Semaphore>, source: impl TokenSource + Clone) -> impl TokenSource {
    let fetch = service_fn(move |cx: FetchContext| {
        let source = source.clone();
        async move { source.fetch(cx).await }
    });
    let limited = ConcurrencyLimit::with_semaphore(fetch, limit);
    source_fn(move |cx| limited.clone().oneshot(cx))
}

pub(crate) fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error).expect("an error of ours").kind()
}

// Neighbours on both sides.

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_below_and_above_a_buffer() {
    let parts = Parts::new();
    parts.recovers(Buffer::new(parts.layer.layer(parts.api.clone()), 1)).await;

    let parts = Parts::new();
    parts.recovers(parts.layer.layer(Buffer::<Sent, _>::new(parts.api.clone(), 1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_below_and_above_a_concurrency_limit() {
    let parts = Parts::new();
    parts.recovers(ConcurrencyLimit::new(parts.layer.layer(parts.api.clone()), 1)).await;

    let parts = Parts::new();
    parts.recovers(parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_below_and_above_a_load_shed() {
    let parts = Parts::new();
    parts.recovers(LoadShed::new(parts.layer.layer(parts.api.clone()))).await;

    let parts = Parts::new();
    parts.recovers(parts.layer.layer(LoadShed::new(ConcurrencyLimit::new(parts.api.clone(), 1)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_below_and_above_a_timeout() {
    let parts = Parts::new();
    parts.recovers(Timeout::new(parts.layer.layer(parts.api.clone()), SECOND)).await;

    let parts = Parts::new();
    parts.recovers(parts.layer.layer(Timeout::new(parts.api.clone(), SECOND))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_below_and_above_a_retry() {
    let parts = Parts::new();
    parts.recovers(Retry::new(Again::times(2), parts.layer.layer(parts.api.clone()))).await;

    let parts = Parts::new();
    parts.recovers(parts.layer.layer(Retry::new(Again::times(2), parts.api.clone()))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_inside_and_around_a_box() {
    let parts = Parts::new();
    let inner = BoxCloneService::<Sent, _, _>::new(parts.api.clone());
    parts.recovers(Boxed::new(parts.layer.layer(inner))).await;

    let parts = Parts::new();
    let inner = BoxCloneSyncService::<Sent, _, _>::new(parts.api.clone());
    parts.recovers(BoxCloneSyncService::new(parts.layer.layer(inner))).await;
}

/// These cannot be cloned: inside, they go behind a `Buffer`.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_around_services_that_cannot_be_cloned() {
    let rate = || Rate::new(1, SECOND);
    let parts = Parts::new();
    parts.recovers(RateLimit::new(parts.layer.layer(parts.api.clone()), rate())).await;
    let parts = Parts::new();
    let limited = RateLimit::new(parts.api.clone(), rate());
    parts.recovers(parts.layer.layer(Buffer::<Sent, _>::new(limited, 1))).await;

    let parts = Parts::new();
    parts.recovers(SpawnReady::new(parts.layer.layer(parts.api.clone()))).await;
    let parts = Parts::new();
    let spawned = SpawnReady::new(parts.api.clone());
    parts.recovers(parts.layer.layer(Buffer::<Sent, _>::new(spawned, 1))).await;

    let parts = Parts::new();
    let endpoints = [0, 1].map(|load| Constant::new(parts.layer.layer(parts.api.clone()), load));
    let endpoints = ServiceList::new::<Request<ModelBody>>(endpoints);
    parts.recovers(Balance::new(endpoints)).await;
    let parts = Parts::new();
    let endpoints = [0, 1].map(|load| Constant::new(parts.api.clone(), load));
    let balance = Balance::new(ServiceList::new::<Sent>(endpoints));
    parts.recovers(parts.layer.layer(Buffer::new(balance, 1))).await;
}

/// A clone of one that is ready takes itself for ready, too, and panics when it is called.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_around_a_steer() {
    let parts = Parts::new();
    let api = ConcurrencyLimit::new(parts.api.clone(), 1);
    parts.recovers(parts.layer.layer(Steer::new([api], |_: &Sent, _: &[_]| 0))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recovered_behind_either_branch() {
    let parts = Parts::new();
    parts.recovers(option_layer(Some(parts.layer.clone())).layer(parts.api.clone())).await;

    let parts = Parts::new();
    let inner: Either<ConcurrencyLimit<ModelApi>, ModelApi> = Either::Right(parts.api.clone());
    parts.recovers(parts.layer.layer(inner)).await;
}

/// The shape of tonic's `Channel`: one fixed body type, whatever the caller's is.
#[tokio::test(start_paused = true)]
async fn a_service_with_a_fixed_body_type_takes_one_map_request() {
    type Fixed = UnsyncBoxBody<Bytes, BoxError>;
    let parts = Parts::new();
    let channel = BoxCloneService::<Request<Fixed>, Answer, BoxError>::new(parts.api.clone());
    let inner = channel.map_request(|request: Sent| request.map(BodyExt::boxed_unsync));
    parts.recovers(parts.layer.layer(inner)).await;
}

// One permit, shared with the source.

#[tokio::test(start_paused = true)]
async fn one_permit_is_enough_for_requests_and_source() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::with_limited_source(&limit);
    parts.recovers(parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit))).await;
    assert_eq!(parts.authority.counts().max_in_flight, 1);
    assert_eq!(parts.api.max_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_permit_is_enough_however_many_wait() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::with_limited_source(&limit);
    let client = parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit.clone()));
    for refreshes in [0, 1] {
        let mut calls = JoinSet::new();
        for _ in 0..50 {
            let mut client = client.clone();
            calls.spawn(async move { send(&mut client, get("/me")).await.unwrap().status() });
        }
        assert_eq!(soon(calls.join_all()).await, [StatusCode::OK; 50]);
        assert_eq!((parts.authority.counts().logins, parts.authority.counts().refreshes), (1, refreshes));
        assert_eq!(parts.api.max_in_flight(), 1);
        assert_eq!(limit.available_permits(), 1);
        parts.authority.revoke_access();
    }
}

/// A buffer's worker keeps its service between requests, and with it whatever readiness that holds.
#[tokio::test(start_paused = true)]
async fn one_permit_is_enough_when_a_worker_holds_the_client() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::with_limited_source(&limit);
    let client = parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit));
    parts.recovers(Buffer::new(client, 8)).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_holds_no_permit() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::new();
    let mut client = parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit.clone()));
    let login = parts.authority.hold(Endpoint::Login);
    let refresh = parts.authority.hold(Endpoint::Refresh);
    for gate in [login, refresh] {
        reserve(&mut client);
        assert_eq!(limit.available_permits(), 0);
        let call = tokio::spawn(client.call(get("/me")));
        gate.waiting(1).await;
        assert_eq!(limit.available_permits(), 1);
        let bare = Request::get(format!("{API}/open")).extension(NoToken);
        let other = soon(send(&mut client, bare.body(ModelBody::default()).unwrap())).await.unwrap();
        assert_eq!(other.status(), StatusCode::UNAUTHORIZED);
        gate.open();
        assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);
        parts.authority.revoke_access();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_sent_holds_no_permit() {
    let limit = Arc::new(Semaphore::new(1));
    let placement = Placement::custom(|_, _| Err("no key at hand".into()));
    let parts = Parts::with(|authority| authority.source(), |builder| builder.placement(placement));
    let mut client = parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit.clone()));

    // Having waited for the first token, and at once.
    for _ in 0..2 {
        reserve(&mut client);
        let mut call = Box::pin(client.call(get("/me")));
        let error = soon(&mut call).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::InvalidValue);
        assert_eq!(limit.available_permits(), 1);
        assert!(parts.api.requests().is_empty());
    }
}

/// Its token was refused elsewhere while it waited for the permit.
#[tokio::test(start_paused = true)]
async fn a_request_that_has_to_wait_again_holds_no_permit() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::new();
    let gate = parts.authority.hold(Endpoint::Refresh);
    let other = parts.layer.layer(parts.api.clone());
    let client = parts.layer.layer(ConcurrencyLimit::with_semaphore(parts.api.clone(), limit.clone()));
    let mut call = task::spawn(client.oneshot(get("/me")));
    assert_pending!(call.poll());
    let taken = limit.clone().acquire_owned().await.unwrap();
    parts.session.settle().await.unwrap();
    assert_pending!(call.poll());

    parts.authority.revoke_access();
    let refused = tokio::spawn(other.oneshot(get("/other")));
    gate.waiting(1).await;
    drop(taken);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_eq!(limit.available_permits(), 1);
    gate.open();
    assert_eq!(soon(call).await.unwrap().status(), StatusCode::OK);
    assert_eq!(soon(refused).await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(parts.api.requests().len(), 3);
}

/// Has the worker of a buffer keep a permit: it has made itself ready for a request whose caller gives up. Before that
/// one is another, which is refused.
async fn beside_one_that_was_given_up<S>(parts: &Parts, client: S) -> JoinHandle<Result<Answer, BoxError>>
where
    S: Service<Request<ModelBody>, Response = Answer, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let judge = parts.api.hold(Phase::Judge);
    let call = tokio::spawn(client.clone().oneshot(get("/me")));
    judge.waiting(1).await;
    let mut given_up = task::spawn(client.oneshot(get("/other")));
    assert_pending!(given_up.poll());
    yield_now().await;
    drop(given_up);
    judge.open();
    call
}

#[tokio::test(start_paused = true)]
async fn one_permit_more_than_is_kept_outside_is_enough() {
    // By a worker.
    let parts = Parts::new().revoked().await;
    let client = Buffer::new(parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 2)), 8);
    let call = beside_one_that_was_given_up(&parts, client.clone()).await;
    assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);

    // By the endpoint that was not chosen, of its own limit.
    let parts = Parts::new().revoked().await;
    let endpoints = [0, 1].map(|_| {
        let endpoint = parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 2));
        PendingRequests::new(endpoint, CompleteOnResponse::default())
    });
    let mut balance = Balance::new(ServiceList::new::<Request<ModelBody>>(endpoints));
    let gate = parts.authority.hold(Endpoint::Refresh);
    let first = tokio::spawn(balance.ready().await.unwrap().call(get("/me")));
    gate.waiting(1).await;
    let second = tokio::spawn(balance.ready().await.unwrap().call(get("/me")));
    gate.open();
    for call in [first, second] {
        assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);
    }

    // By one that has shed, and is in the queue.
    let parts = Parts::new().revoked().await;
    let mut client = LoadShed::new(parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 2)));
    let judge = parts.api.hold(Phase::Judge);
    let calls = [(); 2].map(|()| tokio::spawn(client.clone().oneshot(get("/me"))));
    judge.waiting(2).await;
    assert!(send(&mut client, get("/me")).await.unwrap_err().is::<Overloaded>());
    judge.open();
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(send(&mut client, get("/me")).await.unwrap().status(), StatusCode::OK);
}

/// The wrong size: the only permit is kept, until the handle that has it is called.
#[tokio::test(start_paused = true)]
async fn a_total_timeout_bounds_the_wait_for_a_permit_that_is_kept_outside() {
    let parts = Parts::new().revoked().await;
    let client = Buffer::new(parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 1)), 8);
    let client = Timeout::new(client, SECOND);
    let call = beside_one_that_was_given_up(&parts, client.clone()).await;
    assert!(soon(call).await.unwrap().unwrap_err().is::<Elapsed>());
    assert_eq!(soon(client.oneshot(get("/me"))).await.unwrap().status(), StatusCode::OK);
}

/// The wrong order: the permit is held while the request waits, and a source behind the same limiter never gets one.
#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_outside_holds_its_permit_for_as_long_as_the_refresh_takes() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::with_limited_source(&limit);
    let mut client = ConcurrencyLimit::with_semaphore(parts.layer.layer(parts.api.clone()), limit.clone());
    let error = send(&mut client, get("/me")).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Timeout);
    // It has ended all the same, and what it fetched late is used.
    parts.session.settle().await.unwrap();
    assert_eq!(send(&mut client, get("/me")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(parts.authority.counts().token_calls(), 1);
}

// Load shedding.

#[tokio::test(start_paused = true)]
async fn a_load_shed_outside_sheds_nothing_because_of_a_refresh() {
    let parts = Parts::new();
    let gate = parts.authority.hold(Endpoint::Login);
    let mut client = LoadShed::new(parts.layer.layer(ConcurrencyLimit::new(parts.api.clone(), 1)));
    let calls: Vec<_> = (0..3)
        .map(|_| {
            reserve(&mut client);
            tokio::spawn(client.call(get("/me")))
        })
        .collect();
    gate.waiting(1).await;
    gate.open();
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_shed_inside_sheds_either_attempt_and_no_refresh_follows() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::new().revoked().await;
    let limited = ConcurrencyLimit::with_semaphore(parts.api.clone(), limit.clone());
    let client = parts.layer.layer(LoadShed::new(limited));

    let taken = limit.clone().acquire_owned().await.unwrap();
    let error = client.clone().oneshot(get("/me")).await.unwrap_err();
    assert!(error.is::<Overloaded>());
    assert_eq!(parts.authority.counts().refreshes, 0);

    drop(taken);
    let gate = parts.authority.hold(Endpoint::Refresh);
    let call = tokio::spawn(client.oneshot(get("/me")));
    gate.waiting(1).await;
    let _taken = limit.acquire_owned().await.unwrap();
    gate.open();
    assert!(soon(call).await.unwrap().unwrap_err().is::<Overloaded>());
    assert_eq!(parts.authority.counts().refreshes, 1);
}

// Timeouts.

#[tokio::test(start_paused = true)]
async fn a_total_timeout_ends_the_request_and_not_the_refresh() {
    let parts = Parts::new().revoked().await;
    let gate = parts.authority.hold(Endpoint::Refresh);
    let mut client = Timeout::new(parts.layer.layer(parts.api.clone()), SECOND);
    let error = send(&mut client, get("/me")).await.unwrap_err();
    assert!(error.is::<Elapsed>());

    gate.open();
    parts.session.settle().await.unwrap();
    let answer = send(&mut client, get("/me")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.extensions().get::<Outcome>().is_none(), "the token was there already");
    assert_eq!(parts.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_is_the_answer_and_starts_no_refresh() {
    for (let_through, refreshes) in [(0, 0), (1, 1)] {
        let parts = Parts::new().revoked().await;
        let gate = parts.api.hold(Phase::Answer);
        gate.let_through(let_through);
        let mut client = parts.layer.layer(Timeout::new(parts.api.clone(), SECOND));
        let error = soon(send(&mut client, get("/me"))).await.unwrap_err();
        assert!(error.is::<Elapsed>());
        assert_eq!(parts.authority.counts().refreshes, refreshes);
        assert_eq!(parts.api.requests().len(), let_through + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempts_timeout_bounds_attempts_and_not_the_wait_between_them() {
    let parts = Parts::new().revoked().await;
    let gate = parts.authority.hold(Endpoint::Refresh);
    let mut inside = parts.layer.layer(Timeout::new(parts.api.clone(), SECOND));
    // The wrong order: each attempt takes no time at all, but the refresh between them does.
    let mut outside = Timeout::new(parts.layer.layer(parts.api.clone()), SECOND);
    let call = tokio::spawn(async move { send(&mut inside, get("/me")).await });
    assert!(send(&mut outside, get("/me")).await.unwrap_err().is::<Elapsed>());
    tokio::time::advance(10 * SECOND).await;
    gate.open();
    assert_eq!(soon(call).await.unwrap().unwrap().status(), StatusCode::OK);
}

// Retries.

#[tokio::test(start_paused = true)]
async fn a_retry_outside_repeats_the_request_and_not_the_refresh() {
    let parts = Parts::new().revoked().await;
    let faults = Faults::new([Fault::Reset, Fault::Status(503), Fault::None, Fault::Status(502)]);
    let again = Again::times(3);
    let mut client = Retry::new(again.clone(), parts.layer.layer(faults.before(&parts.api)));
    let answer = soon(send(&mut client, post("/echo", "hello"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.body().bytes(), "hello");
    assert_eq!(parts.authority.counts().refreshes, 1);
    // Reset, 503, 401 and its resend with 502, 200.
    assert_eq!((again.retries(), faults.met()), (3, 5));
    assert_eq!(parts.api.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_outside_does_not_ask_a_cooling_authority_again() {
    let parts = Parts::new();
    parts.authority.fail_always(Endpoint::Login, Failure::Reset);
    let again = Again::times(5);
    let mut client = Retry::new(again.clone(), parts.layer.layer(parts.api.clone()));
    let error = soon(send(&mut client, get("/me"))).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Transient);
    assert_eq!(again.retries(), 5);
    assert_eq!(parts.authority.counts().logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_outside_leaves_a_refused_response_alone() {
    let parts = Parts::new().revoked().await;
    parts.authority.fail_always(Endpoint::Refresh, Failure::Reset);
    let again = Again::times(5);
    let mut client = Retry::new(again.clone(), parts.layer.layer(parts.api.clone()));
    let answer = soon(send(&mut client, get("/me"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.extensions().get::<RefreshFailure>().unwrap().error().is_transient());
    assert_eq!(again.retries(), 0);
}

/// The wrong order: the body is ours, and cannot be cloned. Everything passes through, and nothing is retried.
#[tokio::test(start_paused = true)]
async fn a_retry_inside_can_repeat_nothing_that_has_a_body() {
    let parts = Parts::new().revoked().await;
    let faults = Faults::new([Fault::Status(503)]);
    let again = Again::times(5);
    let mut client = parts.layer.layer(Retry::new(again.clone(), faults.before(&parts.api)));
    let answer = soon(send(&mut client, post("/echo", "hello"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(again.retries(), 0);
    let answer = soon(send(&mut client, post("/echo", "hello"))).await.unwrap();
    assert_eq!(answer.body().bytes(), "hello");
    assert_eq!(parts.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_inside_can_repeat_a_request_without_a_body() {
    let parts = Parts::new().revoked().await;
    // One fault on each attempt.
    let faults = Faults::new([Fault::Status(503), Fault::None, Fault::Reset]);
    let again = Again::times(5);
    let mut client = parts.layer.layer(Retry::new(again.clone(), faults.before(&parts.api)));
    assert_eq!(soon(send(&mut client, get("/me"))).await.unwrap().status(), StatusCode::OK);
    assert_eq!(again.retries(), 2);
    assert_eq!(parts.authority.counts().refreshes, 1);
}

// All together.

/// Caches by the URI, and nothing else.
#[tokio::test(start_paused = true)]
async fn a_cache_outside_does_not_see_whose_answer_it_keeps() {
    let whose = service_fn(async |request: Sent| {
        let credential = request.headers()[header::AUTHORIZATION].as_bytes().to_vec();
        Ok::<_, BoxError>(Response::new(ModelBody::from(credential)))
    });
    let client = TokenRefreshLayer::new(Parts::new().session, origin()).layer(whose);
    let kept = Arc::new(Mutex::new(HashMap::new()));
    let cache = service_fn(move |request: Request<ModelBody>| {
        assert!(request.headers().is_empty(), "there is no credential yet");
        let (client, kept, uri) = (client.clone(), kept.clone(), request.uri().clone());
        async move {
            let hit = kept.lock().unwrap().get(&uri).cloned();
            if let Some(body) = hit {
                return Ok::<_, BoxError>(body);
            }
            let body = client.oneshot(request).await?.into_body();
            kept.lock().unwrap().insert(uri, body.clone());
            Ok(body)
        }
    });
    for user in ["alice", "bob"] {
        let session = Session::builder(source_fn(move |_| ready(Ok(Token::new(user))))).build();
        let mut request = get("/me");
        request.extensions_mut().insert(session);
        let answer = soon(cache.clone().oneshot(request)).await.unwrap();
        assert_eq!(answer.bytes(), "Bearer alice", "that is what {user} gets");
    }
}

/// It keeps every status by the URI.
#[tokio::test(start_paused = true)]
async fn a_cache_inside_that_keeps_refusals_answers_the_resend() {
    let parts = Parts::new().revoked().await;
    let (api, kept) = (parts.api.clone(), Arc::new(Mutex::new(HashMap::new())));
    let cache = service_fn(move |request: Sent| {
        let (api, kept, uri) = (api.clone(), kept.clone(), request.uri().clone());
        async move {
            let hit = kept.lock().unwrap().get(&uri).copied();
            let status = match hit {
                Some(status) => status,
                None => api.oneshot(request).await?.status(),
            };
            kept.lock().unwrap().insert(uri, status);
            let mut answer = Response::new(ModelBody::default());
            *answer.status_mut() = status;
            Ok::<_, BoxError>(answer)
        }
    });
    let answer = soon(parts.layer.clone().layer(cache).oneshot(get("/me"))).await.unwrap();
    let outcome = answer.extensions().get::<Outcome>().unwrap();
    assert_eq!((answer.status(), outcome.attempts()), (StatusCode::UNAUTHORIZED, 2));
    assert_eq!((parts.authority.counts().refreshes, parts.api.requests().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_recommended_order_survives_every_fault_at_once() {
    let limit = Arc::new(Semaphore::new(1));
    let parts = Parts::with_limited_source(&limit).revoked().await;
    let faults = Faults::new([Fault::Hang, Fault::Reset, Fault::None, Fault::Status(503)]);
    let stack = |client| {
        ServiceBuilder::new()
            .layer(TimeoutLayer::new(4 * SECOND))
            .layer(RetryLayer::new(Again::times(3)))
            .layer(parts.layer.clone())
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(limit.clone()))
            .layer(TimeoutLayer::new(SECOND))
            .service(client)
    };
    let mut client = stack(faults.before(&parts.api));
    let answer = soon(send(&mut client, post("/echo", "hello"))).await.unwrap();
    assert_eq!(answer.body().bytes(), "hello");
    // The attempt that hung, the reset, the 401 and its resend with 503, 200.
    assert_eq!(faults.met(), 5);
    assert_eq!(parts.authority.counts().refreshes, 1);
    assert_eq!(limit.available_permits(), 1);

    // And the total still holds.
    parts.authority.revoke_access();
    let gate = parts.authority.hold(Endpoint::Refresh);
    let client = stack(Faults::new([]).before(&parts.api));
    assert!(soon(client.clone().oneshot(get("/me"))).await.unwrap_err().is::<Elapsed>());
    gate.open();
    assert_eq!(soon(client.oneshot(get("/me"))).await.unwrap().status(), StatusCode::OK);
    assert_eq!(parts.authority.counts().refreshes, 2);
}

// Tools.

/// Repeats transport errors and answers with 5xx; a request whose body can be cloned, or is empty.
#[derive(Clone)]
struct Again {
    left: usize,
    retries: Arc<Mutex<usize>>,
}

impl Again {
    fn times(left: usize) -> Self {
        Again { left, retries: Arc::default() }
    }

    fn retries(&self) -> usize {
        *self.retries.lock().unwrap()
    }

    fn decide(&mut self, result: &Result<Answer, BoxError>) -> Option<Ready<()>> {
        let failed = result.as_ref().map_or(true, |answer| answer.status().is_server_error());
        self.left = self.left.checked_sub(usize::from(failed))?;
        failed.then(|| {
            *self.retries.lock().unwrap() += 1;
            ready(())
        })
    }
}

impl Policy<Request<ModelBody>, Answer, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<ModelBody>,
        result: &mut Result<Answer, BoxError>,
    ) -> Option<Ready<()>> {
        self.decide(result)
    }

    fn clone_request(&mut self, request: &Request<ModelBody>) -> Option<Request<ModelBody>> {
        Some(request.clone())
    }
}

impl Policy<Sent, Answer, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Sent, result: &mut Result<Answer, BoxError>) -> Option<Ready<()>> {
        self.decide(result)
    }

    fn clone_request(&mut self, request: &Sent) -> Option<Sent> {
        request.body().is_end_stream().then(|| {
            let mut copy = Request::new(ReplayBody::default());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.headers_mut() = request.headers().clone();
            copy
        })
    }
}

/// What is wrong with the way to the API, call by call; nothing, once they are used up.
#[derive(Clone)]
struct Faults(Arc<Mutex<(VecDeque<Fault>, usize)>>);

#[derive(Clone, Copy)]
enum Fault {
    None,
    Reset,
    Hang,
    Status(u16),
}

impl Faults {
    fn new(faults: impl IntoIterator<Item = Fault>) -> Self {
        Faults(Arc::new(Mutex::new((faults.into_iter().collect(), 0))))
    }

    /// How many calls have come.
    fn met(&self) -> usize {
        self.0.lock().unwrap().1
    }

    fn before(&self, api: &ModelApi) -> Boxed<Sent> {
        let (faults, api) = (self.clone(), api.clone());
        BoxCloneService::new(service_fn(move |request| {
            let (faults, api) = (faults.clone(), api.clone());
            async move {
                let fault = {
                    let mut faults = faults.0.lock().unwrap();
                    faults.1 += 1;
                    faults.0.pop_front().unwrap_or(Fault::None)
                };
                match fault {
                    Fault::None => api.oneshot(request).await,
                    Fault::Reset => Err("connection reset".into()),
                    Fault::Hang => std::future::pending().await,
                    Fault::Status(status) => {
                        let answer = Response::builder().status(status);
                        Ok(answer.body(ModelBody::default()).unwrap())
                    }
                }
            }
        }))
    }
}
