//! The session's side of its store: every call bounded, all writes in one queue.
//!
//! Writes are enqueued in the critical section that makes them true, so their order in the store is their order in
//! memory, and are carried out by one task at a time. The record that is still owed to the store is remembered, and
//! written again by the next refresh.

use std::{
    collections::VecDeque,
    error::Error as _,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::timeout,
};

use super::flight::Flight;
use crate::{
    error::{BoxError, Error, ErrorKind},
    store::{DynTokenStore, Lease, Record, Superseded},
};

pub(crate) struct Storage {
    store: Box<dyn DynTokenStore>,
    store_timeout: Duration,
    lease_wait: Duration,
    queue: Mutex<Queue>,
    /// Is told when a write has ended.
    pulse: watch::Sender<()>,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    draining: bool,
    /// The newest record that is not known to be in the store.
    owed: Option<Owed>,
}

#[derive(Clone)]
struct Owed {
    record: Record,
    /// A refresh's number; what a login or logout owes stays without one, so that no store holds it for outdated.
    fence: Option<u64>,
}

struct Write {
    record: Record,
    fence: Option<u64>,
    /// The flight that brought the record; the write is dropped when its result is no longer wanted.
    flight: Option<Flight>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The end of a write.
pub(crate) struct Written(oneshot::Receiver<Result<(), Error>>);

impl Written {
    pub(crate) async fn end(self) -> Result<(), Error> {
        self.0.await.unwrap_or_else(|_| Err(failed("the runtime went away before the token was saved")))
    }
}

impl Storage {
    pub(crate) fn new(
        store: Box<dyn DynTokenStore>,
        store_timeout: Duration,
        lease_wait: Duration,
        pulse: watch::Sender<()>,
    ) -> Self {
        Storage { store, store_timeout, lease_wait, queue: Mutex::default(), pulse }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.store_timeout
    }

    /// The right to refresh. `None` when nobody gives it up in time.
    pub(crate) async fn lease(&self) -> Result<Option<Lease>, Error> {
        match timeout(self.lease_wait, guarded(async { self.store.lock().await })).await {
            Ok(lease) => lease.map(Some),
            Err(_elapsed) => Ok(None),
        }
    }

    pub(crate) async fn load(&self) -> Result<Option<Record>, Error> {
        bounded(self.store_timeout, async { self.store.load().await }).await
    }

    /// What was found in the store, unless something at least as new is owed to it. That may be a token whose refresh
    /// ended between the authority's answer and the save: the refresh token before it is spent. A login or logout
    /// that is owed is newer than whatever was found.
    pub(crate) fn or_owed(&self, found: Option<Record>) -> Option<Record> {
        let owed = self.queue().owed.clone();
        match (found, owed) {
            (Some(found), Some(Owed { record, fence: Some(_) })) if found.revision > record.revision => {
                Some(found)
            }
            (found, owed) => owed.map(|owed| owed.record).or(found),
        }
    }

    /// Puts a write at the end of the queue; [`drain`](Self::drain) must follow.
    pub(crate) fn enqueue(&self, record: Record, fence: Option<u64>, flight: Option<Flight>) -> Written {
        let (done, written) = oneshot::channel();
        let mut queue = self.queue();
        queue.owed = Some(Owed { record: record.clone(), fence });
        queue.writes.push_back(Write { record, fence, flight, done });
        Written(written)
    }

    /// Enqueues again what an earlier write left owed; `lease` is the number of the lease that is held now, if any.
    pub(crate) fn enqueue_owed(&self, lease: Option<u64>) -> Option<Written> {
        let owed = {
            let queue = self.queue();
            queue.owed.clone().filter(|_| queue.writes.is_empty() && !queue.draining)
        };
        owed.map(|Owed { record, fence }| self.enqueue(record, fence.map(|own| lease.unwrap_or(own)), None))
    }

    /// Sees to it that the queue is being worked off.
    pub(crate) fn drain(self: &Arc<Self>, runtime: &Handle) {
        let begins = !std::mem::replace(&mut self.queue().draining, true);
        if begins {
            let mut drain = Drain { storage: self.clone(), over: false };
            runtime.spawn(async move { while drain.write_next().await {} });
        }
    }

    /// Whether everything is in the store.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue().owed.is_none()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to work the queue off. When its runtime goes away, what is left in the queue fails.
struct Drain {
    storage: Arc<Storage>,
    over: bool,
}

impl Drain {
    async fn write_next(&mut self) -> bool {
        let Some(Write { record, fence, flight, done }) = self.next() else { return false };
        let storage = &self.storage;
        let wanted = !flight.is_some_and(|flight| flight.is_lost());
        let result = if wanted {
            bounded(storage.store_timeout, async { storage.store.save(&record, fence).await }).await
        } else {
            Ok(())
        };
        if result.as_ref().err().is_none_or(is_superseded) {
            let written = |owed: &mut Owed| {
                owed.record.revision == record.revision && owed.record.session == record.session
            };
            storage.queue().owed.take_if(written);
        }
        // Whoever asked for the write may be gone.
        let _ = done.send(result);
        storage.pulse.send_replace(());
        true
    }

    fn next(&mut self) -> Option<Write> {
        let mut queue = self.storage.queue();
        let next = queue.writes.pop_front();
        queue.draining = next.is_some();
        self.over = next.is_none();
        next
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if !self.over {
            let mut queue = self.storage.queue();
            queue.draining = false;
            let unwritten = std::mem::take(&mut queue.writes);
            drop(queue);
            drop(unwritten);
        }
    }
}

/// A call of the store: whatever it does, there is an answer in time.
async fn bounded<T>(limit: Duration, call: impl Future<Output = Result<T, BoxError>>) -> Result<T, Error> {
    let late = |_elapsed| Err(failed("the token store did not answer in time"));
    timeout(limit, guarded(call)).await.unwrap_or_else(late)
}

/// A call of the store, whose panic is an error like any other.
async fn guarded<T>(call: impl Future<Output = Result<T, BoxError>>) -> Result<T, Error> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(Error::with_cause(ErrorKind::Store, "the token store failed", cause)),
        Err(_panic) => Err(failed("the token store panicked")),
    }
}

/// Whether the store has kept a later record instead: then nothing is owed to it any more.
fn is_superseded(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<Superseded>())
}

fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::Store, message)
}
