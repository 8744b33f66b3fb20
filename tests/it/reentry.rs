//! Foreign code that calls back, fails, panics or blocks: sources and observers.

use std::{
    future,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tokio::{
    runtime::Handle,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_test::task;
use tower::{
    BoxError, Layer, Service, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit, service_fn,
    util::BoxCloneSyncService,
};
use tower_token_refresh::{
    Error, ErrorKind, FetchContext, FetchError, NoToken, RefreshFailure, ReplayBody, Session, Token,
    TokenRefreshLayer, TokenSource,
    event::Event,
    session::{SessionBuilder, State},
    source::{Content, LoginCode, Verification},
    source_fn,
    store::MemoryStore,
    test_util::{Endpoint, Failure, ModelApi, ModelAuthority, ModelBody},
};

use crate::{
    watched::throw_a_bomb,
    world::{API, World, get, origin},
};

type Client = BoxCloneSyncService<Request<ModelBody>, Response<ModelBody>, BoxError>;

/// Far earlier than any time limit of the session.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(5), future).await.expect("nothing waits for a time limit of the session")
}

fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error).expect("an error of ours").kind()
}

/// The kind of our error that a source has returned, and the session wrapped.
fn kind_of_cause(error: &BoxError) -> ErrorKind {
    let ours = Error::find(&**error).expect("an error of ours");
    let cause = std::error::Error::source(ours).expect("what the source said");
    Error::find(cause).expect("an error of ours").kind()
}

// Sources that call back.

/// A client whose source is made of that very client and its session.
#[derive(Clone)]
struct Circle {
    authority: ModelAuthority,
    session: Session,
    client: Client,
}

impl Circle {
    fn new<F, Fut>(fetch: F) -> Self
    where
        F: Fn(Circle, FetchContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, FetchError>> + Send,
    {
        Self::stacked(|layer, api| BoxCloneSyncService::new(layer.layer(api)), fetch)
    }

    /// Whose client is behind a buffer, as a task of its own.
    fn buffered<F, Fut>(fetch: F) -> Self
    where
        F: Fn(Circle, FetchContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, FetchError>> + Send,
    {
        Self::stacked(|layer, api| BoxCloneSyncService::new(Buffer::new(layer.layer(api), 1)), fetch)
    }

    fn stacked<F, Fut>(stack: impl FnOnce(TokenRefreshLayer, ModelApi) -> Client, fetch: F) -> Self
    where
        F: Fn(Circle, FetchContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, FetchError>> + Send,
    {
        let whole = Arc::new(OnceLock::<Circle>::new());
        let source = {
            let whole = whole.clone();
            source_fn(move |cx| fetch(whole.get().expect("set below").clone(), cx))
        };
        let authority = ModelAuthority::new();
        let session = Session::builder(source).build();
        let layer = TokenRefreshLayer::new(session.clone(), origin());
        let client = stack(layer, ModelApi::new(authority.clone()));
        let circle = Circle { authority, session, client };
        assert!(whole.set(circle.clone()).is_ok());
        circle
    }

    async fn get(&self) -> Result<StatusCode, BoxError> {
        Ok(self.client.clone().oneshot(get("/me")).await?.status())
    }

    /// The source is told at once that it goes in a circle, and the caller what the source said.
    async fn fails_fast(&self) {
        let error = soon(self.get()).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Reentrant);
        assert_eq!(self.authority.counts().token_calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_calls_through_its_own_layer_fails_at_once() {
    let circle = Circle::new(|circle, _| async move {
        circle.get().await.map_err(FetchError::transient)?;
        circle.authority.login().await
    });
    circle.fails_fast().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_calls_through_its_own_layer_in_another_task_fails_at_once_by_its_mark() {
    let circle = Circle::buffered(|circle, cx| async move {
        let mut request = get("/token");
        cx.mark(&mut request);
        tokio::spawn(circle.client.oneshot(request)).await?.map_err(FetchError::transient)?;
        circle.authority.login().await
    });
    circle.fails_fast().await;
}

/// Also while there is a token: that one may be the very reason of the fetch.
#[tokio::test(start_paused = true)]
async fn a_source_that_calls_through_its_own_layer_fails_at_once_while_there_is_a_token() {
    let circle = Circle::new(|circle, _| async move {
        circle.get().await.map_err(FetchError::transient)?;
        circle.authority.login().await
    });
    circle.session.login(circle.authority.login().await.unwrap()).await.unwrap();
    let error = soon(circle.session.refresh()).await.unwrap_err().into();
    assert_eq!(kind(&error), ErrorKind::Reentrant);
    assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);

    circle.authority.revoke_access();
    assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::UNAUTHORIZED);
}

/// The worker of the buffer has made the limiter ready for the call that fails.
#[tokio::test(start_paused = true)]
async fn a_call_that_fails_as_reentrant_holds_no_permit() {
    let limit = Arc::new(Semaphore::new(1));
    let stack = {
        let limit = limit.clone();
        move |layer: TokenRefreshLayer, api| {
            let limited = ConcurrencyLimit::with_semaphore(api, limit);
            BoxCloneSyncService::new(Buffer::new(layer.layer(limited), 1))
        }
    };
    let circle = Circle::stacked(stack, move |circle, cx| {
        let limit = limit.clone();
        async move {
            let mut request = get("/token");
            cx.mark(&mut request);
            let error = circle.client.oneshot(request).await.unwrap_err();
            assert_eq!(kind(&error), ErrorKind::Reentrant);
            let _permit = limit.acquire().await?;
            circle.authority.login().await
        }
    });
    assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
}

/// The source itself polls what it waits for.
#[tokio::test(start_paused = true)]
async fn a_source_that_calls_through_its_own_layer_behind_a_buffer_fails_at_once_unmarked() {
    let circle = Circle::buffered(|circle, _| async move {
        circle.get().await.map_err(FetchError::transient)?;
        circle.authority.login().await
    });
    circle.fails_fast().await;
}

/// Nothing tells such a call from a user's. It is not for ever.
#[tokio::test(start_paused = true)]
async fn a_source_that_calls_through_its_own_layer_in_another_task_ends_by_the_refresh_timeout_unmarked() {
    let circle = Circle::new(|circle, _| async move {
        let call = tokio::spawn(async move { circle.get().await });
        call.await?.map_err(FetchError::transient)?;
        unreachable!("the call waits for this fetch");
    });
    let start = Instant::now();
    assert_eq!(kind(&circle.get().await.unwrap_err()), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    // Its own call got the same answer, and so it ends.
    soon(circle.session.settle()).await.unwrap();
    let error = soon(circle.get()).await.unwrap_err();
    assert_eq!((kind(&error), kind_of_cause(&error)), (ErrorKind::Transient, ErrorKind::Timeout));
}

/// Nor does one that the layer sees in another task.
#[tokio::test(start_paused = true)]
async fn a_verification_through_its_own_layer_carries_no_credential_and_refreshes_nothing() {
    for is_buffered in [false, true] {
        let whole = Arc::new(OnceLock::<BoxCloneSyncService<_, Response<ModelBody>, BoxError>>::new());
        let client = service_fn({
            let whole = whole.clone();
            move |request: Request<Content>| whole.get().expect("set below").clone().oneshot(request)
        });
        let url = format!("{API}/token").parse().unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let code = {
            let fetches = fetches.clone();
            move || {
                fetches.fetch_add(1, Ordering::SeqCst);
                future::ready(Ok("code".into()))
            }
        };
        let source = LoginCode::mini_program(client, url, code).unwrap();
        let store = MemoryStore::new();
        let before = Session::builder(source_fn(|_| future::ready(Ok(Token::new("unused")))));
        before.store(store.clone()).build().login(Token::new("stored")).await.unwrap();

        let session = Session::builder(source).store(store).build();
        let requests = Arc::new(AtomicUsize::new(0));
        let api = service_fn({
            let requests = requests.clone();
            move |_: Request<ReplayBody<Content>>| {
                requests.fetch_add(1, Ordering::SeqCst);
                let refusal = Response::builder().status(StatusCode::UNAUTHORIZED);
                future::ready(refusal.body(ModelBody::default()))
            }
        });
        let layered = TokenRefreshLayer::new(session.clone(), origin()).layer(api);
        let client = if is_buffered {
            BoxCloneSyncService::new(Buffer::new(layered, 1))
        } else {
            BoxCloneSyncService::new(layered)
        };
        assert!(whole.set(client).is_ok());
        session.start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = (requests.load(Ordering::SeqCst), fetches.load(Ordering::SeqCst));
        assert_eq!(seen, (0, 0), "buffered: {is_buffered}");
        assert_eq!(session.token().await.unwrap().access().expose(), "stored");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_its_own_session_fails_at_once() {
    Circle::new(|circle, _| async move { Ok(circle.session.token().await?) }).fails_fast().await;
    Circle::new(|circle, _| async move { Ok(circle.session.refresh().await?) }).fails_fast().await;
    let settles = Circle::new(|circle, _| async move {
        circle.session.settle().await?;
        circle.authority.login().await
    });
    settles.fails_fast().await;
}

/// Where it would wait for itself, nothing else on its thread would go on.
#[tokio::test(start_paused = true)]
async fn what_a_source_does_before_it_has_a_future_is_a_part_of_the_fetch() {
    let asks = Circle::new(|circle, _| {
        let asked = circle.session.token().now_or_never();
        async move { Ok(asked.ok_or_else(|| FetchError::transient("it waits for itself"))??) }
    });
    asks.fails_fast().await;

    let calls = Circle::new(|circle, _| {
        let call = circle.client.clone().call(get("/token"));
        async move {
            call.await.map_err(FetchError::transient)?;
            circle.authority.login().await
        }
    });
    calls.session.login(calls.authority.login().await.unwrap()).await.unwrap();
    assert_eq!(soon(calls.session.refresh()).await.unwrap_err().kind(), ErrorKind::Reentrant);
}

/// Verifies and revokes by a refresh of its own session, which it asks for before it has a future.
struct Refreshing {
    session: Arc<OnceLock<Session>>,
    told: UnboundedSender<ErrorKind>,
}

impl Refreshing {
    fn refresh(session: &OnceLock<Session>, told: &UnboundedSender<ErrorKind>) {
        let refreshed = session.get().expect("set below").refresh().now_or_never();
        told.send(refreshed.expect("it does not wait").unwrap_err().kind()).unwrap();
    }
}

impl TokenSource for Refreshing {
    async fn fetch(&self, _: FetchContext) -> Result<Token, FetchError> {
        unreachable!("nobody needs another token")
    }

    fn verify(&self, _: &Token) -> impl Future<Output = Verification> + Send {
        Self::refresh(&self.session, &self.told);
        future::ready(Verification::Valid)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_done_before_a_verification_or_a_revocation_has_a_future_is_a_part_of_it() {
    let (told, mut kinds) = unbounded_channel();
    let store = MemoryStore::new();
    let before = Session::builder(ModelAuthority::new().source()).store(store.clone()).build();
    before.login(Token::new("stored")).await.unwrap();

    let session = Arc::new(OnceLock::new());
    let source = Refreshing { session: session.clone(), told: told.clone() };
    let revoke = {
        let session = session.clone();
        move |_| {
            Refreshing::refresh(&session, &told);
            future::ready(())
        }
    };
    let restarted = session.get_or_init(|| Session::builder(source).store(store).revoke_with(revoke).build());
    restarted.start().await.unwrap();
    assert_eq!(soon(kinds.recv()).await, Some(ErrorKind::Reentrant));
    restarted.logout().await.unwrap();
    assert_eq!(soon(kinds.recv()).await, Some(ErrorKind::Reentrant));
}

#[tokio::test(start_paused = true)]
async fn a_source_may_log_in_or_replace_the_token_itself() {
    let login = Circle::new(|circle, _| async move {
        circle.session.login(circle.authority.login().await?).await?;
        Err(FetchError::transient("nobody wants to know"))
    });
    let replace = Circle::new(|circle, _| async move {
        circle.session.replace(circle.authority.login().await?).await?;
        Err(FetchError::transient("nobody wants to know"))
    });
    for circle in [login, replace] {
        assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
        soon(circle.session.settle()).await.unwrap();
        assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
        assert_eq!(circle.authority.counts().token_calls(), 1);
    }
}

/// As an application may that finds its user gone.
#[tokio::test(start_paused = true)]
async fn a_source_may_log_its_own_session_out() {
    let circle = Circle::new(|circle, cx| async move {
        assert!(cx.refresh_token().is_some());
        circle.session.logout().await?;
        Err(FetchError::login_required("wiped"))
    });
    circle.session.login(circle.authority.login().await.unwrap()).await.unwrap();
    circle.authority.revoke_access();
    let mut changes = circle.session.subscribe();
    soon(changes.next()).await.unwrap();
    let response = soon(circle.client.clone().oneshot(get("/me"))).await.unwrap();
    let failure = response.extensions().get::<RefreshFailure>().unwrap();
    assert_eq!(
        (response.status(), failure.error().kind()),
        (StatusCode::UNAUTHORIZED, ErrorKind::SessionEnded)
    );
    soon(circle.session.settle()).await.unwrap();
    assert_eq!(soon(changes.next()).await, Some(State::LoggedOut));
    assert!(task::spawn(changes.next()).poll().is_pending(), "that a login is required is not told beside");
    assert_eq!(circle.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    circle.session.login(circle.authority.login().await.unwrap()).await.unwrap();
    assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_source_may_call_through_its_own_layer_where_no_token_is_shown() {
    let circle = Circle::new(|circle, cx| async move {
        let bare = Request::get(format!("{API}/bare")).extension(NoToken);
        let own = Request::get(format!("{API}/own")).header("authorization", "Bearer of-the-source");
        let elsewhere = Request::get("https://authority.test/elsewhere");
        for request in [bare, own, elsewhere] {
            let mut request = request.body(ModelBody::default())?;
            cx.mark(&mut request);
            let answer = circle.client.clone().oneshot(request).await.map_err(FetchError::transient)?;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        }
        circle.authority.login().await
    });
    assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_source_may_call_through_the_layer_of_another_session() {
    let hub = Circle::new(|hub, _| async move { hub.authority.login().await });
    let hub_client = hub.clone();
    let circle = Circle::new(move |circle, cx| {
        let hub = hub_client.clone();
        async move {
            let mut request = get("/token");
            cx.mark(&mut request);
            let answer = hub.client.oneshot(request).await.map_err(FetchError::transient)?;
            assert_eq!(answer.status(), StatusCode::OK);
            circle.authority.login().await
        }
    });
    for _ in 0..2 {
        assert_eq!(soon(circle.get()).await.unwrap(), StatusCode::OK);
        hub.authority.revoke_access();
        circle.authority.revoke_access();
    }
    assert_eq!(hub.authority.counts().logins, 2);
}

/// Each call is fine by itself; the circle is seen by nobody, and ended by the timeout.
#[tokio::test(start_paused = true)]
async fn two_sessions_that_fetch_through_each_other_end_by_the_refresh_timeout() {
    let other = Arc::new(OnceLock::<Circle>::new());
    let one = Circle::new({
        let other = other.clone();
        move |_, _| {
            let other = other.get().expect("set below").clone();
            async move { Ok(other.session.token().await?) }
        }
    });
    let back = one.clone();
    let two = Circle::new(move |_, _| {
        let one = back.clone();
        async move { Ok(one.session.token().await?) }
    });
    assert!(other.set(two.clone()).is_ok());
    assert_eq!(kind(&one.get().await.unwrap_err()), ErrorKind::Timeout);
    soon(one.session.settle()).await.unwrap();
    soon(two.session.settle()).await.unwrap();
}

// Sources that fail.

#[tokio::test(start_paused = true)]
async fn a_source_that_failed_once_leaves_nothing_behind() {
    type Fault = fn() -> Result<(), FetchError>;
    let faults: [(Fault, ErrorKind); 5] = [
        (|| Err(FetchError::transient("no route")), ErrorKind::Transient),
        (|| Err(FetchError::configuration("no such client")), ErrorKind::Configuration),
        (|| panic!("a bug in the source"), ErrorKind::Panic),
        (|| std::panic::panic_any(7_u8), ErrorKind::Panic),
        (|| throw_a_bomb(), ErrorKind::Panic),
    ];
    for (fault, expected) in faults {
        for is_in_closure in [false, true] {
            let authority = ModelAuthority::new();
            let calls = Arc::new(AtomicUsize::new(0));
            let source = {
                let (authority, calls) = (authority.clone(), calls.clone());
                source_fn(move |_: FetchContext| {
                    let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
                    let early = if is_first && is_in_closure { fault() } else { Ok(()) };
                    let authority = authority.clone();
                    async move {
                        early?;
                        if is_first {
                            fault()?;
                        }
                        authority.login().await
                    }
                })
            };
            let session = Session::builder(source).build();
            let client = TokenRefreshLayer::new(session, origin()).layer(ModelApi::new(authority));
            let mut waiting = JoinSet::new();
            for _ in 0..20 {
                waiting.spawn(client.clone().oneshot(get("/me")));
            }
            for answer in soon(waiting.join_all()).await {
                assert_eq!(kind(&answer.unwrap_err()), expected);
            }
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(soon(client.oneshot(get("/me"))).await.unwrap().status(), StatusCode::OK);
            assert_eq!(calls.load(Ordering::SeqCst), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_no_refused_request_hanging() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        waiting.spawn(world.client.clone().oneshot(get("/me")));
    }
    gate.waiting(1).await;
    gate.open();
    for answer in soon(waiting.join_all()).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.extensions().get::<RefreshFailure>().unwrap().error().is_transient());
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(soon(world.get("/me")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 2);
}

// Observers.

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_is_ignored() {
    an_observer_is_ignored_that(|| panic!("a bug in the observer")).await;
    an_observer_is_ignored_that(|| throw_a_bomb()).await;
}

async fn an_observer_is_ignored_that(panics: fn()) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = {
        let seen = seen.clone();
        move |_: &Event<'_>| {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    };
    let world = World::with(
        ModelAuthority::new(),
        |builder| builder.observer(move |_: &Event<'_>| panics()).observer(count),
        |layer| layer,
    );
    assert_eq!(soon(world.get("/me")).await.unwrap().status(), StatusCode::OK);
    world.authority.revoke_access();
    assert_eq!(soon(world.get("/me")).await.unwrap().status(), StatusCode::OK);
    world.authority.revoke_access();
    world.authority.fail_next(Endpoint::Refresh, Failure::OAuth("invalid_grant"));
    assert_eq!(soon(world.get("/me")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    soon(world.session.logout()).await.unwrap();
    let unscoped = Request::get("/me").body(ModelBody::from("")).unwrap();
    assert_eq!(soon(world.send(unscoped)).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // Issued twice, login required, logged out, unscoped: the next observer hears it all.
    assert_eq!(seen.load(Ordering::SeqCst), 5);
}

/// The state is read under the session's one lock: it is free wherever an observer is called.
#[tokio::test(start_paused = true)]
async fn an_observer_is_called_under_no_lock() {
    let session = Arc::new(OnceLock::<Session>::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let (session, seen) = (session.clone(), seen.clone());
        move |_: &Event<'_>| {
            let mut changes = session.get().expect("set below").subscribe();
            seen.lock().unwrap().push(task::spawn(changes.next()).poll());
        }
    };
    let world = World::with(ModelAuthority::new(), |builder| builder.observer(observer), |layer| layer);
    assert!(session.set(world.session.clone()).is_ok());

    let first = issued(&world.get("/me").await.unwrap(), &world.session).await;
    world.authority.revoke_access();
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    world.get("/me").await.unwrap();
    world.session.replace(world.authority.login().await.unwrap()).await.unwrap();
    let second = issued(&world.get("/me").await.unwrap(), &world.session).await;
    world.session.logout().await.unwrap();
    let states = [first, State::Cooling, second, State::LoggedOut];
    assert_eq!(*seen.lock().unwrap(), states.map(|state| Poll::Ready(Some(state))));
}

/// The present state, of a session that has just been used with success.
async fn issued(answer: &Response<ModelBody>, session: &Session) -> State {
    assert_eq!(answer.status(), StatusCode::OK);
    let state = session.subscribe().next().await.unwrap();
    assert!(matches!(state, State::Issued(_)));
    state
}

/// A world with this `refresh_timeout` and an observer that tells of an event that it is to block at, and then blocks until
/// the sender is dropped.
fn blocked_at(
    is_fatal: impl Fn(&Event<'_>) -> bool + Send + Sync + 'static,
    limit: Duration,
) -> (World, UnboundedReceiver<()>, mpsc::Sender<()>) {
    let (arrived, arrivals) = unbounded_channel();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let observer = move |event: &Event<'_>| {
        if is_fatal(event) {
            arrived.send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        }
    };
    let builder = |builder: SessionBuilder| builder.observer(observer).refresh_timeout(limit).unwrap();
    (World::with(ModelAuthority::new(), builder, |layer| layer), arrivals, release)
}

/// It blocks the thread that refreshes. What has happened holds already, and who waits for the refresh does so no
/// longer than `refresh_timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_observer_that_blocks_stops_no_request_for_longer_than_the_refresh_timeout() {
    for is_healthy in [true, false] {
        let (world, mut arrivals, release) = blocked_at(|_| true, Duration::from_millis(50));
        if !is_healthy {
            world.authority.fail_always(Endpoint::Login, Failure::Reset);
        }
        let waiting = tokio::spawn(world.client.clone().oneshot(get("/me")));
        arrivals.recv().await.unwrap();
        for answer in [soon(world.get("/me")).await, soon(waiting).await.unwrap()] {
            match answer {
                Ok(answer) => assert!(is_healthy && answer.status() == StatusCode::OK),
                Err(error) => assert!(!is_healthy && kind(&error) == ErrorKind::Transient),
            }
        }
        assert_eq!(world.authority.counts().token_calls(), 1);
        drop(release);
        soon(world.session.settle()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_observer_that_blocks_on_a_change_holds_no_waiter_longer_than_the_refresh_timeout() {
    let changes = [
        ("logout", Some(ErrorKind::SessionEnded)),
        ("login", Some(ErrorKind::SessionChanged)),
        ("replace", None),
    ];
    for (change, failure) in changes {
        let events = AtomicUsize::new(0);
        // The first event is that of the first token.
        let is_second = move |_: &Event<'_>| events.fetch_add(1, Ordering::Relaxed) == 1;
        let (world, mut arrivals, release) = blocked_at(is_second, Duration::from_millis(200));
        world.session.token().await.unwrap();
        world.authority.revoke_access();
        let other = world.authority.login().await.unwrap();
        let gate = world.authority.hold(Endpoint::Refresh);
        let waiting = tokio::spawn(world.client.clone().oneshot(get("/me")));
        soon(gate.waiting(1)).await;
        let session = world.session.clone();
        // Not on a worker of the runtime: whoever blocks one may keep the timers from everybody.
        let changing = tokio::task::spawn_blocking(move || {
            Handle::current().block_on(async {
                match change {
                    "logout" => session.logout().await,
                    "login" => session.login(other).await,
                    _ => session.replace(other).await,
                }
            })
        });
        soon(arrivals.recv()).await.unwrap();
        let response = soon(waiting).await.unwrap().unwrap();
        assert_eq!(response.status().is_success(), failure.is_none(), "{change}");
        let told = response.extensions().get::<RefreshFailure>().map(|told| told.error().kind());
        assert_eq!(told, failure, "{change}");
        drop(release);
        soon(changing).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_refresh_by_hand_reports_its_failure_although_an_observer_blocks() {
    let is_failure = |event: &Event<'_>| matches!(event, Event::RefreshFailed { .. });
    let (world, mut arrivals, release) = blocked_at(is_failure, Duration::from_millis(50));
    world.session.token().await.unwrap();
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let waiting = tokio::spawn({
        let session = world.session.clone();
        async move { session.refresh().await }
    });
    arrivals.recv().await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap_err().kind(), ErrorKind::Transient);
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_observer_that_blocks_on_a_failure_until_its_cooling_is_over_makes_nobody_wait_for_the_next_refresh()
 {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(Some(released));
    let observer = move |_: &Event<'_>| {
        let released = released.lock().unwrap().take();
        // The first event, until the test lets go of the other end.
        let _ = released.map(|released| released.recv());
    };
    let builder = |builder: SessionBuilder| {
        let builder = builder.observer(observer).refresh_timeout(Duration::from_millis(50)).unwrap();
        builder.cooling(Duration::ZERO, Duration::ZERO).unwrap()
    };
    let world = World::with(ModelAuthority::new(), builder, |layer| layer);
    world.authority.fail_always(Endpoint::Login, Failure::Reset);
    let error = soon(world.get("/me")).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Transient, "it is told what has happened");
    assert_eq!(world.authority.counts().token_calls(), 1);
    drop(release);
}
