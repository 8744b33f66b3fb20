//! Works the queue off, one write after another.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
};

use tokio::runtime::Handle;

use super::{
    Storage,
    calls::{Silent, failed, failed_by, is_caused_by},
    debt::Debt,
    queue::Write,
};
use crate::{
    error::Error,
    event::Event,
    session::flight::Flight,
    store::{LeaseLost, Record, Superseded},
    sync::task,
};

/// The right to work the queue off. When its runtime goes away, it passes to another one where something in the queue was
/// asked for; where there is none, what is left in the queue fails.
struct Drain {
    storage: Arc<Storage>,
    runtime: Handle,
    over: bool,
}

impl Drain {
    /// `None`: somebody has that right.
    fn begin(storage: &Arc<Storage>, runtime: Handle) -> Option<Self> {
        let begins = !mem::replace(&mut storage.queue().draining, true);
        begins.then(|| Drain { storage: storage.clone(), runtime, over: false })
    }

    async fn run(mut self) {
        while let Some(write) = self.next() {
            self.storage.carry_out(write).await;
        }
    }

    fn next(&mut self) -> Option<Write> {
        let next = self.storage.update(|queue| {
            let next = queue.writes.pop_front();
            queue.draining = next.is_some();
            next
        });
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
        let (heir, unwritten) = storage.update(|queue| {
            queue.draining = false;
            for write in &mut queue.writes {
                write.runtime.take_if(has_gone);
            }
            let heir = queue.writes.iter().find_map(|write| write.runtime.clone());
            let unwritten = if heir.is_none() { mem::take(&mut queue.writes) } else { VecDeque::new() };
            (heir, unwritten)
        });
        drop(unwritten);
        // Nobody may be there any more to hear of what was being written.
        storage.has_failed.store(true, Ordering::Relaxed);
        if let Some(runtime) = heir {
            storage.drain(&runtime);
        }
        storage.pulse.send_replace(());
    }
}

impl Storage {
    /// Sees to it that the queue is being worked off.
    pub(crate) fn drain(self: &Arc<Self>, runtime: &Handle) {
        if let Some(drain) = Drain::begin(self, runtime.clone()) {
            runtime.spawn(task(drain.run()));
        }
    }

    /// Works the queue off in this task, as long as the store answers at once, and then in another one.
    pub(crate) fn drain_at_once(self: &Arc<Self>) {
        if let Some(drain) = Drain::begin(self, Handle::current()) {
            let mut draining = Box::pin(drain.run());
            if draining.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                tokio::spawn(task(draining));
            }
        }
    }

    /// Makes one write, beside which there is no other.
    async fn carry_out(self: &Arc<Self>, Write { debt, fence, flight, done, .. }: Write) {
        // What has been overtaken by a later record, which is in the queue and stands for it, is not written any more. Of a
        // refresh that is written for the first time its flight says so, as long as it is there.
        let is_overtaken = || flight.as_ref().is_none_or(Flight::is_gone) && !self.queue().owes(&debt);
        let is_left_out = flight.as_ref().is_some_and(Flight::is_lost) || is_overtaken();
        let logouts = self.queue().logouts;
        let result = if is_left_out { Ok(()) } else { self.save(&debt, fence, || !is_overtaken()).await };
        if debt.is_logout() && self.queue().logouts != logouts {
            // Meant again while it was being tried, when there was nothing to forget yet.
            debt.forget_attempt();
        }
        self.queue().writes_ended += 1;
        let failure = result.as_ref().err();
        if failure.is_some_and(is_caused_by::<LeaseLost>) {
            // The next refresh needs another one.
            self.update(|queue| queue.lost_lease = queue.lost_lease.max(fence));
        }
        if failure.is_some_and(|error| !is_caused_by::<Superseded>(error)) {
            self.write_again();
        } else if !is_left_out {
            self.update(|queue| match failure {
                // Something newer is owed by now.
                _ if !queue.owes(&debt) => {}
                Some(_superseded) => {
                    // A logout may be meant again by now.
                    if let Some(found) = queue.seen.clone().filter(|found| queue.check_outdone(&debt, found))
                    {
                        queue.give_way_to(&found);
                    }
                }
                // Meant again meanwhile: the login that has come since the save ends, too.
                None if debt.is_logout() && queue.logouts != logouts => {}
                None => queue.owed = None,
            });
        }
        // Whoever asked for the write reports its failure, and may be gone.
        if let Err(Err(error)) = done.send(result) {
            self.report(&error);
        }
        self.pulse.send_replace(());
    }

    /// Tells of a write that has failed. Where a record has given way to a later one, the store is well.
    pub(crate) fn report(&self, error: &Error) {
        if !is_caused_by::<Superseded>(error) {
            self.observers.announce(&Event::StoreFailed { error });
        }
    }

    /// Saves what is owed, unless it gives way to what is there or is not wanted any more.
    async fn save(&self, debt: &Debt, fence: Option<u64>, is_wanted: impl Fn() -> bool) -> Result<(), Error> {
        let has_to_look = debt.begin() || debt.may_be_outdone(fence);
        if !has_to_look {
            match self.write(&debt.record, fence).await {
                Err(error) if is_caused_by::<Superseded>(&error) => {}
                saved => return saved,
            }
        }
        let found = self.read_to_write(debt).await?;
        if matches!(&found, Ok(Some(found)) if self.queue().check_outdone(debt, found)) {
            return Err(failed_by(Superseded.into()));
        }
        if !is_wanted() {
            return Ok(());
        }
        if debt.is_change() {
            self.save_above(debt, found).await
        } else {
            self.save_refreshed(debt, found, fence).await
        }
    }

    /// Saves the record of a login, replacement or logout with a revision above the store's: it may come from a process
    /// that has never looked into the store, and is news to all the others all the same. It goes without the number of a
    /// lease, so that no store holds it for outdated.
    async fn save_above(&self, debt: &Debt, found: Result<Option<Record>, Error>) -> Result<(), Error> {
        let is_read = found.is_ok();
        let found = match found {
            Ok(found) => found,
            // What would be written over may be what has come of the change that a refresh is of, or of an earlier attempt, or
            // the refresh token that it keeps.
            Err(unread) if debt.is_refresh() || debt.needs_to_know_what_is_there() => return Err(unread),
            // A store that cannot be read may be written all the same.
            Err(_unread) => None,
        };
        let record = debt.change_above(found.as_ref());
        debt.begin_save(is_read.then_some(record.revision));
        self.write(&record, None).await.map_err(|error| {
            if is_caused_by::<Superseded>(&error) {
                debt.forget_attempt();
            }
            at_the_same_moment(error)
        })?;
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
        found: Result<Option<Record>, Error>,
        fence: Option<u64>,
    ) -> Result<(), Error> {
        let found = match found {
            Err(unread) if fence.is_none() || debt.may_be_outdone(fence) => return Err(unread),
            // Else a store that cannot be read may be written all the same: it compares.
            found => found.ok().flatten(),
        };
        self.write(&debt.refresh_above(found.as_ref()), fence).await.map_err(at_the_same_moment)
    }

    async fn read_to_write(&self, debt: &Debt) -> Result<Result<Option<Record>, Error>, Silent> {
        let logouts = self.queue().logouts;
        let found = self.read().await?;
        if let Ok(found) = &found {
            let mut queue = self.queue();
            queue.seen.clone_from(found);
            if debt.is_logout() && queue.logouts == logouts {
                // Where there is nothing it ends nobody else's.
                let there = found.as_ref().map_or(debt.record.session, |found| found.session);
                queue.ended_by_logout.get_or_insert(there);
            }
        }
        Ok(found)
    }

    pub(super) async fn write(&self, record: &Record, fence: Option<u64>) -> Result<(), Error> {
        let written = self.calls.save(record, fence).await;
        match &written {
            Ok(()) => {
                let mut queue = self.queue();
                // Whoever has begun to look before this looks again: what was there is older than what is taken notice of.
                queue.writes_ended += 1;
                if let Some(owed) = &queue.owed {
                    owed.take_notice_of(record);
                    // What follows it stands for itself from now on.
                    if owed.is_refresh_of(record) {
                        owed.stand_for_itself();
                    }
                }
                queue.seen = Some(record.clone());
            }
            // Something else is there now, which nobody has read yet.
            Err(error) if is_caused_by::<Superseded>(error) => self.queue().seen = None,
            Err(_) => {}
        }
        written
    }
}

/// A store that refuses what has just been compared with it, or could not be: nothing has given way, and it is tried again.
fn at_the_same_moment(error: Error) -> Error {
    if is_caused_by::<Superseded>(&error) {
        failed("somebody else has saved at the same moment")
    } else {
        error
    }
}
