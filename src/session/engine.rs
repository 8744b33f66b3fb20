//! What all clones of a session share, and the steps that change it.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use super::{
    ask::{Ask, Change, Failure, Obtained},
    backoff::Backoff,
    flight::Flight,
    issued::{Issued, Provenance, Sendable},
    kernel::{Finder, Slot},
    record_head::RecordHead,
    renewal::{Renewal, RenewalMode},
    revoker::Revoker,
    seats::Landed,
    slot_guard::SlotGuard,
    storage::{PendingWrite, Storage},
    task_per_runtime::TaskPerRuntime,
};
use crate::{
    error::{Error, ErrorKind},
    event::{Event, Observers},
    placement::Placement,
    reentry::Mark,
    secret::Secret,
    source::{DynTokenSource, FailureClass},
    store::{Record, StoredToken},
    sync::{ArcSwapOption, Guard, Mutex},
    time::{Now, Timekeeper},
    timer::{self, in_time, timer},
    token::Token,
};

pub(crate) struct Engine {
    /// The published token; written in the slot's critical section only.
    pub(super) cell: ArcSwapOption<Issued>,
    pub(super) slot: Mutex<Slot>,
    pub(super) clock: Timekeeper,
    pub(super) placement: Placement,
    pub(super) source: Box<dyn DynTokenSource>,
    pub(super) storage: Arc<Storage>,
    pub(super) observers: Arc<Observers>,
    pub(super) revoker: Arc<Revoker>,
    pub(super) limits: Limits,
    pub(super) renewal: Renewal,
    pub(super) runtime: Option<Handle>,
    pub(super) mark: Mark,
    /// When somebody has last said that the source has other credentials; 0 if nobody has.
    pub(super) last_change: AtomicU64,
    /// Is sent to after every change that somebody may wait for: whoever follows the session or its store looks again then.
    pub(super) pulse: watch::Sender<()>,
    /// The task that follows the store.
    pub(super) follower: TaskPerRuntime,
}

/// How long a refresh may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) refresh: Duration,
    pub(crate) abandon: Duration,
    pub(crate) cooling: Backoff,
}

impl Engine {
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    #[inline]
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    pub(crate) fn renews_inline(&self) -> bool {
        self.renewal.mode == RenewalMode::Inline
    }

    /// What a request without a token at hand asks for.
    pub(crate) fn first_ask(&self) -> Ask {
        if self.renews_inline() { Ask::Renew } else { Ask::Need }
    }

    /// The published token, for a short look.
    #[inline]
    pub(crate) fn published(&self) -> Guard<Option<Arc<Issued>>> {
        self.cell.load()
    }

    /// The published token, whatever state it is in.
    pub(crate) fn current(&self) -> Option<Arc<Issued>> {
        self.cell.load_full()
    }

    pub(crate) fn slot(&self) -> SlotGuard<'_> {
        SlotGuard::take(&self.slot)
    }

    /// The runtime to refresh on.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        timer::runtime(self.runtime.as_ref())
    }

    /// The runtime to call the store on. Where there are no timers a call would fail for a reason that nobody understands.
    pub(crate) fn runtime_for_the_store(&self, missing: &'static str) -> Result<Handle, Error> {
        let Some(runtime) = self.runtime() else {
            return Err(Error::new(ErrorKind::NoRuntime, missing));
        };
        {
            let _entered = runtime.enter();
            drop(timer(Duration::ZERO)?);
        }
        Ok(runtime)
    }

    pub(crate) fn sendable(&self, token: Token, provenance: Provenance) -> Result<Sendable, Error> {
        Sendable::new(token, &self.placement, &self.renewal, self.clock.exact(), provenance)
    }

    pub(crate) fn announce(&self, event: &Event<'_>) {
        self.observers.announce(event);
    }

    /// Puts into use what a flight has fetched. `None`: it has lost, and stays in the slot.
    pub(crate) fn publish_fetched(
        &self,
        flight: &Flight,
        fresh: Sendable,
        record: RecordHead,
    ) -> Option<Change> {
        let mut slot = self.slot();
        let change = slot.publish(Finder::Flight(flight), fresh, record)?;
        self.cell.store(Some(change.token.clone()));
        Some(change)
    }

    /// Puts into use what was found, unless something has come between, and says what has changed. Whether it counts.
    pub(crate) fn conclude(&self, by: Finder<'_>, obtained: Obtained) -> bool {
        match obtained {
            Obtained::Fetched(change) => {
                self.make_known(Some(change.event()), by.flight());
                true
            }
            Obtained::Token { fresh, record } => {
                self.finish(by, |slot| Some(slot.publish(by, fresh, record)?.event()))
            }
            Obtained::Replaced { fresh, record } => {
                self.finish(by, |slot| Some(slot.adopt(by, fresh, record)?.event()))
            }
            Obtained::Ended { record } => {
                self.finish(by, |slot| slot.adopt_logout(by, record).then_some(Event::LoggedOut))
            }
            Obtained::Nothing => self.finish(by, |_| None),
        }
    }

    fn finish(&self, by: Finder<'_>, change: impl FnOnce(&mut Slot) -> Option<Event<'static>>) -> bool {
        let news = {
            let mut slot = self.slot();
            let news = change(&mut slot);
            match news {
                Some(_) => self.cell.store(slot.token().cloned()),
                None => slot.release(by),
            }
            news
        };
        let counts = news.is_some();
        self.make_known(news, by.flight());
        counts
    }

    /// Ends a flight that has brought nothing.
    pub(crate) fn fail(&self, flight: &Flight, failure: Failure) {
        let now = self.clock.exact();
        let failed = self.slot().fail(flight, &failure, now, &self.limits.cooling);
        let Some(Failure { class, error }) = failed else {
            self.conclude(Finder::Flight(flight), Obtained::Nothing);
            return;
        };
        match class {
            // It was told when it happened.
            _ if flight.over().is_some() => {}
            FailureClass::LoginRequired => self.announce(&Event::LoginRequired { error: &error }),
            _ => self.announce(&Event::RefreshFailed { error: &error }),
        }
        flight.land(Landed::Failed(error));
        self.pulse.send_replace(());
    }

    /// Releases the waiters of a flight that takes too long.
    pub(crate) fn make_overdue(&self, flight: &Flight, error: Error) {
        let on = self.slot().make_overdue(flight, error.clone());
        if on {
            // They have waited long enough: not for an observer, too.
            flight.land(Landed::Failed(error.clone()));
            // That a session is over was told when it happened.
            if flight.over().is_none() {
                self.announce(&Event::RefreshFailed { error: &error });
            }
        } else {
            // It has ended already, and an observer keeps it from saying so.
            flight.land(flight.end());
        }
    }

    /// Another identity.
    pub(crate) fn login(&self, token: Sendable) -> PendingWrite {
        let (change, flight, goes_on, written) = {
            let mut slot = self.slot();
            let (change, flight) = slot.login(token);
            // Asked here: it may have ended its fetch before anybody looks again, and has not left the slot by then.
            let goes_on = slot.is_flying();
            let written = self.storage.enqueue_login(self.publish(&change));
            (change, flight, goes_on, written)
        };
        match flight {
            // To hand the next refresh token down to this login.
            Some(flight) if goes_on => {
                self.make_known(Some(change.event()), None);
                flight.lose();
            }
            flight => self.make_known(Some(change.event()), flight.as_ref()),
        }
        written
    }

    /// A new token of the same identity, from outside.
    pub(crate) async fn replace(self: &Arc<Self>, token: Sendable) -> Result<PendingWrite, Error> {
        let (epoch, has_to_look) = {
            let slot = self.slot();
            let keeps = token.token.keeps_refresh_token();
            (slot.epoch(), keeps && slot.token().is_none() && !slot.is_logged_out())
        };
        // What is in the store is the session's.
        let stored = if has_to_look { self.load_anywhere().await? } else { None };
        let (change, flight, written) = {
            let mut slot = self.slot();
            let (change, flight, keeps) = slot.replace(epoch, token, stored)?;
            let written = self.storage.enqueue_replacement(self.publish(&change), keeps);
            (change, flight, written)
        };
        self.make_known(Some(change.event()), None);
        if let Some(flight) = flight {
            flight.lose();
            // The fetch that spends the refresh token which the replacement has kept goes on, to hand the next one down.
            if !flight.spends(change.token.token().refresh()) {
                flight.abort();
            }
        }
        Ok(written)
    }

    /// What a flight has brought that had lost: the next refresh token belongs to the replacement if that has kept the one
    /// that was spent. `None`: it has not. To the store it is a refresh, of what was presented, where memory may be behind;
    /// and gives way as one does.
    pub(crate) fn hand_down(
        &self,
        by: &Flight,
        presented: &Secret,
        answer: &Token,
        fence: Option<u64>,
    ) -> Option<PendingWrite> {
        let now = self.clock.exact();
        let mut slot = self.slot();
        // The store may have either: what memory has, or with the refresh token that a sibling had saved and that was
        // presented.
        let in_memory = slot.token().map(|token| token.stored());
        let as_presented =
            in_memory.clone().map(|token| StoredToken { refresh: Some(presented.clone()), ..token });
        let is_another =
            |token: &StoredToken| !token.refresh.as_ref().is_some_and(|own| own.same_as(presented));
        let refreshed = as_presented.into_iter().chain(in_memory.filter(is_another));
        let record = self.storage.following(slot.known().record, None);
        let token = slot.hand_down(by, answer, now, record)?;
        self.cell.store(Some(token.clone()));
        let record = record.record(Some(token.stored()));
        self.storage.enqueue_refreshed(record, refreshed, fence, None)
    }

    /// The end of the identity.
    pub(crate) fn logout(&self) -> PendingWrite {
        let (is_news, token, flight, written) = {
            let mut slot = self.slot();
            let is_news = !slot.is_logged_out();
            let token = self.cell.swap(None);
            let (head, flight) = slot.logout();
            let had = token.as_ref().map(|token| token.stored());
            (is_news, token, flight, self.storage.enqueue_logout(head.record(None), had))
        };
        self.make_known(is_news.then_some(Event::LoggedOut), flight.as_ref());
        if let Some(token) = token {
            self.revoker.discard(token.token().clone());
        }
        written
    }

    /// There are other credentials: the next ask may start a fetch, whatever was said of the ones before.
    pub(crate) fn forgive(&self) {
        // Of all sessions together, because one source may serve several.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let change = NEXT.fetch_add(1, Ordering::Relaxed);
        // First, so that no fetch starts without having heard of it.
        self.last_change.fetch_max(change, Ordering::Relaxed);
        self.slot().forgive();
        self.pulse.send_replace(());
    }

    #[cfg(feature = "json")]
    pub(crate) fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Relaxed)
    }

    /// A store that fails stops no request: it is reported.
    pub(crate) fn reported<T>(&self, result: Result<T, Error>) -> Option<T> {
        result.inspect_err(|error| self.announce(&Event::StoreFailed { error })).ok()
    }

    /// What is in the store, or owed to it.
    pub(crate) async fn newest(&self) -> Option<Record> {
        let (newest, read) = self.storage.newest().await;
        self.reported(read);
        newest
    }

    /// What is in the store, for a caller on whatever runtime.
    async fn load_anywhere(self: &Arc<Self>) -> Result<Option<Record>, Error> {
        let missing = "there is no tokio runtime to look into the store on: nothing has changed";
        let runtime = self.runtime_for_the_store(missing)?;
        let engine = self.clone();
        let mut looking = JoinSet::new();
        looking.spawn_on(async move { engine.storage.load().await }, &runtime);
        match in_time(self.storage.timeout(), pin!(looking.join_next())).await {
            Some(Some(Ok(found))) => found,
            Some(_) => {
                let gone = "the runtime went away before the store was looked into: nothing has changed";
                Err(Error::new(ErrorKind::NoRuntime, gone))
            }
            None => {
                let late = "the store was not looked into in time: nothing has changed";
                Err(Error::new(ErrorKind::Store, late))
            }
        }
    }

    /// Sees a write to its end. A failure is reported, and the record stays owed.
    pub(crate) async fn save(&self, runtime: &Handle, written: PendingWrite) -> Result<(), Error> {
        self.storage.drain(runtime);
        self.wait_for(written).await
    }

    /// Like [`save`](Self::save), for a refresh: begun in this task, because waiters are not to wait for tasks to change
    /// places.
    pub(crate) async fn save_at_once(&self, written: PendingWrite) -> Result<(), Error> {
        self.storage.drain_at_once();
        self.wait_for(written).await
    }

    async fn wait_for(&self, written: PendingWrite) -> Result<(), Error> {
        let saved = written.end().await.unwrap_or_else(|unknown| {
            // One that has ended has seen to it where it was.
            self.storage.write_again();
            Err(unknown)
        });
        saved.inspect_err(|error| self.storage.report(error))
    }

    /// What follows every change of the session: first it is announced, then the waiters of a flight go on. So does whoever
    /// waits for its lease, or for one that was kept, as soon as that has spent nothing that others would find.
    fn make_known(&self, news: Option<Event<'_>>, flight: Option<&Flight>) {
        if let Some(news) = &news {
            self.announce(news);
        }
        if let Some(flight) = flight {
            flight.land(Landed::Changed);
            self.storage.give_back(flight);
        }
        self.storage.give_kept_back();
        self.pulse.send_replace(());
    }

    /// Publishes a change, in the critical section that makes it. Returned is its record, for the store's queue.
    fn publish(&self, change: &Change) -> Record {
        self.cell.store(Some(change.token.clone()));
        change.record.record(Some(change.token.stored()))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
