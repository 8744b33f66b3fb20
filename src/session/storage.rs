//! The session's side of its store: every call bounded, all writes in one queue.
//!
//! Writes are enqueued in the critical section that makes them true, so their order in the store is their order in
//! memory, and are carried out by one task at a time. The record that is still owed to the store is remembered, and
//! written again by the next refresh, or by a task under back-off.

use std::{
    collections::VecDeque,
    convert::identity,
    error::Error as _,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::watch, time::timeout};

use super::{
    backoff::Backoff, debt::Debt, flight::Flight, one_task::OneTask, record_head::RecordHead,
    revoker::Revoker,
};
use crate::{
    error::{BoxError, Error, ErrorKind},
    event::{Event, Observers},
    store::{Damaged, DynTokenStore, Lease, LeaseLost, Record, StoredToken, Superseded},
    sync::{Mutex, MutexGuard, PoisonError, oneshot, task},
    time::{in_time, timer},
};

pub(crate) struct Storage {
    store: Arc<dyn DynTokenStore>,
    store_timeout: Duration,
    lease_wait: Duration,
    queue: Mutex<Queue>,
    /// Is told when a write has ended.
    pulse: watch::Sender<()>,
    observers: Arc<Observers>,
    revoker: Arc<Revoker>,
    /// The runtime that the session is bound to.
    bound: Option<Handle>,
    /// The task that tries again to write what is owed.
    owing: OneTask,
    /// Whether a write has failed since everything was in the store.
    has_failed: AtomicBool,
}

/// How many calls of the store a write takes at most.
const CALLS: u32 = 3;

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    draining: bool,
    /// How many writes have ended.
    written: u64,
    /// What the store was last seen to hold. Memory may be behind it, and the refresh token that memory has be spent.
    seen: Option<Record>,
    /// The newest record that is not known to be in the store.
    owed: Option<Arc<Debt>>,
    /// Held while a refresh is owed that has spent a refresh token: whoever else refreshed now would present that.
    kept: Option<Lease>,
    /// The number of the last lease that the store says counts no more.
    lost: Option<u64>,
    /// That of the last lease under which nothing was found that outdoes what is owed.
    confirmed: Option<u64>,
}

impl Queue {
    /// Whether what is owed can be written under another lease only.
    fn needs_a_lease(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| !owed.is_change() && self.fence(owed) <= self.lost)
    }

    /// The number with which a refresh that is owed is written. A lease that was given back counts until the store says that
    /// there is a later one.
    fn fence(&self, owed: &Debt) -> Option<u64> {
        self.kept.as_ref().map(Lease::fence).or(owed.fence.max(self.confirmed))
    }

    /// The lease that was kept, if nothing that is owed keeps it any more, or it counts no more.
    fn unneeded(&mut self) -> Option<Lease> {
        let keeps = self.owed.as_ref().is_some_and(|owed| owed.keeps_the_lease);
        let lost = self.lost;
        self.kept.take_if(|kept| !keeps || Some(kept.fence()) <= lost)
    }
}

struct Write {
    debt: Arc<Debt>,
    fence: Option<u64>,
    /// The flight that brought the record; the write is dropped when its result is no longer wanted.
    flight: Option<Flight>,
    /// Where it was asked for.
    runtime: Option<Handle>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The end of a write.
pub(crate) struct Written {
    done: oneshot::Receiver<Result<(), Error>>,
    limit: Duration,
}

impl Written {
    /// How the write has ended.
    ///
    /// # Errors
    ///
    /// Nobody knows.
    pub(crate) async fn end(self) -> Result<Result<(), Error>, Error> {
        match in_time(self.limit, self.done).await {
            Some(Ok(written)) => Ok(written),
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
        observers: Arc<Observers>,
        revoker: Arc<Revoker>,
        bound: Option<Handle>,
    ) -> Self {
        Storage {
            store: store.into(),
            store_timeout,
            lease_wait,
            queue: Mutex::default(),
            pulse,
            observers,
            revoker,
            bound,
            owing: OneTask::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.store_timeout
    }

    /// How long one write may take.
    pub(crate) fn time_to_write(&self) -> Duration {
        self.store_timeout.saturating_mul(CALLS)
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

    /// A lease to write under, if that of the refresh which is owed counts no more: others have had one since, and what
    /// they saved, if anything, has to be read first.
    pub(crate) async fn lease_to_write(&self) -> Result<Option<Lease>, Error> {
        let needs_one = self.queue().needs_a_lease();
        if needs_one { self.lease().await } else { Ok(None) }
    }

    /// Ends a lease, unless what was fetched under it is still owed, and it still counts.
    pub(crate) fn give_back(&self, lease: Lease) {
        let given_up = {
            let mut queue = self.queue();
            (queue.kept.replace(lease), queue.unneeded())
        };
        drop(given_up);
    }

    /// Ends the lease that was kept, if it is needed no longer: what is owed now may be a login.
    pub(crate) fn give_kept_back(&self) {
        let given_up = self.queue().unneeded();
        drop(given_up);
    }

    /// Nothing is owed any more, unless it is something newer. Returned is the lease that was kept until then.
    fn paid(&self, debt: &Arc<Debt>) -> Option<Lease> {
        let mut queue = self.queue();
        queue.owed.take_if(|owed| Arc::ptr_eq(owed, debt));
        queue.unneeded()
    }

    /// The lease of that number counts no more: the next refresh needs another one.
    fn lost(&self, fence: Option<u64>) -> Option<Lease> {
        let mut queue = self.queue();
        queue.lost = queue.lost.max(fence);
        queue.unneeded()
    }

    /// The lease that was kept, to refresh under.
    fn take_kept(&self) -> Option<Lease> {
        self.queue().kept.take()
    }

    pub(crate) async fn load(&self) -> Result<Option<Record>, Error> {
        self.look(|_, found| found).await
    }

    /// Reads the store, and says in the same section what comes of that.
    async fn look<T>(&self, then: impl FnOnce(&mut Queue, Result<Option<Record>, Error>) -> T) -> T {
        loop {
            let written = self.queue().written;
            let found = self.read().await.and_then(identity);
            let mut queue = self.queue();
            // What was read while a record of ours was being written may be the one before, and nothing is owed any more
            // that would outdo it.
            if queue.written == written {
                if let (Ok(found), false) = (&found, queue.draining) {
                    queue.seen.clone_from(found);
                }
                return then(&mut queue, found);
            }
        }
    }

    /// Waits until the store holds a record of another revision. It keeps the store and not this, whose lease ends with the
    /// session on whatever runtime the task stands still.
    pub(crate) fn changed(&self, seen: u64) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let store = self.store.clone();
        async move {
            guarded(async {
                store.changed(seen).await;
                Ok(())
            })
            .await
        }
    }

    /// Saves the record of a login, replacement or logout with a revision above the store's: it may come from a process
    /// that has never looked into the store, and is news to all the others all the same. It goes without the number of a
    /// lease, so that no store holds it for outdated.
    async fn save_above(&self, debt: &Debt, is_wanted: impl Fn() -> bool) -> Result<(), Error> {
        let found = match self.read_to_write().await? {
            Ok(found) => found,
            // The refresh token that it keeps may be the one that would be written over.
            Err(unread) if debt.needs_to_know_what_is_there() => return Err(unread),
            // A store that cannot be read may be written all the same.
            Err(_unread) => None,
        };
        if !is_wanted() {
            return Ok(());
        }
        self.write(&debt.change_above(found.as_ref()), None).await?;
        // What follows it stands for itself from now on.
        if let Some(owed) = self.queue().owed.as_ref().filter(|owed| owed.is_refresh_of(&debt.record)) {
            owed.stands_for_itself();
        }
        if let Some(ended) = found.and_then(|found| debt.ends(found)) {
            self.revoker.discard(ended.to_token());
        }
        Ok(())
    }

    /// Saves the record of a refresh: above what it has refreshed, which may be an earlier refresh that nobody knew to be
    /// there, or a login that was raised.
    async fn save_refreshed(
        &self,
        debt: &Debt,
        fence: Option<u64>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let has_to_look = debt.begin();
        if !has_to_look {
            match self.write(&debt.record, fence).await {
                Err(error) if is_superseded(&error) => {}
                saved => return saved,
            }
        }
        // A store that cannot be read may be written all the same.
        let found = self.read_to_write().await?;
        if matches!(&found, Ok(Some(found)) if debt.is_outdone_by(found)) {
            return Err(failed_by(Superseded.into()));
        }
        if !is_wanted() {
            return Ok(());
        }
        let record = debt.refresh_above(found.as_ref().ok().and_then(Option::as_ref));
        match (self.write(&record, fence).await, found) {
            // What is in the way cannot be read, and may be what was refreshed.
            (Err(error), Err(unread)) if is_superseded(&error) => Err(unread),
            (saved, _) => saved,
        }
    }

    /// What is in the store, or how it failed.
    ///
    /// # Errors
    ///
    /// It did not answer: nothing else is to be asked of it for the same end.
    async fn read(&self) -> Result<Result<Option<Record>, Error>, Error> {
        let mut found = self.in_time(async { self.store.load().await }).await?;
        if let Ok(Some(Record { token: Some(token), .. })) = &mut found {
            // What stands in a column that cannot be without a value.
            token.refresh.take_if(|refresh| refresh.expose().is_empty());
        }
        Ok(match found {
            // To be written over, which nothing may wait for.
            Err(error) if is_damaged(&error) => {
                self.observers.announce(&Event::StoreFailed { error: &error });
                Ok(None)
            }
            found => found,
        })
    }

    /// The same in the midst of a write, beside which there is no other.
    async fn read_to_write(&self) -> Result<Result<Option<Record>, Error>, Error> {
        let found = self.read().await?;
        if let Ok(found) = &found {
            self.queue().seen.clone_from(found);
        }
        Ok(found)
    }

    async fn write(&self, record: &Record, fence: Option<u64>) -> Result<(), Error> {
        let written = self.in_time(async { self.store.save(record, fence).await }).await.and_then(identity);
        match &written {
            Ok(()) => self.queue().seen = Some(record.clone()),
            // By what, nobody has looked yet.
            Err(error) if is_superseded(error) => self.queue().seen = None,
            Err(_) => {}
        }
        written
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<Result<T, Error>, Error> {
        let late = |_elapsed| failed("the token store did not answer in time");
        timeout(self.store_timeout, guarded(call)).await.map_err(late)
    }

    /// What is in the store, unless something newer is owed to it: that is what will be there. That may be a token
    /// whose refresh ended between the authority's answer and the save: the refresh token before it is spent. A refreshed
    /// token that is older than what was found is owed no longer. While the store cannot be read, which is said as well, it
    /// counts as it was last seen.
    pub(crate) async fn newest(&self) -> (Option<Record>, Result<(), Error>) {
        let (newest, given_up, read) = self
            .look(|queue, found| {
                let (found, read) = match found {
                    Ok(found) => (found, Ok(())),
                    Err(unread) => (queue.seen.clone(), Err(unread)),
                };
                if let Some(found) = &found {
                    queue.owed.take_if(|owed| owed.is_outdone_by(found));
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

    /// The same for a logout, and the token that it has ended in memory.
    pub(crate) fn enqueue_logout(&self, record: Record, had: Option<StoredToken>) -> Written {
        self.push(&mut self.queue(), Arc::new(Debt::of_logout(record, had)), None, None)
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
        queue.confirmed = None;
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
        let runtime = Handle::try_current().ok();
        queue.writes.push_back(Write { debt, fence, flight, runtime, done });
        // No longer, whatever is ahead: a queue that does not get on must not cost a refresh all of its time.
        Written { done: written, limit: self.time_to_write().saturating_add(self.store_timeout) }
    }

    /// Enqueues again what an earlier write left owed; `lease` is the number of the lease that is held now, if any, under
    /// which the store was read. A write that is under way with an earlier one is refused then, and made again with this.
    pub(crate) fn enqueue_owed(&self, lease: Option<u64>) -> Option<Written> {
        let mut queue = self.queue();
        queue.confirmed = queue.confirmed.max(lease);
        self.push_owed(&mut queue)
    }

    fn push_owed(&self, queue: &mut Queue) -> Option<Written> {
        let debt = queue.owed.clone().filter(|_| queue.writes.is_empty() && !queue.draining)?;
        let fence = queue.fence(&debt);
        Some(self.push(queue, debt, fence, None))
    }

    /// The same between refreshes. A refresh whose lease counts no more waits for the next one: it might write over a
    /// sibling's.
    fn enqueue_again(&self) -> Option<Written> {
        let mut queue = self.queue();
        if queue.needs_a_lease() { None } else { self.push_owed(&mut queue) }
    }

    /// Sees to it that what is owed is written, sooner than the next refresh, of which there may be none: on the runtime
    /// that the session is bound to, or here if there is none, or if that has gone.
    pub(crate) fn write_again(self: &Arc<Self>) {
        self.has_failed.store(true, Ordering::Relaxed);
        let here = Handle::try_current().ok();
        let runs_on = |runtime: &Handle| {
            let task = until_the_end(Arc::downgrade(self), self.pulse.subscribe(), runtime.clone());
            self.owing.run(runtime, task)
        };
        self.bound.iter().chain(&here).any(runs_on);
    }

    /// The same for whoever comes by while something is owed: where the write has failed, the runtime may have gone, or may
    /// not be driven any more.
    #[inline]
    pub(crate) fn write_what_has_failed(self: &Arc<Self>) {
        if self.has_failed.load(Ordering::Relaxed) {
            self.write_again();
        }
    }

    /// Sees to it that the queue is being worked off.
    pub(crate) fn drain(self: &Arc<Self>, runtime: &Handle) {
        if let Some(drain) = self.begin(runtime.clone()) {
            runtime.spawn(task(drain.run()));
        }
    }

    /// The same from a task that may be held up by a store: one that answers at once is not waited for.
    pub(crate) fn drain_at_once(self: &Arc<Self>) {
        if let Some(drain) = self.begin(Handle::current()) {
            let mut draining = Box::pin(drain.run());
            if draining.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                tokio::spawn(task(draining));
            }
        }
    }

    /// The right to work the queue off, unless somebody has it.
    fn begin(self: &Arc<Self>, runtime: Handle) -> Option<Drain> {
        let begins = !std::mem::replace(&mut self.queue().draining, true);
        begins.then(|| Drain { storage: self.clone(), runtime, over: false })
    }

    /// Whether this is the newest record that is not known to be in the store.
    fn owes(&self, debt: &Arc<Debt>) -> bool {
        self.queue().owed.as_ref().is_some_and(|owed| Arc::ptr_eq(owed, debt))
    }

    /// Whether everything is in the store.
    pub(crate) fn is_settled(&self) -> bool {
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

/// The right to work the queue off. When its runtime goes away, it passes to another one where something in the queue was
/// asked for; where there is none, what is left in the queue fails.
struct Drain {
    storage: Arc<Storage>,
    runtime: Handle,
    over: bool,
}

impl Drain {
    async fn run(mut self) {
        while self.write_next().await {}
    }

    async fn write_next(&mut self) -> bool {
        let Some(Write { debt, fence, flight, done, .. }) = self.next() else { return false };
        let storage = &self.storage;
        // A refresh is not written again after a later record, which is next in the queue. The first time its flight says so.
        let is_overtaken = || flight.is_none() && debt.is_refresh() && !storage.owes(&debt);
        let is_left_out = flight.as_ref().is_some_and(Flight::is_lost) || is_overtaken();
        let result = if is_left_out {
            Ok(())
        } else if debt.is_change() {
            storage.save_above(&debt, || !is_overtaken()).await
        } else {
            storage.save_refreshed(&debt, fence, || !is_overtaken()).await
        };
        storage.queue().written += 1;
        if result.as_ref().err().is_some_and(has_lost_its_lease) {
            drop(storage.lost(fence));
        }
        if result.as_ref().err().is_some_and(|error| !is_superseded(error)) {
            storage.write_again();
        } else if !is_left_out {
            drop(storage.paid(&debt));
        }
        // Whoever asked for the write reports its failure, and may be gone.
        if let Err(Err(error)) = done.send(result) {
            storage.observers.announce(&Event::StoreFailed { error: &error });
        }
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
        if self.over {
            return;
        }
        let storage = &self.storage;
        let has_gone = |runtime: &mut Handle| runtime.id() == self.runtime.id();
        let (heir, unwritten) = {
            let mut queue = storage.queue();
            queue.draining = false;
            for write in &mut queue.writes {
                write.runtime.take_if(has_gone);
            }
            let heir = queue.writes.iter().find_map(|write| write.runtime.clone());
            let unwritten = if heir.is_none() { std::mem::take(&mut queue.writes) } else { VecDeque::new() };
            (heir, unwritten)
        };
        drop(unwritten);
        // Nobody may be there any more to hear of what was being written.
        storage.has_failed.store(true, Ordering::Relaxed);
        if let Some(runtime) = heir {
            storage.drain(&runtime);
        }
        storage.pulse.send_replace(());
    }
}

/// Writes what could not be saved again under back-off, as long as the session is there.
async fn until_the_end(storage: Weak<Storage>, mut pulse: watch::Receiver<()>, runtime: Handle) {
    let mut failures = 0;
    loop {
        pulse.mark_unchanged();
        let written = match storage.upgrade() {
            Some(storage) if storage.is_settled() => {
                failures = 0;
                None
            }
            Some(storage) => {
                let queue = storage.queue();
                (!queue.draining).then_some(queue.written)
            }
            None => return,
        };
        let Some(written) = written else {
            // This task ends with the storage.
            let _ = pulse.changed().await;
            continue;
        };
        failures += 1;
        let Ok(pause) = timer(Backoff::DEFAULT.wait(failures, None)) else { return };
        pause.await;
        let Some(storage) = storage.upgrade() else { return };
        if storage.queue().written != written {
            // Somebody else has tried: on each runtime there may be one of us.
            continue;
        }
        let again = storage.enqueue_again();
        storage.drain(&runtime);
        if let Some(again) = again {
            // The first failure was reported.
            let _ = again.end().await;
        }
    }
}

/// A call of the store, whose panic is an error like any other.
async fn guarded<T>(call: impl Future<Output = Result<T, BoxError>>) -> Result<T, Error> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(failed_by(cause)),
        Err(_panic) => Err(failed("the token store panicked")),
    }
}

/// Whether the store has kept a later record instead: then nothing is owed to it any more.
fn is_superseded(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<Superseded>())
}

/// Whether there is something in the store, but no record.
fn is_damaged(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<Damaged>())
}

/// Whether the store knows of a later lease.
fn has_lost_its_lease(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<LeaseLost>())
}

fn failed_by(cause: BoxError) -> Error {
    Error::with_cause(ErrorKind::Store, "the token store failed", cause)
}

fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::Store, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::time::sleep;

    use super::*;
    use crate::{
        reentry::Mark,
        store::{MemoryStore, SessionId, TokenStore},
    };

    fn storage(store: impl TokenStore) -> Storage {
        let (limit, pulse) = (Duration::from_secs(1), watch::Sender::new(()));
        let revoker = Revoker { revoke: None, limit, runtime: None, mark: Mark::new() };
        Storage::new(Box::new(store), limit, limit, pulse, Arc::default(), Arc::new(revoker), None)
    }

    /// The revision that follows 5 while these are owed.
    fn following(owed: impl FnOnce(&Storage)) -> u64 {
        let storage = storage(MemoryStore::new());
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

    /// The revision of what will be in the store, which has 5, when this is written.
    async fn newest(owed: impl FnOnce(&Storage)) -> u64 {
        let storage = storage(MemoryStore::new());
        storage.write(&record(1), Some(1)).await.expect("a store that works");
        owed(&storage);
        storage.newest().await.0.expect("a record").revision
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_left_out_pays_nothing() {
        let storage = Arc::new(storage(MemoryStore::new()));
        let flight = Flight::new();
        let written = storage.enqueue_refreshed(record(1), None, None, Some(flight.clone()));
        flight.disown();
        storage.drain_at_once();
        written.end().await.and_then(identity).expect("nothing was to be written");
        assert!(!storage.is_settled(), "whoever takes its place has to know what it was for");
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
                tokio::spawn(until_the_end(weak, pulse, Handle::current()));
            }
            sleep(Duration::from_secs(3600)).await;
            let tried = store.0.load(Ordering::Relaxed);
            assert!((45..90).contains(&tried), "{tasks} tasks have tried {tried} times");
        }
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
}
