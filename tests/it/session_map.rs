//! Many identities: one live session for each, and no more of them than there is room for.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchContext, FetchError, Session, SessionMap, Token, TokenRefreshLayer, source_fn,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{Endpoint, Gate, ModelApi, ModelAuthority, TestClock},
};

use crate::world::{get, origin};

/// The sessions that a map has made, by their key.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<u32, Made>>>);

#[derive(Clone, Default)]
struct Made {
    times: usize,
    /// What outlives a session of this key.
    store: Flaky,
    /// Shared by the sessions of this key that are alive.
    alive: Arc<()>,
}

impl Ledger {
    fn of(&self, key: u32) -> Made {
        self.0.lock().unwrap().get(&key).cloned().unwrap_or_default()
    }

    fn make(&self, key: u32) -> Made {
        let mut ledger = self.0.lock().unwrap();
        let made = ledger.entry(key).or_default();
        made.times += 1;
        made.clone()
    }

    fn times(&self, key: u32) -> usize {
        self.of(key).times
    }

    /// How many sessions are alive.
    fn alive(&self) -> usize {
        self.0.lock().unwrap().values().map(|made| Arc::strong_count(&made.alive) - 1).sum()
    }

    /// Makes sessions whose tokens tell the key, and which of its sessions fetched it.
    fn session(&self, key: u32) -> Session {
        let Made { times, store, alive } = self.make(key);
        let source = source_fn(move |_: FetchContext| {
            let _alive = &alive;
            let token = Token::new(format!("{key}-{times}"));
            async move { Ok::<_, FetchError>(token) }
        });
        Session::builder(source).store(store).build()
    }

    fn map(&self, capacity: usize) -> SessionMap<u32> {
        let ledger = self.clone();
        SessionMap::builder(move |key: &u32| ledger.session(*key)).capacity(capacity).unwrap().build()
    }
}

#[derive(Clone, Default)]
struct Flaky {
    memory: MemoryStore,
    is_full: Arc<AtomicBool>,
}

impl TokenStore for Flaky {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.memory.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err("the disk is full".into());
        }
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.memory.lock().await
    }
}

async fn token(session: &Session) -> String {
    session.token().await.unwrap().access().expose().to_owned()
}

/// Asks for as many other keys as it takes to evict whatever may be evicted.
fn crowd(map: &SessionMap<u32>) {
    for key in 1000..1020 {
        map.get(&key);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_finds_its_own_session_again_and_no_other() {
    let ledger = Ledger::default();
    let map = ledger.map(10);
    for _ in 0..3 {
        for key in 0..5 {
            assert_eq!(token(&map.get(&key)).await, format!("{key}-1"));
        }
    }
    assert_eq!((map.len(), ledger.alive()), (5, 5));
    map.get(&0).logout().await.unwrap();
    assert_eq!(map.clone().get(&0).token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(token(&map.get(&1)).await, "1-1", "a logout is one identity's affair");
}

#[test]
fn first_requests_at_the_same_time_make_one_session() {
    const CALLERS: usize = 8;
    let ledger = Ledger::default();
    let map = ledger.map(1000);
    for key in 0..200 {
        let barrier = Barrier::new(CALLERS);
        let sessions: Vec<Session> = std::thread::scope(|scope| {
            let call = || {
                barrier.wait();
                map.get(&key)
            };
            let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert_eq!((ledger.times(key), sessions.len()), (1, CALLERS));
    }
    assert_eq!(map.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn concurrent_refusals_cost_one_refresh_for_each_key() {
    let authorities: Vec<_> = (0..4).map(|_| ModelAuthority::new()).collect();
    let sources = authorities.clone();
    let map = SessionMap::builder(move |key: &usize| Session::builder(sources[*key].source()).build())
        .capacity(2)
        .unwrap()
        .build();
    // Somebody holds all of them, so that the second round begins with refused tokens.
    let _held: Vec<Session> = (0..4).map(|key| map.get(&key)).collect();
    for round in 0..2 {
        let calls = (0..100).map(|call| {
            let key = call % authorities.len();
            let layer = TokenRefreshLayer::new(map.get(&key), origin());
            layer.layer(ModelApi::new(authorities[key].clone())).oneshot(get("/"))
        });
        for response in futures_util::future::join_all(calls).await {
            assert_eq!(response.unwrap().status(), StatusCode::OK);
        }
        for authority in &authorities {
            let counts = authority.counts();
            assert_eq!(counts.token_calls(), round + 1, "although the map has room for two only");
            assert_eq!(counts.max_in_flight, 1);
            authority.revoke_access();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_in_use_is_found_again_however_many_others_come() {
    let ledger = Ledger::default();
    let map = ledger.map(2);
    let held = map.get(&1);
    token(&held).await;
    crowd(&map);
    assert_eq!(token(&map.get(&1)).await, "1-1");
    assert_eq!(ledger.times(1), 1);
    drop(held);
    crowd(&map);
    assert_eq!(ledger.alive(), 2, "nobody uses it any more");
    assert_eq!(token(&map.get(&1)).await, "1-1", "a new session goes on with what was saved");
    assert_eq!(ledger.times(1), 2);
}

#[tokio::test(start_paused = true)]
async fn a_removed_session_is_found_again_while_somebody_holds_it() {
    let ledger = Ledger::default();
    let map = ledger.map(10);
    assert!(map.remove(&1).is_none());
    map.get(&1).logout().await.unwrap();
    let held = map.remove(&1).unwrap();
    assert_eq!((map.len(), ledger.alive()), (0, 1));
    assert_eq!(map.get(&1).token().await.unwrap_err().kind(), ErrorKind::SessionEnded, "the same session");
    assert!(map.remove(&1).is_some());
    drop(held);
    assert_eq!(ledger.alive(), 0);
    map.get(&1);
    assert_eq!(ledger.times(1), 2);
}

/// A map in which key 1 is an account of a model authority, with a store of its own; the others crowd it.
fn with_an_account(authority: &ModelAuthority, store: &Flaky) -> (SessionMap<u32>, Arc<AtomicUsize>) {
    let (source, store, others) = (authority.clone(), store.clone(), Ledger::default());
    let made = Arc::new(AtomicUsize::new(0));
    let times = made.clone();
    let make = move |key: &u32| {
        if *key != 1 {
            return others.session(*key);
        }
        times.fetch_add(1, Ordering::SeqCst);
        Session::builder(source.source()).store(store.clone()).build()
    };
    (SessionMap::builder(make).capacity(2).unwrap().build(), made)
}

/// Starts the refresh of key 1 and goes away.
async fn start_a_refresh(map: &SessionMap<u32>, gate: &Gate) {
    let session = map.get(&1);
    let mut only = task::spawn(async move { session.token().await });
    assert_pending!(only.poll());
    gate.waiting(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_found_again_while_its_refresh_is_on() {
    let authority = ModelAuthority::new();
    let (map, made) = with_an_account(&authority, &Flaky::default());
    let gate = authority.hold(Endpoint::Login);
    start_a_refresh(&map, &gate).await;
    crowd(&map);
    map.remove(&1);
    let session = map.get(&1);
    let mut joins = task::spawn(session.token());
    assert_pending!(joins.poll());
    gate.open();
    joins.await.unwrap();
    drop(session);
    map.settle().await.unwrap();
    assert_eq!((made.load(Ordering::SeqCst), authority.counts().logins), (1, 1));
    crowd(&map);
    map.get(&1).token().await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2, "it was evicted when it was done");
    assert_eq!(authority.counts().token_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_ends_after_the_crowd_has_come_and_is_not_saved_is_not_lost() {
    let (authority, store) = (ModelAuthority::new(), Flaky::default());
    let (map, made) = with_an_account(&authority, &store);
    let gate = authority.hold(Endpoint::Login);
    start_a_refresh(&map, &gate).await;
    crowd(&map);
    store.is_full.store(true, Ordering::SeqCst);
    gate.open();
    tokio::time::sleep(Duration::from_secs(60)).await;
    map.get(&1).token().await.unwrap();
    assert_eq!((made.load(Ordering::SeqCst), authority.counts().token_calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_evicted_before_its_token_is_saved() {
    let ledger = Ledger::default();
    let map = ledger.map(2);
    map.get(&1);
    let is_full = ledger.of(1).store.is_full;
    is_full.store(true, Ordering::SeqCst);
    assert_eq!(token(&map.get(&1)).await, "1-1");
    for _ in 0..10 {
        crowd(&map);
        // Time for the saves that are tried in between.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(token(&map.get(&1)).await, "1-1");
    assert_eq!(ledger.times(1), 1, "the only copy of the token is in it");
    is_full.store(false, Ordering::SeqCst);
    crowd(&map);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ledger.of(1).store.load().await.unwrap().is_some(), "saved without anybody asking for it");
    crowd(&map);
    assert_eq!((map.len(), ledger.alive()), (2, 2));
    assert_eq!(token(&map.get(&1)).await, "1-1");
    assert_eq!(ledger.times(1), 2);
}

#[tokio::test(start_paused = true)]
async fn settling_saves_what_any_session_owes() {
    let ledger = Ledger::default();
    let map = ledger.map(10);
    for key in 0..5 {
        map.get(&key);
        ledger.of(key).store.is_full.store(true, Ordering::SeqCst);
        token(&map.get(&key)).await;
    }
    assert_eq!(map.settle().await.unwrap_err().kind(), ErrorKind::Store);
    for key in 0..5 {
        ledger.of(key).store.is_full.store(false, Ordering::SeqCst);
    }
    map.settle().await.unwrap();
    for key in 0..5 {
        assert!(ledger.of(key).store.load().await.unwrap().is_some());
    }
}

#[test]
fn sessions_that_nobody_asks_for_are_evicted() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = TestClock::new();
    let ledger = Ledger::default();
    let making = ledger.clone();
    let map = SessionMap::builder(move |key: &u32| making.session(*key))
        .idle_after(10 * MINUTE)
        .unwrap()
        .clock(clock.clone())
        .build();
    map.get(&1);
    map.get(&2);
    for _ in 0..9 {
        clock.advance(MINUTE);
        map.get(&2);
    }
    assert_eq!(ledger.alive(), 2);
    clock.advance(MINUTE);
    map.get(&2);
    assert_eq!((map.len(), ledger.alive()), (1, 1));
    map.get(&1);
    assert_eq!((ledger.times(1), ledger.times(2)), (2, 1));
}

#[test]
fn a_hundred_thousand_keys_take_no_more_room_than_there_is() {
    const CAPACITY: usize = 1000;
    let ledger = Ledger::default();
    let map = ledger.map(CAPACITY);
    let alive = Arc::new(());
    let counted = alive.clone();
    let map_of_many = SessionMap::builder(move |_: &u32| {
        let alive = counted.clone();
        Session::builder(source_fn(move |_: FetchContext| {
            let _alive = &alive;
            async { Ok::<_, FetchError>(Token::new("t")) }
        }))
        .build()
    })
    .capacity(CAPACITY)
    .unwrap()
    .build();
    // One counter for all, because this asks for it often.
    let live = || Arc::strong_count(&alive) - 2;
    for key in 0..100_000 {
        map_of_many.get(&key);
        assert!(live() <= CAPACITY && map_of_many.len() <= CAPACITY, "{} at {key}", live());
    }
    assert_eq!(live(), CAPACITY);

    // All in use at once: they are alive in any case, and go when their time has come.
    let held: Vec<Session> = (0..5000).map(|key| map.get(&key)).collect();
    assert_eq!(ledger.alive(), 5000);
    drop(held);
    for key in 10_000..20_000 {
        map.get(&key);
    }
    assert_eq!((map.len(), ledger.alive()), (CAPACITY, CAPACITY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_sessions_of_one_key_are_never_held_at_once() {
    const KEYS: usize = 20;
    const CALLERS: usize = 8;
    let made = Arc::new(AtomicUsize::new(0));
    let numbers = made.clone();
    let map = SessionMap::builder(move |_: &usize| {
        // Nothing is stored, so that each session's token is its own.
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        Session::builder(source_fn(move |_: FetchContext| async move {
            Ok::<_, FetchError>(Token::new(number.to_string()))
        }))
        .build()
    })
    .capacity(3)
    .unwrap()
    .build();
    // For each key the session that is held, and by how many.
    let held = Arc::new(Mutex::new(vec![(String::new(), 0); KEYS]));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (map, held) = (map.clone(), held.clone());
        callers.spawn(async move {
            for step in 0..2000 {
                let key = (step * (caller + 3) + step / 7) % KEYS;
                let session = map.get(&key);
                let number = token(&session).await;
                {
                    let (holds, holders) = &mut held.lock().unwrap()[key];
                    if *holders == 0 {
                        *holds = number.clone();
                    }
                    *holders += 1;
                    assert_eq!(*holds, number, "two sessions of one key");
                }
                tokio::task::yield_now().await;
                held.lock().unwrap()[key].1 -= 1;
                drop(session);
                if step % 50 == 0 {
                    map.remove(&key);
                }
            }
        });
    }
    callers.join_all().await;
    let made = made.load(Ordering::SeqCst);
    assert!(made > 10 * KEYS, "sessions came and went: {made}");
    assert!(map.len() <= 3 + CALLERS);
}

#[test]
fn a_maker_that_panics_leaves_the_map_as_it_was() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let ledger = Ledger::default();
    let making = ledger.clone();
    let map = SessionMap::builder(move |key: &u32| {
        assert!(*key != 7 || counted.fetch_add(1, Ordering::SeqCst) >= 2, "no session today");
        making.session(*key)
    })
    .build();
    map.get(&1);
    for _ in 0..2 {
        assert!(catch_unwind(AssertUnwindSafe(|| map.get(&7))).is_err());
    }
    map.get(&7);
    map.get(&1);
    assert_eq!((map.len(), ledger.times(1), ledger.times(7)), (2, 1, 1));
}

#[test]
fn a_maker_may_ask_for_another_key() {
    let ledger = Ledger::default();
    let making = ledger.clone();
    let map: Arc<Mutex<Option<SessionMap<u32>>>> = Arc::default();
    let inner = map.clone();
    let outer = SessionMap::builder(move |key: &u32| {
        if *key == 1 {
            let map = inner.lock().unwrap().clone().unwrap();
            map.get(&2);
        }
        making.session(*key)
    })
    .build();
    *map.lock().unwrap() = Some(outer.clone());
    outer.get(&1);
    assert_eq!((outer.len(), ledger.times(2)), (2, 1));
    map.lock().unwrap().take();
}

#[test]
fn limits_of_zero_are_refused_and_debug_shows_no_key() {
    let builder = || SessionMap::builder(|_: &String| -> Session { unreachable!("nobody asks") });
    assert_eq!(builder().capacity(0).unwrap_err().kind(), ErrorKind::InvalidValue);
    assert_eq!(builder().idle_after(Duration::ZERO).unwrap_err().kind(), ErrorKind::InvalidValue);
    assert!(builder().build().is_empty());
    let map = SessionMap::builder(|_: &String| Ledger::default().session(1)).build();
    map.get(&"canary".to_owned());
    assert!(!format!("{map:?}").contains("canary"));
}
