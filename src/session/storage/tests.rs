use std::sync::atomic::AtomicUsize;

use tokio::{sync::Semaphore, time::sleep};
use tokio_test::{assert_pending, task::spawn};

use super::{retry::retry_writes, *};
use crate::{
    error::BoxError,
    reentry::Mark,
    store::{MemoryStore, SessionId, Superseded, TokenStore},
};

fn storage(store: impl TokenStore) -> Storage {
    let (limit, pulse) = (Duration::from_secs(1), watch::Sender::new(()));
    let revoker = Revoker { revoke: None, limit, runtime: None, mark: Mark::new() };
    let calls = Calls { store: Arc::new(store), timeout: limit, lease_wait: limit };
    Storage::new(calls, pulse, Arc::default(), Arc::new(revoker), None)
}

/// The revision that follows 5 while these are owed.
fn following(owed: impl FnOnce(&Storage)) -> u64 {
    let storage = storage(MemoryStore::new());
    owed(&storage);
    storage.following(RecordHead { session: SessionId(1), revision: 5 }, None).revision
}

fn record(session: u128) -> Record {
    Record { session: SessionId(session), revision: 5, token: None }
}

fn refresh(storage: &Storage, session: u128) {
    storage.enqueue_refreshed(record(session), None, None, Some(Flight::new()));
}

fn login(storage: &Storage) {
    storage.enqueue_login(record(1));
}

/// The revision of what will be in the store, which has 5 of somebody else, when this is written.
async fn newest(owed: impl FnOnce(&Storage)) -> u64 {
    let storage = storage(MemoryStore::new());
    storage.write(&record(2), Some(1)).await.expect("a store that works");
    owed(&storage);
    storage.newest().await.0.expect("a record").revision
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_left_out_pays_nothing() {
    let storage = Arc::new(storage(MemoryStore::new()));
    let flight = Flight::new();
    let written = storage.enqueue_refreshed(record(1), None, None, Some(flight.clone()));
    let written = written.expect("it has not lost yet");
    flight.disown();
    storage.drain_at_once();
    written.end().await.expect("it ends").expect("nothing was to be written");
    assert!(!storage.check_settled(), "whoever takes its place has to know what it was for");
}

/// The thread of the other is about to drain the queue.
#[tokio::test(start_paused = true)]
async fn a_write_that_is_put_off_takes_nobody_elses_with_it_and_is_made_with_that() {
    for is_first in [true, false] {
        let store = MemoryStore::new();
        let storage = Arc::new(storage(store.clone()));
        let login = storage.enqueue_login(Record { token: Some(StoredToken::new("token")), ..record(1) });
        let logout = storage.enqueue_logout(record(1), None);
        let (put_off, waited_for) = if is_first { (login, logout) } else { (logout, login) };
        storage.put_off(put_off);
        storage.drain_at_once();
        waited_for.end().await.expect("it ends").expect("a store that works");
        assert!(store.load().await.expect("a store that works").is_some_and(|there| there.token.is_none()));
    }
}

/// Counts the saves, all of which fail.
#[derive(Clone, Default)]
struct Broken(Arc<AtomicUsize>);

impl TokenStore for Broken {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        Ok(None)
    }

    async fn save(&self, _: &Record, _: Option<u64>) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err("read-only".into())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        Ok(Lease::new(1, ()))
    }
}

/// As many as there are runtimes.
#[tokio::test(start_paused = true)]
async fn several_that_write_again_do_so_no_more_often_than_one() {
    for tasks in [1, 20] {
        let store = Broken::default();
        let storage = Arc::new(storage(store.clone()));
        login(&storage);
        for _ in 0..tasks {
            let (weak, pulse) = (Arc::downgrade(&storage), storage.pulse.subscribe());
            tokio::spawn(retry_writes(weak, pulse, Handle::current()));
        }
        sleep(Duration::from_secs(3600)).await;
        let tried = store.0.load(Ordering::Relaxed);
        assert!((45..90).contains(&tried), "{tasks} tasks have tried {tried} times");
    }
}

/// Takes one save, refuses those after it as outdone, and cannot be read.
#[derive(Default)]
struct Outdone(AtomicUsize);

impl TokenStore for Outdone {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        Err("unreachable".into())
    }

    async fn save(&self, _: &Record, _: Option<u64>) -> Result<(), BoxError> {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 { Ok(()) } else { Err(Superseded.into()) }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        Ok(Lease::new(1, ()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_was_seen_to_hold_counts_until_it_says_that_others_have_saved() {
    let storage = storage(Outdone::default());
    storage.write(&record(1), Some(1)).await.expect("the first");
    let newest = async || storage.newest().await.0.map(|record| record.session);
    assert_eq!(newest().await, Some(SessionId(1)));
    storage.write(&record(1), Some(1)).await.unwrap_err();
    assert_eq!(newest().await, None);
}

/// What has been read is on its way until the gate is closed.
struct Slow {
    memory: MemoryStore,
    gate: Semaphore,
}

impl TokenStore for Slow {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let found = self.memory.load().await;
        let _closed = self.gate.acquire().await;
        found
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.memory.lock().await
    }
}

/// The look may end between the answer to the save and all that comes of that.
#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_login_or_replacement_was_saved_takes_nothing_from_it() {
    let with = |session, revision, refresh: &str| {
        let token = StoredToken { refresh: Some(refresh.into()), ..StoredToken::new("access") };
        Record { session: SessionId(session), revision, token: Some(token) }
    };
    for (there, replaces) in [(with(2, 5, "others"), false), (with(1, 5, "before"), true)] {
        let store = Arc::new(Slow { memory: MemoryStore::new(), gate: Semaphore::new(0) });
        let storage = storage(store.clone());
        storage.write(&there, Some(1)).await.expect("a store that works");
        let ours = with(1, 6, "own");
        if replaces {
            storage.enqueue_replacement(ours.clone(), false);
        } else {
            storage.enqueue_login(ours.clone());
        }
        let mut look = spawn(storage.newest());
        assert_pending!(look.poll());
        storage.write(&ours, None).await.expect("a store that works");
        store.gate.close();
        let newest = look.await.0.expect("a record");
        let refresh = newest.token.and_then(|token| token.refresh).expect("a refresh token");
        assert_eq!((newest.session, refresh.expose()), (SessionId(1), "own"));
    }
}

/// Although it is still owed when the store has answered.
#[tokio::test(start_paused = true)]
async fn a_login_that_has_just_been_saved_needs_no_lease() {
    let storage = storage(MemoryStore::new());
    login(&storage);
    storage.write(&record(1), None).await.expect("a store that works");
    assert!(!storage.needs_a_lease());
}

#[test]
fn only_a_refresh_of_the_session_that_is_owed_is_not_counted() {
    assert_eq!(following(|storage| refresh(storage, 1)), 5);
    assert_eq!(following(|_| ()), 6);
    assert_eq!(following(login), 6);
    assert_eq!(following(|storage| refresh(storage, 2)), 6);
    let refreshed_login = |storage: &Storage| {
        login(storage);
        refresh(storage, 1);
    };
    assert_eq!(
        following(refreshed_login),
        5,
        "or memory would count past what the store has raised the login to"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_owed_keeps_its_number_and_a_login_goes_above_what_the_store_has() {
    // The store may have it already, and could not say so: numbered higher, it would outdo what a sibling saves next.
    assert_eq!(newest(|storage| refresh(storage, 1)).await, 5);
    assert_eq!(newest(login).await, 6);
    let refreshed_login = |storage: &Storage| {
        login(storage);
        refresh(storage, 1);
    };
    assert_eq!(newest(refreshed_login).await, 6);
}
