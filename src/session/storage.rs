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
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::watch, time::timeout};

use super::{debt::Debt, flight::Flight, one_task::OneTask, record_head::RecordHead};
use crate::{
    error::{BoxError, Error, ErrorKind},
    store::{DynTokenStore, Lease, Record, StoredToken, Superseded},
    sync::{Mutex, MutexGuard, PoisonError, oneshot, task},
    time::in_time,
};

pub(crate) struct Storage {
    store: Box<dyn DynTokenStore>,
    store_timeout: Duration,
    lease_wait: Duration,
    queue: Mutex<Queue>,
    /// Is told when a write has ended.
    pulse: watch::Sender<()>,
    /// The task that tries again to write what is owed.
    pub(super) owing: OneTask,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    draining: bool,
    /// How many writes have ended.
    written: u64,
    /// The newest record that is not known to be in the store.
    owed: Option<Arc<Debt>>,
    /// Held while a refreshed token is owed: whoever else refreshed now would present a spent refresh token.
    kept: Option<Lease>,
}

struct Write {
    debt: Arc<Debt>,
    fence: Option<u64>,
    /// The flight that brought the record; the write is dropped when its result is no longer wanted.
    flight: Option<Flight>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The end of a write.
pub(crate) struct Written {
    done: oneshot::Receiver<Result<(), Error>>,
    /// What the writes up to this one may take, and some time for the news to get here.
    limit: Duration,
}

impl Written {
    pub(crate) async fn end(self) -> Result<(), Error> {
        match in_time(self.limit, self.done).await {
            Some(Ok(written)) => written,
            Some(Err(_dropped)) => Err(failed("the runtime went away before the token was saved")),
            None => Err(failed("the token was not saved in time")),
        }
    }
}

impl Storage {
    pub(crate) fn new(
        store: Box<dyn DynTokenStore>,
        store_timeout: Duration,
        lease_wait: Duration,
        pulse: watch::Sender<()>,
    ) -> Self {
        Storage {
            store,
            store_timeout,
            lease_wait,
            queue: Mutex::default(),
            pulse,
            owing: OneTask::default(),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.store_timeout
    }

    /// The right to refresh. `None` when nobody gives it up in time.
    pub(crate) async fn lease(&self) -> Result<Option<Lease>, Error> {
        if let Some(kept) = self.take_kept() {
            return Ok(Some(kept));
        }
        match timeout(self.lease_wait, guarded(async { self.store.lock().await })).await {
            Ok(lease) => lease.map(Some),
            Err(_elapsed) => Ok(None),
        }
    }

    /// Ends a lease, unless what was fetched under it is still owed.
    pub(crate) fn give_back(&self, lease: Lease) {
        let given_up = {
            let mut queue = self.queue();
            if queue.owed.as_ref().is_some_and(|owed| owed.keeps_the_lease) {
                queue.kept.replace(lease)
            } else {
                Some(lease)
            }
        };
        drop(given_up);
    }

    /// Nothing is owed any more, unless it is something newer. Returned is the lease that was kept until then.
    fn paid(&self, debt: &Arc<Debt>) -> Option<Lease> {
        let mut queue = self.queue();
        queue.owed.take_if(|owed| Arc::ptr_eq(owed, debt));
        if queue.owed.is_none() { queue.kept.take() } else { None }
    }

    /// The number of the lease that is kept for what is owed.
    pub(crate) fn keeps_a_lease(&self) -> Option<u64> {
        self.queue().kept.as_ref().map(Lease::fence)
    }

    /// The lease that was kept, to refresh under.
    fn take_kept(&self) -> Option<Lease> {
        self.queue().kept.take()
    }

    pub(crate) async fn load(&self) -> Result<Option<Record>, Error> {
        loop {
            let written = self.queue().written;
            let found = bounded(self.store_timeout, async { self.store.load().await }).await;
            // What was read while a record of ours was being written may be the one before, and nothing is owed any more
            // that would outdo it.
            if self.queue().written == written {
                return found;
            }
        }
    }

    /// Waits until the store holds a record of another revision.
    pub(crate) async fn changed(&self, seen: u64) -> Result<(), Error> {
        guarded(async {
            self.store.changed(seen).await;
            Ok(())
        })
        .await
    }

    /// Saves the record of a login, replacement or logout with a revision above the store's: it may come from a process
    /// that has never looked into the store, and is news to all the others all the same. It goes without the number of a
    /// lease, so that no store holds it for outdated.
    async fn save_above(&self, debt: &Debt) -> Result<(), BoxError> {
        let found = timeout(self.store_timeout / 2, self.store.load()).await;
        let found = match found.unwrap_or_else(|_elapsed| Err("the token store was not read in time".into()))
        {
            Ok(found) => found,
            // The refresh token that it keeps may be the one that would be written over.
            Err(unread) if debt.needs_to_know_what_is_there() => return Err(unread),
            // A store that cannot be read may be written all the same.
            Err(_unread) => None,
        };
        self.store.save(&debt.change_above(found.as_ref()), None).await?;
        // What follows it stands for itself from now on.
        if let Some(owed) = self.queue().owed.as_ref().filter(|owed| owed.is_refresh_of(&debt.record)) {
            owed.stands_for_itself();
        }
        Ok(())
    }

    /// Saves the record of a refresh: above what it has refreshed, which may be an earlier refresh that nobody knew to be
    /// there, or a login that was raised.
    async fn save_refreshed(&self, debt: &Debt, fence: Option<u64>) -> Result<(), BoxError> {
        let has_to_look = debt.begin();
        if !has_to_look {
            match self.store.save(&debt.record, fence).await {
                Err(error) if error.is::<Superseded>() => {}
                saved => return saved,
            }
        }
        // A store that cannot be read may be written all the same.
        let found = self.store.load().await;
        if matches!(&found, Ok(Some(found)) if debt.is_outdone_by(found)) {
            return Err(Superseded.into());
        }
        let record = debt.refresh_above(found.as_ref().ok().and_then(Option::as_ref));
        match (self.store.save(&record, fence).await, found) {
            // What is in the way cannot be read, and may be what was refreshed.
            (Err(error), Err(unread)) if error.is::<Superseded>() => Err(unread),
            (saved, _) => saved,
        }
    }

    /// What was found in the store, unless something newer is owed to it: that is what will be there. That may be a token
    /// whose refresh ended between the authority's answer and the save: the refresh token before it is spent. A refreshed
    /// token that is older than what was found is owed no longer.
    pub(crate) fn or_owed(&self, found: Option<Record>) -> Option<Record> {
        let (newest, given_up) = {
            let mut queue = self.queue();
            if let Some(found) = &found {
                queue.owed.take_if(|owed| owed.is_outdone_by(found));
            }
            match queue.owed.as_ref() {
                Some(owed) if owed.is_change() => (Some(owed.change_above(found.as_ref())), None),
                Some(owed) => (Some(owed.record.clone()), None),
                None => (found, queue.kept.take()),
            }
        };
        drop(given_up);
        newest
    }

    /// The head of the record that follows this one. A refresh that is owed is not counted: as long as it is, what others
    /// have saved since is the later record.
    pub(crate) fn following(&self, base: RecordHead) -> RecordHead {
        match &self.queue().owed {
            Some(owed) if owed.record.session == base.session && !owed.is_change() => base,
            _ => base.following(),
        }
    }

    /// Puts a write at the end of the queue; [`drain`](Self::drain) must follow.
    pub(crate) fn enqueue(&self, record: Record) -> Written {
        self.push(&mut self.queue(), Arc::new(Debt::of_identity(record)), None, None)
    }

    /// The same for a replacement, which keeps the refresh token or has its own.
    pub(crate) fn enqueue_replacement(&self, record: Record, keeps: bool) -> Written {
        let mut queue = self.queue();
        let debt = Arc::new(Debt::of_replacement(record, keeps, queue.owed.as_deref()));
        self.push(&mut queue, debt, None, None)
    }

    /// The same for a refresh, and what token it was of. With the flight it is left out as soon as that has lost.
    pub(crate) fn enqueue_refreshed(
        &self,
        record: Record,
        refreshed: Option<StoredToken>,
        fence: Option<u64>,
        flight: Option<Flight>,
    ) -> Written {
        let mut queue = self.queue();
        let debt = Arc::new(Debt::of_refresh(record, refreshed, fence, queue.owed.as_deref()));
        self.push(&mut queue, debt, fence, flight)
    }

    fn push(
        &self,
        queue: &mut Queue,
        debt: Arc<Debt>,
        fence: Option<u64>,
        flight: Option<Flight>,
    ) -> Written {
        let (done, written) = oneshot::channel();
        // A flight that has lost by now is left out, and what the change owes that it has lost to stays owed.
        if !flight.as_ref().is_some_and(Flight::is_lost) {
            queue.owed = Some(debt.clone());
        }
        queue.writes.push_back(Write { debt, fence, flight, done });
        let ahead = u32::try_from(queue.writes.len()).unwrap_or(u32::MAX);
        Written { done: written, limit: self.store_timeout.saturating_mul(ahead.saturating_add(2)) }
    }

    /// Enqueues again what an earlier write left owed; `lease` is the number of the lease that is held now, if any.
    pub(crate) fn enqueue_owed(&self, lease: Option<u64>) -> Option<Written> {
        let mut queue = self.queue();
        let debt = queue.owed.clone().filter(|_| queue.writes.is_empty() && !queue.draining)?;
        let fence = lease.or(debt.fence);
        Some(self.push(&mut queue, debt, fence, None))
    }

    /// Sees to it that the queue is being worked off.
    pub(crate) fn drain(self: &Arc<Self>, runtime: &Handle) {
        if let Some(drain) = self.begin() {
            runtime.spawn(task(drain.run()));
        }
    }

    /// The same from a task that may be held up by a store: one that answers at once is not waited for.
    pub(crate) fn drain_at_once(self: &Arc<Self>) {
        if let Some(drain) = self.begin() {
            let mut draining = Box::pin(drain.run());
            if draining.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                tokio::spawn(task(draining));
            }
        }
    }

    /// The right to work the queue off, unless somebody has it.
    fn begin(self: &Arc<Self>) -> Option<Drain> {
        let begins = !std::mem::replace(&mut self.queue().draining, true);
        begins.then(|| Drain { storage: self.clone(), over: false })
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
    async fn run(mut self) {
        while self.write_next().await {}
    }

    async fn write_next(&mut self) -> bool {
        let Some(Write { debt, fence, flight, done }) = self.next() else { return false };
        let storage = &self.storage;
        let is_left_out = flight.is_some_and(|flight| flight.is_lost());
        let result = if is_left_out {
            Ok(())
        } else if debt.is_change() {
            bounded(storage.store_timeout, storage.save_above(&debt)).await
        } else {
            bounded(storage.store_timeout, storage.save_refreshed(&debt, fence)).await
        };
        storage.queue().written += 1;
        if !is_left_out && result.as_ref().err().is_none_or(is_superseded) {
            drop(storage.paid(&debt));
        }
        // Whoever asked for the write may be gone.
        let _ = done.send(result);
        storage.pulse.send_replace(());
        true
    }

    fn next(&mut self) -> Option<Write> {
        let next = {
            let mut queue = self.storage.queue();
            let next = queue.writes.pop_front();
            queue.draining = next.is_some();
            next
        };
        self.over = next.is_none();
        if self.over {
            // Whoever heard of the last write before this could not have what is owed written again.
            self.storage.pulse.send_replace(());
        }
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
            self.storage.pulse.send_replace(());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, SessionId};

    /// The revision that follows 5 while these are owed.
    fn following(owed: impl FnOnce(&Storage)) -> u64 {
        let limit = Duration::from_secs(1);
        let storage = Storage::new(Box::new(MemoryStore::new()), limit, limit, watch::Sender::new(()));
        owed(&storage);
        storage.following(RecordHead { session: SessionId(1), revision: 5 }).revision
    }

    fn record(session: u128) -> Record {
        Record { session: SessionId(session), revision: 5, token: None }
    }

    fn refresh(storage: &Storage, session: u128) {
        storage.enqueue_refreshed(record(session), None, None, Some(Flight::new()));
    }

    fn login(storage: &Storage) {
        storage.enqueue(record(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_left_out_pays_nothing() {
        let limit = Duration::from_secs(1);
        let storage =
            Arc::new(Storage::new(Box::new(MemoryStore::new()), limit, limit, watch::Sender::new(())));
        let flight = Flight::new();
        let written = storage.enqueue_refreshed(record(1), None, None, Some(flight.clone()));
        flight.disown();
        storage.drain_at_once();
        written.end().await.expect("nothing was to be written");
        assert!(!storage.is_settled(), "whoever takes its place has to know what it was for");
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
        assert_eq!(following(refreshed_login), 6);
    }
}
