//! One refresh in progress, shared by everybody who waits for it.
//!
//! Waiters hold a [`Landing`]. Whoever ends the wait (the supervisor, a logout, a dropped runtime) lands the flight; the
//! first to do so wins. The slot is never freed from a destructor: a flight whose tasks are gone is marked as such here,
//! and whoever takes the slot next sees it.

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::{
    runtime::{self, Handle},
    sync::watch,
    task::AbortHandle,
};

use super::seats::{Landed, Round, Seat, Seats};
use crate::{
    error::{Error, ErrorKind},
    secret::Secret,
    store::Lease,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A handle on a refresh in progress.
#[derive(Clone)]
pub(crate) struct Flight(Arc<Core>);

#[derive(Default)]
struct Core {
    /// Where its tasks run.
    runtime: OnceLock<runtime::Id>,
    state: Mutex<State>,
    /// Its token is no longer wanted: the session was replaced, or is another one now.
    lost: AtomicBool,
    /// Its tasks are gone.
    gone: AtomicBool,
    /// Why there is nothing to fetch: it looks whether the store has something else, and only then it fetches.
    over: Option<Error>,
    revived: AtomicBool,
    /// It has fetched nothing: what it brings was in the store, however old. And whether that is the session's first token.
    found: OnceLock<bool>,
    /// There are other credentials than those that it has, or may have, presented.
    forgiven: AtomicBool,
    /// Why it has brought nothing.
    failure: OnceLock<Error>,
}

#[derive(Default)]
struct State {
    seats: Seats,
    fetch: Option<AbortHandle>,
    /// The fetch is to be aborted, as soon as there is one.
    aborts: bool,
    /// The refresh tokens that are of no use after the fetch: the one that it presents, and the one before.
    spends: Vec<Secret>,
    lease: Option<Lease>,
}

impl Flight {
    pub(crate) fn new() -> Self {
        Flight(Arc::default())
    }

    /// One of a session that is over.
    pub(super) fn looking(over: Error) -> Self {
        Flight(Arc::new(Core { over: Some(over), ..Core::default() }))
    }

    pub(crate) fn is(&self, other: &Flight) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A future that ends when the flight lands.
    pub(crate) fn landing(self) -> Landing {
        let round = self.state().seats.round();
        Landing {
            is_of_the_lost: self.is_lost(),
            is_of_the_forgiven: self.is_forgiven(),
            flight: self,
            round,
            seat: Seat::NONE,
        }
    }

    /// Says where its tasks run, before they do.
    pub(crate) fn set_runtime(&self, runtime: &Handle) {
        // A flight is started once.
        let _ = self.0.runtime.set(runtime.id());
    }

    /// Where its tasks run.
    pub(crate) fn runtime(&self) -> Option<runtime::Id> {
        self.0.runtime.get().copied()
    }

    /// Releases the current waiters. Only the first call does anything.
    pub(crate) fn land(&self, landed: Landed) {
        let released = self.state().seats.end(&landed);
        released.wake();
    }

    /// It has failed, which its waiters are told when the observers have been.
    pub(crate) fn set_failure(&self, error: Error) {
        // A flight fails once.
        let _ = self.0.failure.set(error);
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&self) -> Landed {
        self.0.failure.get().cloned().map_or(Landed::Changed, Landed::Failed)
    }

    /// Its token is no longer wanted.
    pub(crate) fn disown(&self) {
        self.0.lost.store(true, Ordering::Release);
    }

    /// Disowns the flight. Its waiters decide again; who comes from now on waits for the end of the fetch.
    pub(crate) fn lose(&self) {
        self.disown();
        let released = self.state().seats.next_round();
        released.wake();
        if self.is_gone() {
            self.land(Landed::Interrupted);
        }
    }

    /// Aborts the fetch, now or as soon as there is one.
    pub(crate) fn abort(&self) {
        let fetch = {
            let mut state = self.state();
            state.aborts = true;
            state.fetch.clone()
        };
        if let Some(fetch) = fetch {
            fetch.abort();
        }
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.state().aborts
    }

    /// Takes the store's lease into its keeping.
    pub(super) fn keep_lease(&self, lease: Lease) {
        self.state().lease = Some(lease);
    }

    /// Takes the lease from it: it writes nothing any more, and who comes after it is not to wait for it.
    pub(super) fn take_lease(&self) -> Option<Lease> {
        self.state().lease.take()
    }

    /// Whether somebody waits for its end, or may wait for its lease.
    pub(super) fn is_waited_for(&self) -> bool {
        let state = self.state();
        state.seats.taken() > 0 || state.lease.is_some()
    }

    /// Whether the fetch may begin, which spends these refresh tokens. One that has lost by now may have been taken for one
    /// that spends none, and been aborted.
    #[must_use]
    pub(super) fn begin_fetch(&self, refresh_tokens: Vec<Secret>) -> bool {
        self.state().spends = refresh_tokens;
        !self.is_lost()
    }

    /// The fetch has ended, and its source has not even looked at them: it has logged in, perhaps in vain.
    pub(super) fn forget_spent(&self) {
        self.state().spends.clear();
    }

    /// Whether the fetch spends this refresh token.
    pub(super) fn spends(&self, refresh_token: Option<&Secret>) -> bool {
        refresh_token.is_some_and(|own| own.is_among(&self.state().spends))
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }

    /// Why the session is over, while it is not known that the store has something else.
    pub(super) fn over(&self) -> Option<&Error> {
        let is_revived = self.0.revived.load(Ordering::Acquire) || self.is_lost();
        self.0.over.as_ref().filter(|_| !is_revived)
    }

    /// What its waiters are told at `refresh_timeout`: that it takes too long, or that the session is over, as long as nothing
    /// else is known.
    pub(super) fn late(&self) -> Error {
        let late = || Error::new(ErrorKind::Timeout, "the refresh takes longer than its timeout; it goes on");
        self.over().cloned().unwrap_or_else(late)
    }

    /// The refresh tokens that are of no use after the fetch.
    pub(super) fn spent(&self) -> Vec<Secret> {
        self.state().spends.clone()
    }

    /// The store has something else: it is a flight as any other from now on.
    pub(super) fn revive(&self) {
        self.0.revived.store(true, Ordering::Release);
    }

    /// What it brings was in the store.
    pub(super) fn set_found(&self, is_first: bool) {
        let _ = self.0.found.set(is_first);
    }

    pub(crate) fn has_found(&self) -> bool {
        self.0.found.get().is_some()
    }

    pub(crate) fn has_found_first(&self) -> bool {
        self.0.found.get() == Some(&true)
    }

    /// Its failure says nothing of the next fetch.
    pub(super) fn forgive(&self) {
        self.0.forgiven.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_forgiven(&self) -> bool {
        self.0.forgiven.load(Ordering::Relaxed)
    }

    /// Makes the fetch's task known, so that it can be aborted.
    pub(crate) fn set_fetch(&self, fetch: AbortHandle) {
        let aborts = {
            let mut state = self.state();
            state.fetch = Some(fetch.clone());
            state.aborts
        };
        if aborts {
            fetch.abort();
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// Marks the flight as gone, releases its waiters and tells who follows the session, when dropped.
    pub(crate) fn guard(&self, pulse: watch::Sender<()>) -> Guard {
        Guard(self.clone(), pulse)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives in the flight's task.
pub(crate) struct Guard(Flight, watch::Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.gone.store(true, Ordering::Release);
        self.0.land(Landed::Interrupted);
        self.1.send_replace(());
    }
}

/// A wait for the end of a flight.
pub(crate) struct Landing {
    flight: Flight,
    round: Round,
    /// It had lost when the wait began: what has come instead was there before.
    is_of_the_lost: bool,
    /// There were other credentials when the wait began: that those before bring nothing is no answer.
    is_of_the_forgiven: bool,
    seat: Seat,
}

impl Landing {
    pub(crate) fn flight(&self) -> &Flight {
        &self.flight
    }
}

impl Future for Landing {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let this = &mut *self;
        // Wakers are cloned and dropped where no lock is held: they are other people's code.
        let mut waker = (this.seat == Seat::NONE).then(|| cx.waker().clone());
        loop {
            let mut state = this.flight.state();
            if let Some(landed) = state.seats.ended(this.round) {
                drop(state);
                this.seat = Seat::NONE;
                return Poll::Ready(match landed {
                    // One that has only looked has changed nothing: it was forgiven meanwhile.
                    Landed::Changed if this.is_of_the_lost || this.flight.over().is_some() => Landed::Nothing,
                    Landed::Failed(_) if this.is_of_the_forgiven => Landed::Nothing,
                    landed => landed,
                });
            }
            match waker {
                None if state.seats.will_wake(this.seat, cx.waker()) => return Poll::Pending,
                None => {
                    drop(state);
                    waker = Some(cx.waker().clone());
                }
                Some(waker) => {
                    let replaced = state.seats.sit(&mut this.seat, waker);
                    drop(state);
                    drop(replaced);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.seat != Seat::NONE {
            let left = self.flight.state().seats.leave(self.round, self.seat);
            drop(left);
        }
    }
}
