//! Sessions that outlive a runtime, serve several, or have none.

use std::{
    cell::Cell,
    fmt::Debug,
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};
use tokio_test::{assert_pending, assert_ready_err, task};
use tower::{BoxError, Layer, ServiceExt};
use tower_token_refresh::{
    Error, ErrorKind, FetchContext, FetchError, RefreshFailure, Session, Token, TokenRefreshLayer,
    TokenSource,
    event::Event,
    session::{RenewalMode, SessionBuilder},
    source_fn,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelApi, ModelAuthority, Rotation, TestClock},
    time::Clock,
};

use crate::{
    script::{idle, within},
    world::{World, get, origin, post},
};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error).expect("an error of ours").kind()
}

// A runtime goes away.

#[test]
fn a_runtime_that_ends_during_the_fetch_leaves_a_session_that_works_on_the_next() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    a_runtime_ends_during_a_refresh(&world, &gate);
    assert_eq!(world.authority.counts().logins, 2);
    assert_eq!(world.authority.counts().max_in_flight, 1);
}

#[test]
fn a_runtime_that_ends_while_the_lease_is_waited_for_leaves_a_session_that_works_on_the_next() {
    let (store, gate) = HeldStore::at(Call::Lock);
    let world = World::with(ModelAuthority::new(), |builder| builder.store(store), |layer| layer);
    a_runtime_ends_during_a_refresh(&world, &gate);
    assert_eq!(world.authority.counts().logins, 1);
}

#[test]
fn a_runtime_that_ends_while_the_lease_is_held_gives_it_back() {
    let (store, gate) = HeldStore::at(Call::Load);
    let world = World::with(ModelAuthority::new(), |builder| builder.store(store), |layer| layer);
    a_runtime_ends_during_a_refresh(&world, &gate);
    assert_eq!(world.authority.counts().logins, 1);
}

/// The authority has answered already: its token is saved by the next refresh, and used without another fetch.
#[test]
fn a_runtime_that_ends_during_the_save_loses_no_token() {
    let (store, gate) = HeldStore::at(Call::Save);
    let kept = store.inner.clone();
    let world = World::with(ModelAuthority::new(), |builder| builder.store(store), |layer| layer);
    a_runtime_ends_during_a_refresh(&world, &gate);
    assert_eq!(world.authority.counts().logins, 1);
    let record = runtime().block_on(kept.load()).unwrap().unwrap();
    assert!(world.authority.is_alive(record.token.unwrap().access.expose()));
}

/// And if it still cannot be saved there, it is used all the same: the refresh token before it is spent.
#[test]
fn a_runtime_that_ends_during_the_save_loses_no_token_to_a_store_that_fails() {
    let (store, gate) = HeldStore::at(Call::Save);
    let fails = store.fails.clone();
    let world = World::with(ModelAuthority::new(), |builder| builder.store(store), |layer| layer);
    let (first, second) = (runtime(), runtime());
    gate.let_through(1);
    first.block_on(world.session.token()).unwrap();
    world.authority.revoke_access();
    first.block_on(async {
        tokio::spawn(world.client.clone().oneshot(get("/me")));
        gate.waiting(1).await;
    });
    drop(first);

    *fails.lock().unwrap() = true;
    gate.open();
    let answer = second.block_on(world.get("/me")).unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(world.authority.counts().presented_again(), 0);
    assert_eq!(world.authority.counts().family_deaths, 0);
}

/// The store is busy with another replacement then.
#[test]
fn a_runtime_that_ends_loses_nothing_that_came_in_the_moment_of_a_replacement() {
    let (store, gate) = HeldStore::at(Call::Save);
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    let (clock, own) = (TurningClock::default(), Arc::new(OnceLock::<Session>::new()));
    let (source, turn, session) = (Arc::new(authority.source()), clock.replaces.clone(), own.clone());
    let source = source_fn(move |context: FetchContext| {
        let (source, turn, session) = (source.clone(), turn.clone(), session.clone());
        async move {
            let answer = source.fetch(context).await;
            *turn.lock().unwrap() = session.get().cloned();
            answer
        }
    });
    let session = Session::builder(source).store(store).clock(clock).build();
    let (first, second) = (runtime(), runtime());
    gate.let_through(1);
    first.block_on(session.token()).unwrap();
    second.block_on(async {
        assert_pending!(task::spawn(session.replace(Token::new("elsewhere"))).poll());
        gate.waiting(1).await;
    });
    own.set(session.clone()).unwrap();
    first.block_on(async {
        assert_pending!(task::spawn(session.refresh()).poll());
        idle().await;
    });
    assert_eq!(authority.counts().refreshes, 1);
    drop(first);

    gate.open();
    second.block_on(async { within(session.refresh()).await.unwrap() });
    assert_eq!(authority.counts().presented_again(), 0);
}

/// A source that blocks its thread is asked on while its runtime ends, here over a store whose leases keep nobody out. Its
/// answer counts.
#[test]
fn no_fetch_runs_beside_one_that_its_runtime_cannot_drop() {
    let (begun, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (fetches, released) = (Arc::new(AtomicUsize::new(0)), Mutex::new(released));
    let counted = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            begun.send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        }
        async { Ok::<_, FetchError>(Token::new("blocked")) }
    });
    let session = Session::builder(source).store(Unleased(MemoryStore::new())).build();
    let ending = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let of_the_ending = session.clone();
    ending.spawn(async move { of_the_ending.token().await });
    has_begun.recv().unwrap();
    // Younger tasks, which are dropped after those of the refresh.
    let (others, gone) = mpsc::channel::<()>();
    for _ in 0..100 {
        let other = others.clone();
        ending.spawn(async move {
            let _other = other;
            pending::<()>().await;
        });
    }
    drop(others);
    ending.shutdown_background();
    gone.recv().unwrap_err();

    // In real time: the other runtime is not idle.
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut waiter = task::spawn(session.token());
        assert_pending!(waiter.poll());
        idle().await;
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        release.send(()).unwrap();
        assert_eq!(within(waiter).await.unwrap().access().expose(), "blocked");
    });
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[test]
fn a_renewal_in_the_background_is_not_lost_if_its_runtime_settles_before_it_ends() {
    let (clock, life) = (TestClock::new(), Duration::from_secs(3600));
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(life);
    let world = World::with(authority, |session| session.clock(clock.clone()), |layer| layer);
    runtime().block_on(world.session.token()).unwrap();
    clock.advance(life - Duration::from_secs(30));
    let gate = world.authority.hold(Endpoint::Refresh);
    runtime().block_on(async {
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
        let mut settling = task::spawn(world.session.settle());
        assert_pending!(settling.poll());
        gate.waiting(1).await;
        gate.open();
        settling.await.unwrap();
    });
    runtime().block_on(async {
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
        world.session.settle().await.unwrap();
    });
    let counts = world.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (1, 0, 0));
}

/// A request that is refused and cannot be sent again waits for no refresh, in whatever mode a due token is renewed.
#[test]
fn a_refresh_that_an_upload_leaves_behind_is_lost_with_its_runtime_in_line_too_unless_that_settles() {
    for settles in [false, true] {
        let world = World::with(
            ModelAuthority::new(),
            |session| session.renewal(RenewalMode::Inline),
            |layer| layer.replay_limit(1).unwrap(),
        );
        let (first, second) = (runtime(), runtime());
        first.block_on(world.session.token()).unwrap();
        world.authority.revoke_access();
        let gate = world.authority.hold(Endpoint::Refresh);
        first.block_on(async {
            let answer = world.send(post("/upload", "more than the limit")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            gate.waiting(1).await;
            if settles {
                gate.open();
                world.session.settle().await.unwrap();
            }
        });
        drop(first);
        gate.open();
        assert_eq!(second.block_on(world.get("/me")).unwrap().status(), StatusCode::OK);
        assert_eq!(world.authority.counts().presented_again(), usize::from(!settles));
    }
}

/// One runtime ends while its refresh is at the gate, and a request on another waits for that.
fn a_runtime_ends_during_a_refresh(world: &World, gate: &Gate) {
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        tokio::spawn(world.client.clone().oneshot(get("/me")));
        gate.waiting(1).await;
    });
    let mut waiter = task::spawn(world.client.clone().oneshot(get("/me")));
    second.block_on(async { assert_pending!(waiter.poll()) });
    drop(first);
    assert!(waiter.is_woken());

    gate.open();
    second.block_on(async {
        let soon = timeout(Duration::from_secs(5), waiter);
        assert_eq!(soon.await.unwrap().unwrap().status(), StatusCode::OK);
        world.session.settle().await.unwrap();
        world.authority.revoke_access();
        assert_eq!(world.get("/me").await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn a_waiter_outlives_the_runtimes_of_two_others() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let (first, second, home) = (runtime(), runtime(), runtime());
    let [mut one, mut two, mut waiter] = [(); 3].map(|()| task::spawn(world.session.token()));
    first.block_on(async {
        assert_pending!(one.poll());
        gate.waiting(1).await;
    });
    second.block_on(async { assert_pending!(two.poll()) });
    home.block_on(async { assert_pending!(waiter.poll()) });
    drop(first);
    second.block_on(async {
        assert_pending!(two.poll());
        gate.waiting(1).await;
    });
    home.block_on(async { assert_pending!(waiter.poll()) });
    drop(second);
    gate.open();
    home.block_on(async { timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap() });
}

// The service goes away.

#[tokio::test(start_paused = true)]
async fn a_service_dropped_during_a_refresh_lets_it_end_and_leaks_nothing() {
    let authority = ModelAuthority::new();
    let gate = authority.hold(Endpoint::Login);
    let store = MemoryStore::new();
    let (source, alive) = watched(authority.source());
    let session = Session::builder(source).store(store.clone()).build();
    let client = TokenRefreshLayer::new(session, origin()).layer(ModelApi::new(authority.clone()));
    let call = tokio::spawn(client.oneshot(get("/me")));
    gate.waiting(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert!(alive.upgrade().is_some());

    gate.open();
    gone(&alive).await;
    let record = store.load().await.unwrap().unwrap();
    assert!(authority.is_alive(record.token.unwrap().access.expose()));
}

#[tokio::test(start_paused = true)]
async fn a_session_dropped_after_use_leaks_nothing() {
    let authority = ModelAuthority::new();
    let (source, alive) = watched(authority.source());
    let session = Session::builder(source).build();
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(ModelApi::new(authority.clone()));
    let mut changes = session.subscribe();
    for _ in 0..3 {
        assert_eq!(client.clone().oneshot(get("/me")).await.unwrap().status(), StatusCode::OK);
        authority.revoke_access();
    }
    session.logout().await.unwrap();
    client.clone().oneshot(get("/me")).await.unwrap_err();
    drop((session, client));
    gone(&alive).await;
    while changes.next().await.is_some() {}
}

/// A source that is noticed when it is dropped.
fn watched(source: impl TokenSource + Clone) -> (impl TokenSource, Weak<()>) {
    let alive = Arc::new(());
    let weak = Arc::downgrade(&alive);
    let source = source_fn(move |cx: FetchContext| {
        let (source, _alive) = (source.clone(), alive.clone());
        async move { source.fetch(cx).await }
    });
    (source, weak)
}

async fn gone(alive: &Weak<()>) {
    idle().await;
    assert!(alive.upgrade().is_none(), "the source is still held");
}

// No runtime, or half of one.

#[test]
fn a_session_is_built_and_asked_without_a_runtime() {
    let world = World::new();
    assert_eq!(kind(&block_on(world.get("/me")).unwrap_err()), ErrorKind::NoRuntime);
    assert_eq!(block_on(world.session.token()).unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(block_on(world.session.settle()).unwrap_err().kind(), ErrorKind::NoRuntime);
    let pinned = Session::builder(world.authority.source()).on_current_runtime();
    assert_eq!(pinned.unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(world.authority.counts().token_calls(), 0);
    // Nobody cools down for that.
    assert_eq!(runtime().block_on(world.get("/me")).unwrap().status(), StatusCode::OK);
}

#[test]
fn a_request_with_a_good_token_needs_no_runtime() {
    let world = World::new();
    runtime().block_on(world.session.token()).unwrap();
    assert_eq!(block_on(world.get("/me")).unwrap().status(), StatusCode::OK);

    world.authority.revoke_access();
    let answer = block_on(world.get("/me")).unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let failure = answer.extensions().get::<RefreshFailure>().unwrap();
    assert_eq!(failure.error().kind(), ErrorKind::NoRuntime);
    assert_eq!(world.authority.counts().refreshes, 0);
    assert_eq!(runtime().block_on(world.get("/me")).unwrap().status(), StatusCode::OK);
}

#[test]
fn a_change_without_a_runtime_holds_and_is_saved_later() {
    let authority = ModelAuthority::new();
    let token = runtime().block_on(authority.login()).unwrap();
    let store = MemoryStore::new();
    let world = World::with(authority, |builder| builder.store(store.clone()), |layer| layer);
    assert_eq!(block_on(world.session.login(token)).unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(block_on(world.get("/me")).unwrap().status(), StatusCode::OK);
    runtime().block_on(async {
        assert!(store.load().await.unwrap().is_none());
        world.session.settle().await.unwrap();
        assert!(store.load().await.unwrap().is_some());
    });
}

#[test]
fn a_change_without_a_runtime_is_saved_where_the_session_is_used_next() {
    let store = MemoryStore::new();
    let world = World::with(ModelAuthority::new(), |builder| builder.store(store.clone()), |layer| layer);
    block_on(world.session.login(Token::new("of-bob"))).unwrap_err();
    runtime().block_on(async {
        world.session.token().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.load().await.unwrap().unwrap().token.unwrap().access.expose(), "of-bob");
    });
}

#[test]
fn a_replacement_without_a_runtime_or_timers_holds_if_there_is_nothing_to_look_for() {
    let timeless = Builder::new_current_thread().enable_io().build().unwrap();
    let looks = Token::new("elsewhere");
    for (token, holds) in [(looks.clone(), false), (looks.without_refresh_token(), true)] {
        for has_a_runtime in [false, true] {
            let world = World::new();
            let replacing = world.session.replace(token.clone());
            let replaced = if has_a_runtime { timeless.block_on(replacing) } else { block_on(replacing) };
            assert_eq!(replaced.unwrap_err().kind(), ErrorKind::NoRuntime);
            assert_eq!(block_on(world.session.token()).is_ok(), holds);
        }
    }
}

#[test]
fn a_runtime_without_timers_is_an_error_and_no_fetch() {
    let world = World::new();
    let timeless = Builder::new_current_thread().enable_io().build().unwrap();
    assert_eq!(kind(&timeless.block_on(world.get("/me")).unwrap_err()), ErrorKind::NoRuntime);
    assert_eq!(timeless.block_on(world.session.settle()).unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(
        timeless.block_on(world.session.login(Token::new("t"))).unwrap_err().kind(),
        ErrorKind::NoRuntime
    );
    assert_eq!(timeless.block_on(world.session.logout()).unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(world.authority.counts().token_calls(), 0);
}

#[test]
fn refreshes_that_have_asked_nothing_do_not_lengthen_the_cooling() {
    let world = World::new();
    let timeless = Builder::new_current_thread().enable_io().build().unwrap();
    for _ in 0..8 {
        timeless.block_on(world.session.token()).unwrap_err();
    }
    runtime().block_on(async {
        world.authority.fail_next(Endpoint::Login, Failure::Reset);
        world.session.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.session.token().await.expect("one failure cools down for a second");
    });
}

#[test]
fn a_session_pinned_to_a_runtime_that_has_ended_fails_at_once() {
    let pinned = runtime();
    let world = World::with(
        ModelAuthority::new(),
        |builder| {
            let _inside = pinned.enter();
            builder.on_current_runtime().unwrap()
        },
        |layer| layer,
    );
    assert_eq!(pinned.block_on(world.get("/me")).unwrap().status(), StatusCode::OK);
    drop(pinned);
    world.authority.revoke_access();
    world.authority.revoke_refresh();

    let other = runtime();
    let _inside = other.enter();
    for _ in 0..3 {
        // In a single poll.
        let error = assert_ready_err!(task::spawn(world.session.refresh()).poll());
        assert_eq!(error.kind(), ErrorKind::NoRuntime);
    }
    let answer = block_on(world.get("/me")).unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let failure = answer.extensions().get::<RefreshFailure>().unwrap();
    assert_eq!(failure.error().kind(), ErrorKind::NoRuntime);
    assert_eq!(world.authority.counts().token_calls(), 1);
}

#[test]
fn a_session_that_is_over_says_so_where_its_runtime_has_gone() {
    let pinned = runtime();
    let session = {
        let _inside = pinned.enter();
        let source = source_fn(|_| async { Err::<Token, _>(FetchError::login_required("over")) });
        Session::builder(source).on_current_runtime().unwrap().build()
    };
    pinned.block_on(session.token()).unwrap_err();
    drop(pinned);
    runtime().block_on(async {
        // The first of them looks whether somebody has logged in elsewhere.
        tokio::time::sleep(Duration::from_secs(60)).await;
        for _ in 0..2 {
            assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::LoginRequired);
        }
    });
}

// Several at once.

#[test]
fn a_pinned_session_refreshes_where_it_was_told() {
    let (pinned, passing) = (runtime(), runtime());
    let (authority, place) = (ModelAuthority::new(), Arc::new(Mutex::new(None)));
    let source = {
        let (source, place) = (authority.source(), place.clone());
        source_fn(move |cx: FetchContext| {
            let (source, place) = (source.clone(), place.clone());
            async move {
                *place.lock().unwrap() = Some(tokio::runtime::Handle::current().id());
                source.fetch(cx).await
            }
        })
    };
    let session = {
        let _inside = pinned.enter();
        Session::builder(source).on_current_runtime().unwrap().build()
    };
    let mut token = task::spawn(session.token());
    passing.block_on(async { assert_pending!(token.poll()) });
    drop(passing);
    assert_pending!(token.poll(), "the refresh ended with the wrong runtime");
    pinned.block_on(token).unwrap();
    assert_eq!(*place.lock().unwrap(), Some(pinned.handle().id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_on_many_threads_share_one_refresh() {
    let world = World::new();
    for refreshes in 0..3 {
        let mut calls = JoinSet::new();
        for _ in 0..200 {
            let client = world.client.clone();
            calls.spawn(async move { client.oneshot(get("/me")).await.unwrap().status() });
        }
        assert_eq!(calls.join_all().await, [StatusCode::OK; 200]);
        let counts = world.authority.counts();
        assert_eq!((counts.logins, counts.refreshes, counts.max_in_flight), (1, refreshes, 1));
        world.authority.revoke_access();
    }
}

#[test]
fn requests_on_two_runtimes_at_once_share_one_refresh() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let runtimes = [1, 2]
        .map(|threads| Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap());
    let calls = runtimes.each_ref().map(|runtime| {
        let client = world.client.clone();
        runtime.spawn(client.oneshot(get("/me")))
    });
    block_on(gate.waiting(1));
    gate.open();
    for call in calls {
        assert_eq!(block_on(call).unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().token_calls(), 1);
}

// Tools.

/// A clock at whose reading somebody replaces the token.
#[derive(Default)]
struct TurningClock {
    clock: TestClock,
    replaces: Arc<Mutex<Option<Session>>>,
}

impl Clock for TurningClock {
    fn monotonic(&self) -> Duration {
        let session = self.replaces.lock().unwrap().take();
        if let Some(session) = session {
            assert_pending!(task::spawn(session.replace(Token::new("at-that-moment"))).poll());
        }
        self.clock.monotonic()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }
}

/// A store whose leases keep nobody out.
struct Unleased(MemoryStore);

impl TokenStore for Unleased {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await
    }

    async fn save(&self, record: &Record, _fence: Option<u64>) -> Result<(), BoxError> {
        self.0.save(record, None).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        Ok(Lease::new(0, ()))
    }
}

/// A store in memory, one of whose calls is held at a gate and can be made to fail behind it.
struct HeldStore {
    inner: MemoryStore,
    call: Call,
    gate: Gate,
    fails: Arc<Mutex<bool>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Call {
    Lock,
    Load,
    Save,
}

impl HeldStore {
    fn at(call: Call) -> (Self, Gate) {
        let gate = Gate::new();
        (HeldStore { inner: MemoryStore::new(), call, gate: gate.clone(), fails: Arc::default() }, gate)
    }

    async fn pass(&self, call: Call) -> Result<(), BoxError> {
        if self.call == call {
            self.gate.pass().await;
            if *self.fails.lock().unwrap() {
                return Err("the disk is full".into());
            }
        }
        Ok(())
    }
}

impl TokenStore for HeldStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.pass(Call::Load).await?;
        self.inner.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.pass(Call::Save).await?;
        self.inner.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.pass(Call::Lock).await?;
        self.inner.lock().await
    }
}

/// Runs a future without tokio.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// The runtime on which this has come to the gate, and which nobody drives any more.
fn left_at(gate: &Gate, waiter: &mut task::Spawn<impl Future<Output: Debug>>) -> Runtime {
    let runtime = runtime();
    runtime.block_on(async {
        assert_pending!(waiter.poll());
        gate.waiting(1).await;
    });
    runtime
}

/// A runtime that nobody drives any more, with a refresh on it that waits at a gate.
pub(crate) fn left_in_flight(world: &World) -> (Gate, Runtime) {
    let gate = world.authority.hold(Endpoint::Login);
    let abandoned = left_at(&gate, &mut task::spawn(world.session.token()));
    (gate, abandoned)
}

#[test]
fn a_runtime_that_nobody_drives_any_more_holds_the_callers_of_another_no_longer_than_the_refresh_timeout() {
    let world = World::new();
    let (gate, abandoned) = left_in_flight(&world);
    runtime().block_on(async {
        for _ in 0..2 {
            let start = tokio::time::Instant::now();
            let waited = timeout(Duration::from_secs(3600), world.session.token()).await;
            assert_eq!(waited.expect("an answer in time").unwrap_err().kind(), ErrorKind::Timeout);
            assert_eq!(start.elapsed(), Duration::from_secs(30));
        }
    });
    gate.open();
    drop(abandoned);
    assert!(runtime().block_on(world.session.token()).is_ok(), "it does not outlive its runtime");
}

/// The wait ends with an error, by a time limit, on yet another runtime.
fn ends_elsewhere<T: Debug>(waiter: impl Future<Output = Result<T, Error>>, expected: ErrorKind) {
    runtime().block_on(async {
        let waited = timeout(Duration::from_secs(3600), waiter).await;
        assert_eq!(waited.expect("an answer in time").unwrap_err().kind(), expected);
    });
}

#[test]
fn a_wait_for_such_a_runtime_that_moves_to_a_third_one_ends_there_by_the_refresh_timeout() {
    for passing_ends in [true, false] {
        let world = World::new();
        let (_gate, _abandoned) = left_in_flight(&world);
        let mut waiter = task::spawn(world.session.token());
        let passing = runtime();
        passing.block_on(async { assert_pending!(waiter.poll()) });
        let _undriven = (!passing_ends).then_some(passing);
        ends_elsewhere(waiter, ErrorKind::Timeout);
    }
}

#[test]
fn a_wait_that_leaves_the_runtime_of_its_own_refresh_ends_by_the_refresh_timeout() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let mut waiter = task::spawn(world.session.token());
    let _undriven = left_at(&gate, &mut waiter);
    ends_elsewhere(waiter, ErrorKind::Timeout);
}

#[test]
fn a_change_that_leaves_the_runtime_of_its_write_ends_by_the_time_limit_of_the_store() {
    let (store, gate) = HeldStore::at(Call::Save);
    let session = Session::builder(ModelAuthority::new().source()).store(store).build();
    let mut login = task::spawn(session.login(Token::new("of-bob")));
    let _undriven = left_at(&gate, &mut login);
    ends_elsewhere(login, ErrorKind::Store);
}

/// It looks for the refresh token that it keeps.
#[test]
fn a_replacement_that_leaves_the_runtime_of_its_look_ends_with_that_or_by_the_time_limit_of_the_store() {
    for looking_ends in [false, true] {
        let (store, gate) = HeldStore::at(Call::Load);
        let session = Session::builder(ModelAuthority::new().source()).store(store).build();
        let mut replacing = task::spawn(session.replace(Token::new("elsewhere")));
        let looking = left_at(&gate, &mut replacing);
        let _undriven = (!looking_ends).then_some(looking);
        ends_elsewhere(replacing, if looking_ends { ErrorKind::NoRuntime } else { ErrorKind::Store });
    }
}

/// And nobody drives the one that writes.
#[test]
fn a_change_that_was_first_polled_without_a_runtime_ends_by_the_time_limit_of_the_store() {
    let undriven = runtime();
    let session = {
        let _inside = undriven.enter();
        Session::builder(ModelAuthority::new().source()).on_current_runtime().unwrap().build()
    };
    let mut login = task::spawn(session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    ends_elsewhere(login, ErrorKind::Store);
}

#[test]
fn settling_that_leaves_the_runtime_of_a_refresh_ends_by_its_time_limit() {
    for passing_ends in [true, false] {
        let world = World::new();
        let (_gate, _undriven) = left_in_flight(&world);
        let mut settling = task::spawn(world.session.settle());
        let passing = runtime();
        passing.block_on(async { assert_pending!(settling.poll()) });
        let _undriven = (!passing_ends).then_some(passing);
        ends_elsewhere(settling, ErrorKind::Timeout);
    }
}

/// A sibling waits for the lease on a runtime that is driven again much later.
#[test]
fn a_lease_is_not_handed_to_a_runtime_that_nobody_drives() {
    let (undriven, here) = (runtime(), runtime());
    let store = MemoryStore::new();
    let held = here.block_on(store.lock()).unwrap();
    let waiter = store.clone();
    let waits = undriven.spawn(async move { waiter.lock().await });
    undriven.block_on(tokio::task::yield_now());
    drop(held);
    let next = here.block_on(within(store.lock())).unwrap();
    drop(next);
    assert_eq!(undriven.block_on(within(waits)).unwrap().unwrap().fence(), 3);
}

// A session that is bound to a runtime which has gone.

/// Its token is due in a second, and lives for a minute more.
fn bound_to_a_runtime_that_has_gone(mode: RenewalMode) -> (World, TestClock) {
    let (clock, life) = (TestClock::new(), Duration::from_secs(3600));
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(life);
    let bound = runtime();
    let world = {
        let _inside = bound.enter();
        let builder = |session: SessionBuilder| {
            let session = session.clock(clock.clone()).renewal(mode).renewal_jitter(Duration::ZERO);
            session.on_current_runtime().unwrap()
        };
        World::with(authority, builder, |layer| layer)
    };
    bound.block_on(world.session.token()).unwrap();
    clock.advance(life - Duration::from_secs(50));
    (world, clock)
}

#[test]
fn a_token_that_is_still_good_is_used_where_the_runtime_for_its_renewal_has_gone() {
    let (world, clock) = bound_to_a_runtime_that_has_gone(RenewalMode::Inline);
    runtime().block_on(async {
        world.session.token().await.unwrap();
        world.session.token_valid_for(Duration::from_secs(60)).await.unwrap();
        clock.advance(Duration::from_secs(50));
        assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::NoRuntime);
    });
}

#[test]
fn the_keeper_takes_its_time_where_the_runtime_for_a_renewal_has_gone() {
    let (world, _clock) = bound_to_a_runtime_that_has_gone(RenewalMode::Background);
    runtime().block_on(async {
        let polls = Cell::new(0);
        let mut keeper = pin!(world.session.keep_fresh());
        let counted = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            assert!(polls.get() < 60, "it goes round in circles");
            keeper.as_mut().poll(cx)
        });
        timeout(Duration::from_secs(600), counted).await.unwrap_err();
        assert!(polls.get() > 1, "it tries again");
    });
}

#[test]
fn the_keeper_takes_its_time_where_a_renewal_needs_time_to_find_that_there_are_no_timers() {
    let timeless = Builder::new_current_thread().build().unwrap();
    let failed = Arc::new(AtomicUsize::new(0));
    let seen = failed.clone();
    let session = {
        let _inside = timeless.enter();
        Session::builder(ModelAuthority::new().source())
            .on_current_runtime()
            .unwrap()
            .observer(move |event: &Event<'_>| {
                seen.fetch_add(usize::from(matches!(event, Event::RefreshFailed { .. })), Ordering::Relaxed);
            })
            .build()
    };
    let home = runtime();
    let mut keeper = task::spawn(session.keep_fresh());
    for _ in 0..100 {
        home.block_on(async { assert_pending!(keeper.poll()) });
        timeless.block_on(tokio::task::yield_now());
    }
    assert!((1..5).contains(&failed.load(Ordering::Relaxed)), "{failed:?} refreshes at once");
}

#[test]
fn the_keeper_of_such_a_session_ends_with_a_logout() {
    // Whatever it is waiting for just then.
    for seconds in (0..200).step_by(10) {
        let (world, _clock) = bound_to_a_runtime_that_has_gone(RenewalMode::Background);
        runtime().block_on(async {
            let keeper = tokio::spawn(world.session.keep_fresh());
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let start = tokio::time::Instant::now();
            let _ = world.session.logout().await;
            keeper.await.unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO, "after {seconds} s");
        });
    }
}
