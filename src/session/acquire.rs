//! The wait for a token, for requests and for callers alike.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::runtime::Handle;

use super::{
    ask::{Ask, Decision, answers},
    engine::Engine,
    flight::{Flight, Landing},
    issued::Issued,
    renewal::RenewalMode,
    seats::Landed,
    transaction,
};
use crate::{
    error::{Error, ErrorKind},
    reentry,
    source::Cause,
    timer::Alarm,
};

/// Takes from the token at hand what is needed to send a request at once; a due token is renewed meanwhile. `None`: there
/// is something to wait for, or the token is not wanted.
#[inline]
pub(crate) fn at_hand<T>(engine: &Arc<Engine>, take: impl FnOnce(&Issued) -> Option<T>) -> Option<T> {
    let published = engine.published();
    let token = published.as_ref().filter(|token| !token.is_condemned())?;
    let is_due = !token.is_known_to_be_fresh(&engine.clock) && check_deadlines(engine, token)?;
    let taken = take(token)?;
    if is_due {
        renew(engine);
    }
    Some(taken)
}

/// Looks afresh whether a token is due. `None`: there is another one to wait for.
#[inline(never)]
fn check_deadlines(engine: &Engine, token: &Issued) -> Option<bool> {
    engine.storage.write_what_has_failed();
    let now = engine.now();
    let is_due = !token.check_freshness(now, &engine.clock, engine.renewal.mode != RenewalMode::Off);
    if token.is_expired(now) || (is_due && engine.renews_inline()) {
        return None;
    }
    Some(is_due)
}

/// Renews a due token in passing, for an ask that looks at no deadline.
pub(super) fn renew_what_is_due(engine: &Arc<Engine>) {
    if at_hand(engine, |_| Some(())).is_none() {
        renew(engine);
    }
}

/// Sees to it that a due token is renewed, without waiting for it.
pub(super) fn renew(engine: &Arc<Engine>) {
    let _ = Acquire::new(engine.clone(), Ask::Renew).step();
}

/// After so many refreshes in a row a caller takes the current token, condemned or not.
const PATIENCE: u8 = 2;

/// Resolves to a token that answers an [`Ask`], after waiting for whatever refresh that takes.
pub(crate) struct Acquire {
    engine: Arc<Engine>,
    ask: Ask,
    wait: Option<Wait>,
    /// The token that was refused, if this caller's refusal of it has started the flight.
    refused: Option<Arc<Issued>>,
    changes: u8,
}

/// The wait for a flight.
pub(crate) struct Wait {
    landing: Landing,
    /// For a flight on another runtime, which nobody may be driving any more: its own timer stands still then.
    alarm: Option<Box<Alarm>>,
}

/// Why there is no token.
#[derive(Debug)]
pub(crate) enum Denied {
    Failed(Error),
    /// Recent refreshes were fruitless: the refusal stands.
    Damped,
}

impl Wait {
    fn new(flight: Flight) -> Self {
        Wait { landing: flight.landing(), alarm: None }
    }

    fn poll(&mut self, engine: &Engine, cx: &mut Context<'_>) -> Poll<Landed> {
        if let Poll::Ready(landed) = Pin::new(&mut self.landing).poll(cx) {
            return Poll::Ready(landed);
        }
        let flight = self.landing.flight();
        if let Ok(here) = Handle::try_current() {
            if flight.runtime() != Some(here.id()) {
                Alarm::follow(&mut self.alarm, engine.limits.refresh, &here);
            }
        }
        let Some(alarm) = &mut self.alarm else { return Poll::Pending };
        if ready!(alarm.poll(cx)) {
            return Poll::Ready(Landed::Failed(flight.late()));
        }
        // There is nothing here that could ring.
        Poll::Pending
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Failed(error) => error,
            Denied::Damped => {
                Error::new(ErrorKind::Transient, "the latest tokens were refused as soon as they were used")
            }
        }
    }
}

impl Acquire {
    pub(crate) fn new(engine: Arc<Engine>, ask: Ask) -> Self {
        Acquire { engine, ask, wait: None, refused: None, changes: 0 }
    }

    /// The token whose refusal by this caller has started a refresh.
    pub(crate) fn refused(&self) -> Option<&Arc<Issued>> {
        self.refused.as_ref()
    }

    /// Why there is nothing to fetch, if what is waited for only looks whether that is still so.
    pub(crate) fn over(&self) -> Option<Error> {
        let flight = self.wait.as_ref()?.landing.flight();
        flight.over().filter(|_| !flight.is_forgiven()).cloned()
    }

    /// Asks, without waiting for what the ask may start. `None`: there is a flight to wait for now.
    pub(crate) fn step(&mut self) -> Result<Option<Arc<Issued>>, Denied> {
        let engine = &self.engine;
        // Without the slot, which a crowd would have to take one by one. Whoever comes for a first token has just looked.
        if self.changes > 0 || matches!(self.ask, Ask::Refuse { .. }) {
            if let Some(token) = engine.current().filter(|token| answers(token, self.ask, || engine.now())) {
                return Ok(Some(token));
            }
        }
        if engine.mark().is_around_us() {
            return Err(Denied::Failed(reentry::error()));
        }
        engine.storage.write_what_has_failed();
        let now = engine.clock.reading();
        let mut slot = engine.slot();
        match slot.ask(self.ask, now) {
            Decision::Use(token) => Ok(Some(token)),
            Decision::Join(flight) => {
                self.wait = Some(Wait::new(flight));
                Ok(None)
            }
            Decision::Start(flight, plan) => {
                let Some(runtime) = engine.runtime() else {
                    slot.unstart();
                    let missing =
                        || Error::new(ErrorKind::NoRuntime, "a refresh needs a tokio runtime to run on");
                    let error = flight.over().cloned().unwrap_or_else(missing);
                    return Err(Denied::Failed(error));
                };
                drop(slot);
                if plan.cause == Cause::Refused {
                    self.refused = plan.known.current.clone();
                }
                flight.set_runtime(&runtime);
                self.wait = Some(Wait::new(flight.clone()));
                transaction::launch(engine.clone(), &runtime, flight, plan);
                engine.pulse.send_replace(());
                Ok(None)
            }
            Decision::Fail(error) => Err(Denied::Failed(error)),
            Decision::Damped => Err(Denied::Damped),
        }
    }

    /// Goes on after the end of the flight that was waited for. The error, if there is nothing more to wait for.
    fn resume(&mut self, landed: Landed) -> Option<Error> {
        let flight = self.wait.as_ref()?.landing.flight();
        match landed {
            Landed::Changed => {
                self.changes = self.changes.saturating_add(1);
                let asks_on = match self.ask {
                    Ask::Refuse { .. } => true,
                    // What was found may have lived for long.
                    Ask::ValidFor(_) | Ask::Renew => flight.has_found(),
                    // Who needs more than any token, where this was no refresh.
                    Ask::Force => flight.has_found_first(),
                    Ask::Need | Ask::Take => false,
                };
                // Who was refused, or forces a new token, asks on by itself, and so does a renewal.
                if flight.has_found() && matches!(self.ask, Ask::Need | Ask::Take | Ask::ValidFor(_)) {
                    renew_what_is_due(&self.engine);
                }
                if !asks_on {
                    self.ask = Ask::Take;
                }
                None
            }
            Landed::Failed(error) => Some(error),
            Landed::Interrupted => {
                let own = self.engine.runtime().map(|own| own.id());
                let gone = "the refresh's runtime has shut down or has no timers";
                let error = || self.over().unwrap_or_else(|| Error::new(ErrorKind::NoRuntime, gone));
                // The runtimes of others say nothing of this one, however many end.
                (own.is_some() && flight.runtime() == own).then(error)
            }
            Landed::Nothing => None,
        }
    }

    /// What a failed refresh leaves: a token that may still be sent, for those who have not been refused with it.
    fn after(&self, error: Error) -> Result<Arc<Issued>, Denied> {
        let now = self.engine.now();
        let may_be_sent = |token: &Arc<Issued>| match self.ask {
            Ask::Force | Ask::Refuse { .. } => answers(token, self.ask, || now),
            _ => token.is_usable(now),
        };
        self.engine.current().filter(may_be_sent).ok_or(Denied::Failed(error))
    }

    /// The current token, for a caller that has waited often enough.
    fn settle_for(&self) -> Option<Arc<Issued>> {
        let is_other = |token: &Arc<Issued>| match self.ask {
            Ask::Refuse { stamp, .. } => stamp.is_before(token.stamp()),
            _ => true,
        };
        if self.changes < PATIENCE {
            return None;
        }
        self.engine.current().filter(|token| is_other(token) && !token.came_too_late())
    }
}

impl Future for Acquire {
    type Output = Result<Arc<Issued>, Denied>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = &mut *self;
            if let Some(wait) = &mut this.wait {
                let landed = ready!(wait.poll(&this.engine, cx));
                let failed = this.resume(landed);
                this.wait = None;
                if let Some(error) = failed {
                    return Poll::Ready(this.after(error));
                }
                if let Some(token) = self.settle_for() {
                    return Poll::Ready(Ok(token));
                }
            }
            match self.step() {
                Ok(Some(token)) => return Poll::Ready(Ok(token)),
                Ok(None) => {}
                Err(Denied::Failed(error)) => return Poll::Ready(self.after(error)),
                Err(denied) => return Poll::Ready(Err(denied)),
            }
        }
    }
}
