//! A store whose calls can be held and can fail.

use std::{
    error::Error,
    fmt,
    future::pending,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tower_token_refresh::{
    BoxError,
    event::Event,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{Gate, ModelAuthority, Rotation},
};

use crate::world::World;

/// A memory store whose calls can be held, can fail, and are noted.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    pub(crate) memory: MemoryStore,
    inner: Arc<Mutex<Watching>>,
}

#[derive(Default)]
pub(crate) struct Watching {
    pub(crate) saves: Vec<Record>,
    pub(crate) hold_save: Option<Gate>,
    /// Holds the answer to a save that has been made.
    pub(crate) hold_answer: Option<Gate>,
    /// Holds what has been read.
    pub(crate) hold_load: Option<Gate>,
    pub(crate) save: Fault,
    pub(crate) load: Fault,
    pub(crate) lock: Fault,
    /// Saves are made, and nobody hears of it.
    pub(crate) save_is_unanswered: bool,
    /// Leases are over before they are given back.
    pub(crate) leases_expire: bool,
    /// Of each load and each save.
    pub(crate) delay: Duration,
    /// Whether it tells of changes.
    pub(crate) tells: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    Error,
    Hang,
    Panic,
    /// With what panics itself when it is dropped.
    Bomb,
}

/// Panics when it is dropped, and throws another one.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        throw_a_bomb();
    }
}

pub(crate) fn throw_a_bomb() -> ! {
    resume_unwind(Box::new(Bomb))
}

impl Fault {
    async fn strike(self) -> Result<(), BoxError> {
        match self {
            Fault::None => Ok(()),
            Fault::Error => Err("the disk is full".into()),
            Fault::Hang => pending().await,
            Fault::Panic => panic!("a store that panics"),
            Fault::Bomb => throw_a_bomb(),
        }
    }
}

impl Watched {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Watching)) {
        change(&mut self.inner.lock().unwrap());
    }

    pub(crate) fn saved(&self) -> Vec<Option<String>> {
        let access = |record: &Record| record.token.as_ref().map(|token| token.access.expose().to_owned());
        self.inner.lock().unwrap().saves.iter().map(access).collect()
    }

    pub(crate) async fn access(&self) -> Option<String> {
        Some(self.memory.load().await.unwrap()?.token?.access.expose().to_owned())
    }

    /// The access token that is there has expired.
    pub(crate) async fn expire(&self) {
        let mut record = self.memory.load().await.unwrap().unwrap();
        record.token.as_mut().unwrap().expires_at = Some(SystemTime::UNIX_EPOCH);
        self.memory.save(&record, None).await.unwrap();
    }
}

impl TokenStore for Watched {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let (fault, gate, delay) = {
            let inner = self.inner.lock().unwrap();
            (inner.load, inner.hold_load.clone(), inner.delay)
        };
        tokio::time::sleep(delay).await;
        fault.strike().await?;
        let found = self.memory.load().await;
        if let Some(gate) = gate {
            gate.pass().await;
        }
        found
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        let (fault, gate, answer, delay, is_unanswered) = {
            let inner = self.inner.lock().unwrap();
            let (gate, answer) = (inner.hold_save.clone(), inner.hold_answer.clone());
            (inner.save, gate, answer, inner.delay, inner.save_is_unanswered)
        };
        tokio::time::sleep(delay).await;
        if let Some(gate) = gate {
            gate.pass().await;
        }
        fault.strike().await?;
        self.inner.lock().unwrap().saves.push(record.clone());
        self.memory.save(record, fence).await?;
        if let Some(answer) = answer {
            answer.pass().await;
        }
        if is_unanswered { Err("the connection was reset".into()) } else { Ok(()) }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        let (fault, expires) = {
            let inner = self.inner.lock().unwrap();
            (inner.lock, inner.leases_expire)
        };
        fault.strike().await?;
        let lease = self.memory.lock().await?;
        Ok(if expires { Lease::new(lease.fence(), ()) } else { lease })
    }

    async fn changed(&self, known: u64) {
        if !self.inner.lock().unwrap().tells {
            pending::<()>().await;
        }
        self.memory.changed(known).await;
    }
}

/// A store that says what has failed in its own words.
#[derive(Clone)]
pub(crate) struct Wordy<S>(pub(crate) S);

#[derive(Debug)]
struct InItsWords(BoxError);

impl fmt::Display for InItsWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table is broken")
    }
}

impl Error for InItsWords {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl<S: TokenStore> TokenStore for Wordy<S> {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await.map_err(|error| InItsWords(error).into())
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.0.save(record, fence).await.map_err(|error| InItsWords(error).into())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.0.lock().await
    }
}

/// Counts the failures of the store that an observer is told of.
pub(crate) fn failures() -> (impl Fn(&Event<'_>) + Send + Sync + 'static, Arc<AtomicUsize>) {
    let told = Arc::new(AtomicUsize::new(0));
    let seen = told.clone();
    let observer = move |event: &Event<'_>| {
        seen.fetch_add(usize::from(matches!(event, Event::StoreFailed { .. })), Ordering::Relaxed);
    };
    (observer, told)
}

pub(crate) fn world(store: &Watched) -> World {
    World::with(ModelAuthority::new(), |session| session.store(store.clone()), |layer| layer)
}

/// Two sessions with a token, on one store.
pub(crate) async fn siblings(store: &(impl TokenStore + Clone)) -> (World, World) {
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    let session = || World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    let (ours, sibling) = (session(), session());
    ours.session.token().await.unwrap();
    sibling.session.token().await.unwrap();
    (ours, sibling)
}

/// The same; the first of them has refreshed and could not save.
pub(crate) async fn owing(store: &Watched) -> (World, World) {
    let (ours, sibling) = siblings(store).await;
    store.set(|store| store.save = Fault::Error);
    ours.session.refresh().await.unwrap();
    (ours, sibling)
}
