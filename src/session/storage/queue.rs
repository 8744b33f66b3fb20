//! What is to be written, and what else has to be remembered for that.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{calls::failed, debt::Debt};
use crate::{
    error::Error,
    session::flight::Flight,
    store::{Lease, Record, SessionId},
    sync::oneshot,
    timer::in_time,
};

#[derive(Default)]
pub(super) struct Queue {
    pub(super) writes: VecDeque<Write>,
    pub(super) draining: bool,
    /// Counted when the store has answered, and again when all that comes of that is done.
    pub(super) writes_ended: u64,
    /// What the store was last seen to hold. Memory may be behind it, and the refresh token that memory has be spent.
    pub(super) seen: Option<Record>,
    /// The newest record that is not known to be in the store.
    pub(super) owed: Option<Arc<Debt>>,
    /// The last refresh that was owed and has given way to another record, until something is written again.
    pub(super) given_way: Option<Arc<Debt>>,
    /// Held while a refresh is owed that has spent a refresh token, or what has come in the place of one is being written:
    /// whoever else refreshed before would find that refresh token and present it.
    pub(super) kept: Option<Lease>,
    /// What is being written takes the place of a refresh token that was spent, or is being: whoever has the lease then is to
    /// keep it until that has ended.
    pub(super) replaces_what_is_spent: bool,
    /// The number of the last lease that the store says counts no more.
    pub(super) lost_lease: Option<u64>,
    /// Whose record the store had when it was first looked into to write the logout that is owed.
    pub(super) ended_by_logout: Option<SessionId>,
    /// How often somebody has logged out: a look that was begun before the last time is none for the sake of that.
    pub(super) logouts: u64,
    /// The number of the last lease that was held to write what is owed again: others may have had it before.
    pub(super) retry_lease: Option<u64>,
}

impl Queue {
    /// Whether this is the newest record that is not known to be in the store.
    pub(super) fn owes(&self, debt: &Arc<Debt>) -> bool {
        self.owed.as_ref().is_some_and(|owed| Arc::ptr_eq(owed, debt))
    }

    /// Lets this debt take notice of what was found in the store, and says whether it is not to be written over that.
    pub(super) fn check_outdone(&self, debt: &Debt, found: &Record) -> bool {
        debt.take_notice_of(found);
        let is_before = self.ended_by_logout.is_some_and(|ended| debt.is_before_the_login_of(found, ended));
        let may_be_written = self.fence(debt) > self.lost_lease;
        debt.gives_way_to(found, self.lost_lease, may_be_written) || is_before
    }

    /// What is owed gives way to what was found, which may be the very same record: the store has it, and could not say so.
    /// From now on this is what was seen last, even while a write is under way, which would keep a look from being taken
    /// notice of.
    pub(super) fn give_way_to(&mut self, found: &Record) {
        self.seen = Some(found.clone());
        let owed = self.owed.take().filter(|debt| debt.is_refresh());
        let is_found = |debt: &Debt| found.token.as_ref().is_some_and(|token| debt.is(found.head(), token));
        self.given_way = owed.filter(|debt| !is_found(debt));
    }

    /// Whether what is owed can be written under another lease only.
    pub(super) fn needs_a_lease(&self) -> bool {
        self.owed
            .as_ref()
            .is_some_and(|owed| owed.is_refresh() && !owed.is_change() && self.fence(owed) <= self.lost_lease)
    }

    /// The number with which a refresh that is owed is written. A lease that was given back counts until the store says that
    /// there is a later one.
    pub(super) fn fence(&self, owed: &Debt) -> Option<u64> {
        self.kept.as_ref().map(Lease::fence).or(owed.fence.max(self.retry_lease))
    }

    /// Whether others would find a refresh token that was spent, or is being: because what has come of that is owed, or is
    /// being written.
    fn must_keep_a_lease(&self) -> bool {
        self.owes_what_is_spent() || self.replaces_what_is_spent
    }

    /// Whether what is owed goes back to a refresh that has spent the refresh token which the store has.
    pub(super) fn owes_what_is_spent(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.keeps_the_lease)
    }

    /// The lease that was kept, if it is needed no longer, or counts no more.
    pub(super) fn unneeded(&mut self) -> Option<Lease> {
        self.replaces_what_is_spent &= self.draining || !self.writes.is_empty();
        let is_needed = self.must_keep_a_lease();
        let lost_lease = self.lost_lease;
        self.kept.take_if(|kept| !is_needed || Some(kept.fence()) <= lost_lease)
    }
}

pub(super) struct Write {
    pub(super) debt: Arc<Debt>,
    pub(super) fence: Option<u64>,
    /// The flight that brought the record; the write is dropped when its result is no longer wanted.
    pub(super) flight: Option<Flight>,
    /// Where it was asked for.
    pub(super) runtime: Option<Handle>,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

/// A wait for the end of a write.
pub(crate) struct PendingWrite {
    pub(super) done: oneshot::Receiver<Result<(), Error>>,
    pub(super) limit: Duration,
}

impl PendingWrite {
    /// How the write has ended.
    ///
    /// # Errors
    ///
    /// It is not known how the write ended.
    pub(crate) async fn end(self) -> Result<Result<(), Error>, Error> {
        match in_time(self.limit, self.done).await {
            Some(Ok(written)) => Ok(written),
            Some(Err(_dropped)) => Err(failed("the runtime went away before the token was saved")),
            None => Err(failed("the token was not saved in time")),
        }
    }
}
