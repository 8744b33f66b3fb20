//! A session without tasks: the threads of a model take the steps of a refresh.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use loom::thread::{self, JoinHandle};

use super::super::{
    Session,
    acquire::{Acquire, Denied, at_hand},
    ask::{Ask, Decision, Failure, Obtained},
    damper::Target,
    engine::Engine,
    flight::{Flight, Guard},
    issued::{Issued, Provenance, Sendable},
    kernel::Finder,
    record_head::RecordHead,
};
use crate::{
    Error, ErrorKind, FetchError, Secret, Token, Verdict,
    source::FailureClass,
    source_fn,
    store::{MemoryStore, TokenStore},
    sync::{
        atomic::{AtomicBool, Ordering},
        kit::block_on,
    },
    time::Clock,
};

/// What a caller got: the text of a token, or why there was none.
pub(super) type Got = Result<String, ErrorKind>;

#[derive(Clone)]
pub(super) struct World {
    pub(super) engine: Arc<Engine>,
    pub(super) store: MemoryStore,
    pub(super) clock: Hand,
}

/// A refresh in progress, and what lives in its task.
pub(super) struct Refresh {
    pub(super) flight: Flight,
    guard: Guard,
    record: RecordHead,
}

impl World {
    /// A session that has a token.
    pub(super) fn with_token(token: &str) -> (World, Arc<Issued>) {
        let store = MemoryStore::new();
        World::over(store.clone(), store, token)
    }

    /// A session that has a token, over a store that keeps its records in this one.
    pub(super) fn over(kept_by: impl TokenStore, store: MemoryStore, token: &str) -> (World, Arc<Issued>) {
        let source = source_fn(|_| async { Err::<Token, _>(FetchError::from(transient())) });
        let clock = Hand(Arc::new(AtomicBool::new(false)));
        let session = Session::builder(source).store(kept_by).clock(clock.clone()).build();
        let world = World { engine: session.engine().clone(), store, clock };
        world.login(token);
        let issued = world.engine.current().expect("it was put there");
        (world, issued)
    }

    /// The first ask of a refusal, which starts the one refresh of a model.
    pub(super) fn refuse(&self, token: &Issued) -> Refresh {
        match self.engine.slot().ask(refusal_of(token), || self.engine.now()) {
            Decision::Start(flight, plan) => {
                let guard = flight.guard(self.engine.pulse.clone());
                Refresh { flight, guard, record: plan.known.record.following() }
            }
            _ => panic!("nothing else fits"),
        }
    }

    /// Whether an ask would start a refresh.
    pub(super) fn starts(&self, ask: Ask) -> bool {
        matches!(self.engine.slot().ask(ask, || self.engine.now()), Decision::Start(..))
    }

    /// Somebody who asks, in a thread of its own. Where it would start a refresh itself it gets `NoRuntime`.
    pub(super) fn ask(&self, ask: Ask) -> JoinHandle<Got> {
        let engine = self.engine.clone();
        thread::spawn(move || match block_on(Acquire::new(engine, ask)) {
            Ok(token) => Ok(text(&token)),
            Err(Denied::Failed(error)) => Err(error.kind()),
            Err(Denied::Damped) => panic!("there was no refresh before"),
        })
    }

    /// The token that a request is sent with at once.
    pub(super) fn at_hand(&self) -> Option<String> {
        at_hand(&self.engine, |token| Some(text(token)))
    }

    /// The token in use, whatever state it is in.
    pub(super) fn current(&self) -> Option<String> {
        self.engine.current().as_deref().map(text)
    }

    pub(super) fn login(&self, token: &str) {
        drop(self.engine.login(self.sendable(token)));
    }

    /// A login that brings this refresh token.
    pub(super) fn login_with(&self, refresh_token: &Secret) {
        let token = Token::new("other").refresh_token(refresh_token.clone());
        let token = self.engine.sendable(token, Provenance::New).expect("it can be sent");
        drop(self.engine.login(token));
    }

    pub(super) fn replace(&self, token: &str) {
        drop(block_on(self.engine.replace(self.sendable(token))));
    }

    pub(super) fn logout(&self) {
        drop(self.engine.logout());
    }

    /// The token in the store.
    pub(super) fn stored(&self) -> Option<String> {
        let record = block_on(self.store.load()).expect("it cannot fail");
        Some(record?.token?.access.expose().to_owned())
    }

    pub(super) fn is_flying(&self) -> bool {
        self.engine.slot().is_flying()
    }

    fn sendable(&self, token: &str) -> Sendable {
        self.engine.sendable(Token::new(token).expires_in(LIFE), Provenance::New).expect("it can be sent")
    }
}

impl Refresh {
    /// Puts what was fetched into use, as the last step of a refresh does. Its task has still to end.
    pub(super) fn conclude(self, world: &World, token: &str) -> Guard {
        let fresh = world.sendable(token);
        let obtained = Obtained::Token { fresh, record: self.record };
        world.engine.conclude(Finder::Flight(&self.flight), obtained);
        assert!(!world.is_flying(), "published, and the slot was not cleared");
        self.guard
    }

    /// Saves what was fetched, as a refresh does before its last step.
    pub(super) fn save(&self, world: &World, token: &str) {
        let record = self.record.record(Some(world.sendable(token).stored()));
        let storage = &world.engine.storage;
        drop(storage.enqueue_refreshed(record, None, None, Some(self.flight.clone())));
        storage.drain_at_once();
    }

    /// Fails it. Its task has still to end.
    pub(super) fn fail(self, world: &World) -> Guard {
        let failure = Failure { class: FailureClass::Transient, error: transient() };
        world.engine.fail(&self.flight, failure);
        self.guard
    }

    /// Its time limit passes.
    pub(super) fn make_overdue(flight: &Flight, world: &World) {
        world.engine.make_overdue(flight, Error::new(ErrorKind::Timeout, "of a model"));
    }

    /// Its tasks are dropped with their runtime.
    pub(super) fn vanish(self) {
        drop(self.guard);
    }
}

pub(super) fn refusal_of(token: &Issued) -> Ask {
    Ask::Refuse { stamp: token.stamp(), verdict: Verdict::Reject, target: Target::default() }
}

pub(super) fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread of a model panics")
}

fn transient() -> Error {
    Error::new(ErrorKind::Transient, "of a model")
}

fn text(token: &Issued) -> String {
    token.token().access().expose().to_owned()
}

/// A clock that makes one step, past the end of every token.
#[derive(Clone)]
pub(super) struct Hand(Arc<AtomicBool>);

impl Hand {
    pub(super) fn expire(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        let start = Duration::from_secs(1000);
        if self.0.load(Ordering::Acquire) { start + LIFE } else { start }
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }
}

const LIFE: Duration = Duration::from_secs(3600);
