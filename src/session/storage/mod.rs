//! The session's side of its store: every call bounded, all writes in one queue.
//!
//! Writes are enqueued in the critical section that makes them true, so their order in the store is their order in
//! memory, and are carried out by one task at a time. The record that is still owed to the store is remembered, and
//! written again by the next refresh, or by a task under back-off.

mod calls;
mod debt;
mod drain;
mod queue;
mod retry;
#[cfg(test)]
mod tests;
mod traces;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{runtime::Handle, sync::watch};

use self::{
    calls::Silent,
    debt::Debt,
    queue::{Queue, Write},
};
pub(crate) use self::{
    calls::{Calls, is_caused_by},
    queue::PendingWrite,
};
use super::{flight::Flight, record_head::RecordHead, revoker::Revoker, task_per_runtime::TaskPerRuntime};
use crate::{
    error::Error,
    event::{Event, Observers},
    store::{Damaged, Lease, Record, StoredToken},
    sync::{Mutex, MutexGuard, PoisonError, oneshot},
};

/// How many calls of the store a write takes at most.
const CALLS: u32 = 3;

pub(crate) struct Storage {
    calls: Calls,
    queue: Mutex<Queue>,
    /// Is told when a write has ended, or a lease is kept.
    pulse: watch::Sender<()>,
    observers: Arc<Observers>,
    revoker: Arc<Revoker>,
    /// The runtime that the session is bound to.
    bound: Option<Handle>,
    /// The task that tries again to write what is owed.
    owing: TaskPerRuntime,
    /// Whether a write has failed since everything was in the store.
    has_failed: AtomicBool,
}

impl Storage {
    pub(crate) fn new(
        calls: Calls,
        pulse: watch::Sender<()>,
        observers: Arc<Observers>,
        revoker: Arc<Revoker>,
        bound: Option<Handle>,
    ) -> Self {
        Storage {
            calls,
            queue: Mutex::default(),
            pulse,
            observers,
            revoker,
            bound,
            owing: TaskPerRuntime::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.calls.timeout
    }

    /// How long one write may take.
    pub(crate) fn time_to_write(&self) -> Duration {
        self.calls.timeout.saturating_mul(CALLS)
    }

    /// The right to refresh. `None` when nobody gives it up in time.
    pub(crate) async fn lease(&self) -> Result<Option<Lease>, Error> {
        let mut pulse = self.pulse.subscribe();
        let mut locking = pin!(self.calls.lock());
        loop {
            let kept = self.queue().kept.take();
            if kept.is_some() {
                return Ok(kept);
            }
            // Who has it may be settling, and give it back to us.
            if let Either::Left((lease, _)) = select(locking.as_mut(), pin!(pulse.changed())).await {
                return lease;
            }
        }
    }

    /// Whether what is owed waits for the next refresh.
    pub(crate) fn needs_a_lease(&self) -> bool {
        self.queue().needs_a_lease()
    }

    /// Ends the lease that this flight has: at once, unless others would find a refresh token that was spent under it, or is
    /// being.
    pub(crate) fn give_back(&self, by: &Flight) {
        let Some(lease) = by.take_lease() else { return };
        let is_spending = by.is_lost() && !by.spent().is_empty();
        let before = self.update(|queue| {
            queue.replaces_what_is_spent |= is_spending;
            queue.kept.replace(lease)
        });
        drop(before);
        if self.queue().kept.is_some() {
            self.pulse.send_replace(());
        }
    }

    /// Ends the lease that was kept, if it is needed no longer: what was owed may have given way.
    pub(crate) fn give_kept_back(&self) {
        self.update(|_| ());
    }

    /// Changes what is owed or kept. A lease that is needed no longer is ended outside of the lock: it is a store's code.
    fn update<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let (changed, unneeded) = {
            let mut queue = self.queue();
            (change(&mut queue), queue.unneeded())
        };
        drop(unneeded);
        changed
    }

    pub(crate) async fn load(&self) -> Result<Option<Record>, Error> {
        self.read_then(|_, found| found).await
    }

    /// Reads the store, and says in the same section what comes of that.
    async fn read_then<T>(&self, then: impl FnOnce(&mut Queue, Result<Option<Record>, Error>) -> T) -> T {
        loop {
            let writes_ended = self.queue().writes_ended;
            let found = self.read().await.unwrap_or_else(|silent| Err(silent.into()));
            let mut queue = self.queue();
            // However late it comes: that a login was there stays true.
            if let (Ok(Some(found)), Some(owed)) = (&found, &queue.owed) {
                owed.take_notice_of(found);
            }
            // What was read while a record of ours was being written may be the one before, and nothing is owed any more
            // that would outdo it.
            if queue.writes_ended == writes_ended {
                if let (Ok(found), false) = (&found, queue.draining) {
                    queue.seen.clone_from(found);
                }
                return then(&mut queue, found);
            }
        }
    }

    /// Waits until the store holds a record of another revision, without keeping this, whose lease ends with the session.
    pub(crate) fn changed(&self, seen: u64) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.calls.changed(seen)
    }

    /// What is in the store, or how it failed.
    async fn read(&self) -> Result<Result<Option<Record>, Error>, Silent> {
        let mut found = self.calls.load().await?;
        if let Ok(Some(Record { token: Some(token), .. })) = &mut found {
            // What stands in a column that cannot be without a value.
            token.refresh.take_if(|refresh| refresh.expose().is_empty());
        }
        Ok(match found {
            // To be written over, which nothing may wait for.
            Err(error) if is_caused_by::<Damaged>(&error) => {
                self.observers.announce(&Event::StoreFailed { error: &error });
                Ok(None)
            }
            found => found,
        })
    }

    /// What is in the store, unless something newer is owed to it: that is what will be there. That may be a token
    /// whose refresh ended between the authority's answer and the save: the refresh token before it is spent. A
    /// refreshed token that is older than what was found is owed no longer, nor is a login that is there. While the
    /// store cannot be read, which is said as well, it counts as it was last seen.
    pub(crate) async fn newest(&self) -> (Option<Record>, Result<(), Error>) {
        let (newest, given_up, read) = self
            .read_then(|queue, found| {
                let (found, read) = match found {
                    Ok(found) => (found, Ok(())),
                    Err(unread) => (queue.seen.clone(), Err(unread)),
                };
                if let (Some(found), Some(owed)) = (&found, &queue.owed) {
                    if queue.check_outdone(owed, found) {
                        queue.give_way_to(found);
                    }
                }
                let newest = match queue.owed.as_ref() {
                    Some(owed) if owed.is_change() => Some(owed.change_above(found.as_ref())),
                    Some(owed) => Some(owed.record.clone()),
                    None => found,
                };
                (newest, queue.unneeded(), read)
            })
            .await;
        drop(given_up);
        (newest, read)
    }

    /// The head of the record that follows this one with this token. A refresh that is owed is not counted: as long as it
    /// is, what others have saved since is the later record. Nor is one that has given way to that meanwhile.
    pub(crate) fn following(&self, base: RecordHead, token: Option<&StoredToken>) -> RecordHead {
        let queue = self.queue();
        let has_given_way = |token| queue.given_way.as_ref().is_some_and(|debt| debt.is(base, token));
        match &queue.owed {
            Some(owed) if owed.record.session == base.session && owed.is_refresh() => base,
            _ if token.is_some_and(has_given_way) => base,
            _ => base.following(),
        }
    }

    /// Enqueues a login.
    pub(crate) fn enqueue_login(&self, record: Record) -> PendingWrite {
        self.push(&mut self.queue(), Arc::new(Debt::of_login(record)), None, None)
    }

    /// Enqueues a logout; `had` is the token that it has ended in memory. One that is owed already is meant again: each
    /// caller hears what becomes of it.
    pub(crate) fn enqueue_logout(&self, record: Record, had: Option<StoredToken>) -> PendingWrite {
        let mut queue = self.queue();
        let owed = queue.owed.clone().filter(|owed| owed.is_logout());
        let debt = owed.unwrap_or_else(|| Arc::new(Debt::of_logout(record, had)));
        // Whoever logs out ends what is there now.
        queue.ended_by_logout = None;
        debt.forget_attempt();
        queue.logouts += 1;
        self.push(&mut queue, debt, None, None)
    }

    /// Enqueues a replacement, which keeps the refresh token or has its own.
    pub(crate) fn enqueue_replacement(&self, record: Record, keeps: bool) -> PendingWrite {
        let mut queue = self.queue();
        let debt = Debt::of_replacement(record, keeps, queue.owed.as_deref());
        // It may have come with the refresh token that is there, which a sibling may spend.
        if let Some(seen) = &queue.seen {
            debt.take_notice_of(seen);
        }
        self.push(&mut queue, Arc::new(debt), None, None)
    }

    /// Enqueues what a refresh has brought; `refreshed` is the token that it was of, or those of which it was one. With the
    /// flight it is left out as soon as that has lost. `None`: it has by now.
    pub(crate) fn enqueue_refreshed(
        &self,
        record: Record,
        refreshed: impl IntoIterator<Item = StoredToken>,
        fence: Option<u64>,
        flight: Option<Flight>,
    ) -> Option<PendingWrite> {
        let mut queue = self.queue();
        // What the change owes that it has lost to stays owed then.
        if flight.as_ref().is_some_and(Flight::is_lost) {
            return None;
        }
        let debt = Arc::new(Debt::of_refresh(record, refreshed, fence, queue.owed.as_deref()));
        queue.retry_lease = None;
        Some(self.push(&mut queue, debt, fence, flight))
    }

    /// Puts a write at the end of the queue; [`drain`](Self::drain) must follow.
    fn push(
        &self,
        queue: &mut Queue,
        debt: Arc<Debt>,
        fence: Option<u64>,
        flight: Option<Flight>,
    ) -> PendingWrite {
        let (done, written) = oneshot::channel();
        // Whatever was under way on top of it is this, or has lost to this.
        queue.given_way = None;
        queue.replaces_what_is_spent |= queue.owes_what_is_spent();
        queue.owed = Some(debt.clone());
        let runtime = Handle::try_current().ok();
        queue.writes.push_back(Write { debt, fence, flight, runtime, done });
        // No longer, whatever is ahead: a queue that does not get on must not cost a refresh all of its time.
        PendingWrite { done: written, limit: self.time_to_write().saturating_add(self.calls.timeout) }
    }

    /// Enqueues again what an earlier write left owed; `lease` is the number of the lease that is held now, if any. A write
    /// that is under way with an earlier one is refused then, and made again with this.
    pub(crate) fn enqueue_owed(&self, lease: Option<u64>) -> Option<PendingWrite> {
        let mut queue = self.queue();
        queue.retry_lease = queue.retry_lease.max(lease);
        self.push_owed(&mut queue)
    }

    fn push_owed(&self, queue: &mut Queue) -> Option<PendingWrite> {
        let debt = queue.owed.clone().filter(|_| queue.writes.is_empty() && !queue.draining)?;
        let fence = queue.fence(&debt);
        Some(self.push(queue, debt, fence, None))
    }

    /// Looks whether everything is in the store. If so, it is forgotten that a write had failed: under the lock, so that no
    /// later failure is forgotten with it.
    pub(crate) fn check_settled(&self) -> bool {
        let queue = self.queue();
        let is_settled = queue.owed.is_none();
        if is_settled {
            self.has_failed.store(false, Ordering::Relaxed);
        }
        is_settled
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
