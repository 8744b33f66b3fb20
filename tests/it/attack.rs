//! Hostile neighbours: stores that lie, sources and observers at their worst, runtimes that die at the wrong moment.

use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_test::{assert_pending, assert_ready_err, task};
use tower_token_refresh::{
    ErrorKind, FetchContext, FetchError, Session, Token,
    event::Event,
    session::State,
    source_fn,
    store::{MemoryStore, Record, SessionId, StoredToken, TokenStore},
    test_util::{Endpoint, Gate, ModelAuthority},
};

use crate::{
    runtimes::{left_in_flight, runtime},
    script::until,
    watched::{Fault, Watched},
    world::World,
};

async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(3600), future).await.expect("an answer within the virtual hour")
}

fn record(session: u128, revision: u64, access: &str) -> Record {
    Record::new(SessionId(session), revision, StoredToken::new(access))
}

fn world(store: impl TokenStore) -> World {
    World::with(ModelAuthority::new(), |session| session.store(store), |layer| layer)
}

fn access(token: &Token) -> &str {
    token.access().expose()
}

// Stores that lie or fail.

#[tokio::test(start_paused = true)]
async fn a_record_with_the_last_revision_there_is_stops_nothing() {
    let store = MemoryStore::new();
    store.save(&record(1, u64::MAX, "of-alice"), None).await.unwrap();
    let world = world(store.clone());
    assert_eq!(access(&world.session.token().await.unwrap()), "of-alice");
    let fresh = in_time(world.session.refresh()).await.unwrap();
    assert!(world.authority.is_alive(access(&fresh)));
    world.session.replace(Token::new("replaced")).await.unwrap();
    world.session.login(Token::new("of-bob")).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().token.unwrap().access.expose(), "of-bob");
    world.session.logout().await.unwrap();
    assert!(store.load().await.unwrap().unwrap().token.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_is_not_saved_stays_owed_although_a_refresh_was_being_saved() {
    let store = Watched::default();
    let world = world(store.clone());
    world.session.token().await.unwrap();
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    store.set(|store| (store.hold_save, store.save) = (None, Fault::Error));
    let mut logout = task::spawn(world.session.logout());
    assert_pending!(logout.poll());
    gate.open();
    assert_eq!(in_time(logout).await.unwrap_err().kind(), ErrorKind::Store);
    assert!(store.access().await.is_some(), "the refresh has reached the store");
    store.set(|store| store.save = Fault::None);
    world.session.settle().await.unwrap();
    assert_eq!(store.access().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_to_the_store_is_not_written_over_something_newer() {
    for settles in [false, true] {
        let store = Watched::default();
        let world = world(store.clone());
        world.session.token().await.unwrap();
        store.set(|store| store.save = Fault::Error);
        world.session.refresh().await.unwrap();
        store.set(|store| store.save = Fault::None);
        store.save(&record(7, 1 << 62, "of-bob"), None).await.unwrap();
        if settles {
            world.session.settle().await.unwrap();
        } else {
            assert_eq!(access(&world.session.refresh().await.unwrap()), "of-bob");
        }
        world.session.settle().await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some("of-bob"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_not_saved_does_not_give_way_to_an_older_identity_in_the_store() {
    let store = Watched::default();
    store.save(&record(1, 10, "of-alice"), None).await.unwrap();
    let world = world(store.clone());
    store.set(|store| store.save = Fault::Error);
    world.session.login(Token::new("of-bob")).await.unwrap_err();
    let fresh = in_time(world.session.refresh()).await.unwrap();
    assert_ne!(access(&fresh), "of-alice");
    assert_ne!(access(&world.session.token().await.unwrap()), "of-alice");
}

#[tokio::test(start_paused = true)]
async fn a_login_in_a_new_process_reaches_the_one_that_has_refreshed_for_long() {
    let store = Watched::default();
    let old = world(store.clone());
    for _ in 0..10 {
        old.session.refresh().await.unwrap();
    }
    let new = world(store.clone());
    new.session.login(Token::new("of-bob")).await.unwrap();
    assert_eq!(access(&old.session.refresh().await.unwrap()), "of-bob");
    assert_eq!(store.load().await.unwrap().unwrap().token.unwrap().access.expose(), "of-bob");
}

#[tokio::test(start_paused = true)]
async fn a_logout_in_a_process_that_has_slept_reaches_the_one_that_has_refreshed_meanwhile() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let busy = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    busy.session.token().await.unwrap();
    let idle = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    idle.session.token().await.unwrap();
    for _ in 0..10 {
        busy.session.refresh().await.unwrap();
    }
    idle.session.logout().await.unwrap();
    assert_eq!(busy.session.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert!(store.load().await.unwrap().unwrap().token.is_none());
}

#[tokio::test(start_paused = true)]
async fn another_identitys_record_that_cannot_be_sent_stops_no_refresh() {
    let store = MemoryStore::new();
    let world = world(store.clone());
    world.session.token().await.unwrap();
    store.save(&record(7, u64::MAX - 1, "line\r\nbreak"), None).await.unwrap();
    let fresh = in_time(world.session.refresh()).await.unwrap();
    assert!(world.authority.is_alive(access(&fresh)));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_after_a_login_does_not_wait_for_that_of_the_identity_before() {
    let world = World::new();
    world.session.token().await.unwrap();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut orphan = task::spawn(world.session.refresh());
    assert_pending!(orphan.poll());
    gate.waiting(1).await;
    world.session.login(Token::new("of-bob")).await.unwrap();
    let start = Instant::now();
    let fresh = in_time(world.session.refresh()).await.unwrap();
    assert!(world.authority.is_alive(access(&fresh)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// Runtimes that die, or that nobody drives any more.

#[test]
fn settling_and_following_go_on_when_the_runtime_of_the_refresh_ends() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        tokio::spawn({
            let session = world.session.clone();
            async move { session.token().await }
        });
        gate.waiting(1).await;
    });
    second.block_on(async {
        let mut changes = world.session.subscribe();
        assert_eq!(changes.next().await, Some(State::Refreshing));
        let mut change = task::spawn(changes.next());
        assert_pending!(change.poll());
        let mut settled = task::spawn(world.session.settle());
        assert_pending!(settled.poll());
        let start = Instant::now();
        std::thread::scope(|scope| scope.spawn(|| drop(first)).join().unwrap());
        assert_eq!(in_time(change).await, Some(State::Empty));
        in_time(settled).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    });
}

#[test]
fn settling_saves_what_a_runtime_has_left_unsaved() {
    let store = Watched::default();
    let world = world(store.clone());
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        let mut login = task::spawn(world.session.login(Token::new("of-bob")));
        assert_pending!(login.poll());
        gate.waiting(1).await;
    });
    second.block_on(async {
        let mut settled = task::spawn(world.session.settle());
        assert_pending!(settled.poll());
        store.set(|store| store.hold_save = None);
        let start = Instant::now();
        std::thread::scope(|scope| scope.spawn(|| drop(first)).join().unwrap());
        in_time(settled).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(store.access().await.as_deref(), Some("of-bob"));
    });
}

#[test]
fn a_logout_waits_for_a_runtime_that_nobody_drives_no_longer_than_for_a_slow_store() {
    let store = Watched::default();
    let world = world(store.clone());
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let undriven = runtime();
    undriven.block_on(async {
        let mut login = task::spawn(world.session.login(Token::new("of-bob")));
        assert_pending!(login.poll());
        gate.waiting(1).await;
    });
    runtime().block_on(async {
        let start = Instant::now();
        assert_eq!(in_time(world.session.logout()).await.unwrap_err().kind(), ErrorKind::Store);
        assert!(start.elapsed() <= 4 * Duration::from_secs(5));
    });
}

/// Nothing can be timed in its place, and the wait must not go round in circles for that.
#[test]
fn a_caller_in_the_place_of_a_runtime_that_is_gone_waits_without_a_timer() {
    let world = World::new();
    let (_gate, _first) = left_in_flight(&world);
    let gone = runtime().handle().clone();
    let (answer, answered) = mpsc::channel();
    let session = world.session.clone();
    std::thread::spawn(move || {
        let _inside = gone.enter();
        let mut token = task::spawn(session.token());
        let _ = answer.send(token.poll().is_pending());
    });
    assert!(answered.recv_timeout(Duration::from_secs(10)).expect("the poll returns"));
}

#[test]
fn settling_in_the_place_of_a_runtime_that_is_gone_is_an_error() {
    let world = World::new();
    let (_gate, _first) = left_in_flight(&world);
    let gone = runtime().handle().clone();
    let _inside = gone.enter();
    let error = assert_ready_err!(task::spawn(world.session.settle()).poll());
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
}

// Sources and observers at their worst.

/// It cannot have the watch over the refresh, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_observer_that_blocks_on_the_panic_of_a_source_stops_nobody_for_ever() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let session = Session::builder(source_fn(|_: FetchContext| async {
        resume_unwind(Box::new("a source that panics"));
        #[allow(unreachable_code)]
        Ok::<_, FetchError>(Token::new("never"))
    }))
    .observer(move |_: &Event<'_>| {
        arrived.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
    })
    .refresh_timeout(Duration::from_millis(50))
    .unwrap()
    .build();
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.token().await }
    });
    arrivals.recv().await.unwrap();
    let answer = timeout(Duration::from_secs(5), waiting).await.expect("an answer in time");
    assert_eq!(answer.unwrap().unwrap_err().kind(), ErrorKind::Panic);
    drop(release);
}

/// A cause that does something when it goes.
struct Cause<F: Fn()>(F);

impl<F: Fn()> Drop for Cause<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<F: Fn()> fmt::Debug for Cause<F> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("somebody printed a cause")
    }
}

impl<F: Fn()> fmt::Display for Cause<F> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("somebody printed a cause")
    }
}

impl<F: Fn()> std::error::Error for Cause<F> {}

#[tokio::test(start_paused = true)]
async fn a_cause_that_panics_when_it_is_dropped_keeps_nobody_waiting() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let counted = fetches.clone();
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                return Err(FetchError::transient(Cause(|| resume_unwind(Box::new("dropped")))));
            }
            Ok(Token::new("token"))
        }
    }))
    .cooling(Duration::ZERO, Duration::ZERO)
    .unwrap()
    .build();
    let error = session.token().await.unwrap_err();
    assert!(!format!("{error} {error:?}").is_empty());
    drop(error);
    let dropper = session.clone();
    let _ = tokio::spawn(async move { dropper.token().await }).await;
    assert_eq!(access(&in_time(session.token()).await.unwrap()), "token");
}

#[tokio::test(start_paused = true)]
async fn no_lock_is_held_while_a_cause_is_dropped() {
    let looked = Arc::new(AtomicBool::new(false));
    let (cell, seen) = (Arc::new(std::sync::OnceLock::<Session>::new()), looked.clone());
    let (own, first) = (cell.clone(), AtomicBool::new(true));
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let first = first.swap(false, Ordering::Relaxed);
        let (own, seen) = (own.clone(), seen.clone());
        async move {
            if first {
                return Err(FetchError::transient(Cause(move || {
                    let mut changes = own.get().unwrap().subscribe();
                    seen.store(task::spawn(changes.next()).poll().is_ready(), Ordering::Relaxed);
                })));
            }
            Ok(Token::new("token"))
        }
    }))
    .cooling(Duration::ZERO, Duration::ZERO)
    .unwrap()
    .build();
    cell.set(session.clone()).unwrap();
    drop(session.token().await.unwrap_err());
    session.token().await.unwrap();
    assert!(looked.load(Ordering::Relaxed), "dropped under our lock");
}

#[tokio::test(start_paused = true)]
async fn no_lock_is_held_while_the_cause_of_a_lost_flight_is_dropped() {
    let looked = Arc::new(AtomicBool::new(false));
    let (cell, seen) = (Arc::new(std::sync::OnceLock::<Session>::new()), looked.clone());
    let (gate, own) = (Gate::new(), cell.clone());
    let held = gate.clone();
    let session = Session::builder(source_fn(move |_| {
        let (own, seen, held) = (own.clone(), seen.clone(), held.clone());
        async move {
            held.pass().await;
            Err(FetchError::transient(Cause(move || {
                let mut changes = own.get().unwrap().subscribe();
                seen.store(task::spawn(changes.next()).poll().is_ready(), Ordering::Relaxed);
            })))
        }
    }))
    .build();
    cell.set(session.clone()).unwrap();
    let mut token = task::spawn(session.token());
    assert_pending!(token.poll());
    in_time(gate.waiting(1)).await;
    session.logout().await.unwrap();
    gate.open();
    until(|| looked.load(Ordering::Relaxed)).await;
}

/// It is the last to remember it where the session has been replaced, and the runtime of the look has gone.
#[test]
fn no_lock_is_held_while_the_cause_that_a_look_has_remembered_is_dropped() {
    let looked = Arc::new(AtomicBool::new(false));
    let (cell, seen) = (Arc::new(std::sync::OnceLock::<Session>::new()), looked.clone());
    let (store, gate, own) = (Watched::default(), Gate::new(), cell.clone());
    let session = Session::builder(source_fn(move |_| {
        let (own, seen) = (own.clone(), seen.clone());
        async move {
            Err(FetchError::login_required(Cause(move || {
                let mut changes = own.get().unwrap().subscribe();
                seen.store(task::spawn(changes.next()).poll().is_ready(), Ordering::Relaxed);
            })))
        }
    }))
    .store(store.clone())
    .build();
    cell.set(session.clone()).unwrap();
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        drop(session.token().await.unwrap_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        store.set(|store| store.hold_load = Some(gate.clone()));
        assert_pending!(task::spawn(session.token()).poll());
        gate.waiting(1).await;
    });
    store.set(|store| store.hold_load = None);
    second.block_on(session.replace(Token::new("elsewhere").without_refresh_token())).unwrap();
    drop(first);
    assert!(!looked.load(Ordering::Relaxed), "it is remembered as yet");
    second.block_on(session.subscribe().next()).unwrap();
    assert!(looked.load(Ordering::Relaxed), "dropped under our lock");
}
