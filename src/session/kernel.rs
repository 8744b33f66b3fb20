//! The decisions of a session: a small state and its transitions. They wait for nothing, read no clock but the one that
//! they are given, and call nobody else's code. A flight, and a token in use, are shared: what is decided of them (lost,
//! forgiven, condemned) is marked there.
//!
//! The state has two independent halves, the *token* and the *fetch*, so that a living access token beside a dead
//! refresh token, or a valid token while renewals fail, can be expressed.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use super::{
    ask::{Ask, Change, Decision, Failure, Known, Plan, answers},
    backoff::{Backoff, Failures},
    damper::Damper,
    flight::Flight,
    issued::{Issued, Sendable},
    presented::Presented,
    record_head::RecordHead,
};
use crate::{
    classify::Verdict,
    error::{Error, ErrorKind},
    generation::Epoch,
    source::{Cause, FailureClass},
    store::{Record, SessionId, StoredToken},
    time::{Moment, Now},
    token::Token,
};

/// What the session's slot holds.
pub(crate) struct Slot {
    epoch: Epoch,
    token: Option<Arc<Issued>>,
    fetch: Fetch,
    failures: Failures,
    record: RecordHead,
    presented: Presented,
    /// From when on a session that is over looks into the store when it is asked; never after a logout of its own.
    look_at: Option<Duration>,
    /// The session that was ended elsewhere, if there has been no token since: only a login that is in the store goes on.
    ended: Option<SessionId>,
    left_behind: Vec<Fetch>,
}

/// Who brings something from the authority or the store.
#[derive(Clone, Copy)]
pub(crate) enum Finder<'a> {
    Flight(&'a Flight),
    /// A sibling's save was noticed. It counts if nothing has happened since the session stood at this record; a second
    /// logout leaves that as it is.
    Sibling {
        epoch: Epoch,
        since: RecordHead,
    },
}

impl<'a> Finder<'a> {
    pub(crate) fn flight(self) -> Option<&'a Flight> {
        match self {
            Finder::Flight(flight) => Some(flight),
            Finder::Sibling { .. } => None,
        }
    }
}

/// The fetch half of the state.
pub(crate) enum Fetch {
    Idle,
    Flight(Flight),
    /// It took too long for its waiters, and goes on: with rotation its result is the only living token.
    Overdue(Flight, Error),
    Cooling {
        until: Moment,
        error: Error,
    },
    /// The authority's word: nothing is fetched until somebody logs in, here or elsewhere.
    Dead(Error),
    LoggedOut,
}

impl Slot {
    pub(crate) fn new(session: SessionId) -> Self {
        Slot {
            epoch: Epoch::default(),
            token: None,
            fetch: Fetch::Idle,
            failures: Failures::default(),
            record: RecordHead { session, revision: 0 },
            presented: Presented::default(),
            look_at: None,
            ended: None,
            left_behind: Vec::new(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn is_logged_out(&self) -> bool {
        self.over().is_some_and(|over| over.kind() == ErrorKind::SessionEnded)
    }

    /// Why nothing is fetched, if the session is over.
    fn over(&self) -> Option<Error> {
        match &self.fetch {
            Fetch::Flight(flight) | Fetch::Overdue(flight, _) => flight.over().cloned(),
            Fetch::Dead(error) => Some(error.clone()),
            Fetch::LoggedOut => Some(session_ended()),
            Fetch::Idle | Fetch::Cooling { .. } => None,
        }
    }

    pub(crate) fn token(&self) -> Option<&Arc<Issued>> {
        self.token.as_ref()
    }

    pub(crate) fn fetch(&mut self) -> &Fetch {
        self.absorb();
        &self.fetch
    }

    /// Whether a fetch is in progress, whatever its waiters were told.
    pub(crate) fn is_flying(&mut self) -> bool {
        matches!(self.fetch(), Fetch::Flight(_) | Fetch::Overdue(..))
    }

    /// Decides what an ask comes to. Those who join a flight, as most do, need not know the time.
    pub(crate) fn ask(&mut self, ask: Ask, now: impl Fn() -> Now) -> Decision {
        self.absorb();
        let current = self.token.as_ref().map(|token| token.stamp());
        let ask = match ask {
            Ask::Refuse { stamp, .. } if stamp.epoch != self.epoch => return Decision::Fail(self.left()),
            // It says nothing of the current token, which may have expired meanwhile.
            Ask::Refuse { stamp, .. } if current.is_some_and(|current| stamp.is_before(current)) => Ask::Need,
            ask => ask,
        };
        if let Some(token) = self.token.as_ref().filter(|token| answers(token, ask, &now)) {
            return Decision::Use(token.clone());
        }
        match &self.fetch {
            Fetch::Flight(flight) => {
                let flight = flight.clone();
                // Where nothing is fetched, the token is what there is.
                if flight.over().is_none() {
                    self.condemn_if_rejected(ask);
                }
                Decision::Join(flight)
            }
            Fetch::Overdue(_, error) => Decision::Fail(error.clone()),
            Fetch::Dead(error) => self.look(error.clone(), ask, now),
            Fetch::Cooling { until, error } if !until.has_come(now()) => Decision::Fail(error.clone()),
            Fetch::LoggedOut => self.look(session_ended(), ask, now),
            Fetch::Idle | Fetch::Cooling { .. } if self.is_damped(ask, &now) => Decision::Damped,
            Fetch::Idle | Fetch::Cooling { .. } => {
                self.condemn_if_rejected(ask);
                let flight =
                    if self.ended.is_some() { Flight::looking(session_ended()) } else { Flight::new() };
                self.start(flight, ask, now())
            }
        }
    }

    /// Nothing is fetched, but somebody may have logged in elsewhere.
    fn look(&mut self, over: Error, ask: Ask, now: impl Fn() -> Now) -> Decision {
        let now = now();
        match self.look_at {
            Some(at) if at <= now.monotonic => {
                // Whatever becomes of this one: its runtime may have gone.
                self.look_at = Some(now.monotonic.saturating_add(BETWEEN_LOOKS));
                self.start(Flight::looking(over), ask, now)
            }
            _ => Decision::Fail(over),
        }
    }

    fn start(&mut self, flight: Flight, ask: Ask, now: Now) -> Decision {
        self.set_fetch(Fetch::Flight(flight.clone()));
        if let (Ask::Refuse { target, .. }, Some(refused)) = (ask, &self.token) {
            refused.leave_unjudged(target);
        }
        Decision::Start(flight, self.plan(ask, now))
    }

    /// There are other credentials: what the authority said of the ones before is forgotten.
    pub(crate) fn forgive(&mut self) {
        self.absorb();
        match &self.fetch {
            Fetch::Flight(flight) | Fetch::Overdue(flight, _) => flight.forgive(),
            Fetch::Cooling { .. } | Fetch::Dead(_) => self.end_fetch(Fetch::Idle),
            Fetch::Idle | Fetch::LoggedOut => {}
        }
        self.look_at = self.look_at.map(|_| Duration::ZERO);
        self.failures = Failures::default();
    }

    /// The flight could not be started.
    pub(crate) fn unstart(&mut self) {
        if let Some(flight) = self.flight().cloned() {
            self.end_flight(&flight);
        }
    }

    /// Puts a newer token of the same identity into use. `None`: it came too late to count.
    pub(crate) fn publish(&mut self, by: Finder<'_>, fresh: Sendable, record: RecordHead) -> Option<Change> {
        if !self.is_wanted(by) {
            return None;
        }
        self.set_fetch(Fetch::Idle);
        let own = self.token.as_ref().and_then(|own| own.token().refresh().cloned());
        let spent = match by.flight() {
            Some(flight) if !flight.has_found() => flight.spent(),
            // Somebody else has, to get what was found.
            _ => own.into_iter().collect(),
        };
        self.presented.spend(spent, fresh.token.refresh());
        let damper = self.token.as_ref().map(|token| token.hand_damper_on(&fresh));
        Some(self.issue(fresh, record, damper.unwrap_or_default()))
    }

    /// The flight's waiters have waited long enough.
    pub(crate) fn make_overdue(&mut self, flight: &Flight, error: Error) -> bool {
        let on = matches!(&self.fetch, Fetch::Flight(current) if current.is(flight));
        if on {
            self.end_fetch(Fetch::Overdue(flight.clone(), error));
        }
        on
    }

    /// The flight has failed; returned is what its waiters are told. `None`: its result was not wanted. That of a
    /// flight that has lost is wanted if the next one would present the same refresh token.
    pub(crate) fn fail(
        &mut self,
        flight: &Flight,
        failure: &Failure,
        now: Now,
        backoff: &Backoff,
    ) -> Option<Failure> {
        let concerns_us = self.is_on(flight) && self.kept_in_spite_of(flight).is_some();
        if !concerns_us && !self.is_wanted(Finder::Flight(flight)) {
            return None;
        }
        if flight.is_forgiven() && flight.over().is_some_and(|over| over.kind() != ErrorKind::SessionEnded) {
            // Nobody was asked with the credentials that there are now: whoever waits decides again.
            return None;
        }
        let (class, mut error) = (failure.class, failure.error.clone());
        if class == FailureClass::LoginRequired {
            self.presented.refuse(flight.spent());
        }
        if !flight.is_forgiven() {
            self.look_at = Some(now.monotonic.saturating_add(BETWEEN_LOOKS));
        }
        if flight.is_forgiven() || flight.over().is_some() {
            // It was of the credentials before, or the session is over as it was: the waiters are told, and nothing changes.
            self.end_flight(flight);
            flight.set_failure(error.clone());
            return Some(Failure { class: FailureClass::Transient, error });
        }
        let then = match class {
            FailureClass::LoginRequired => Fetch::Dead(error.clone()),
            // Nothing was asked.
            _ if error.kind() == ErrorKind::NoRuntime => Fetch::Idle,
            _ => {
                let wait = self.failures.count(class, error.retry_after(), now, backoff);
                if class == FailureClass::Ambiguous && self.failures.are_stalled() {
                    error = error.stalled();
                }
                Fetch::Cooling { until: Moment::after(now, wait), error: error.clone() }
            }
        };
        self.end_fetch(then);
        flight.set_failure(error.clone());
        Some(Failure { class, error })
    }

    /// The fetch of a flight that has lost is over: another one may start.
    pub(crate) fn release(&mut self, by: Finder<'_>) {
        if let Some(flight) = by.flight().filter(|flight| self.is_on(flight)) {
            self.end_flight(flight);
        }
    }

    /// Another identity. The flight of the one before is returned to be released. One that is spending the refresh token
    /// of this login stays in the slot until its fetch has ended, as beside a replacement.
    pub(crate) fn login(&mut self, token: Sendable) -> (Change, Option<Flight>) {
        let record = RecordHead { session: SessionId::random(), ..self.record.following() };
        let flight = self.leave();
        if !flight.as_ref().is_some_and(|flight| flight.spends(token.token.refresh())) {
            self.set_fetch(Fetch::Idle);
        }
        self.note_spending(flight.as_ref(), &token.token);
        self.presented.forget_refused();
        (self.issue(token, record, Arc::default()), flight)
    }

    /// Another identity, which was found in the store. `None`: it is not wanted.
    pub(crate) fn adopt(&mut self, by: Finder<'_>, token: Sendable, record: RecordHead) -> Option<Change> {
        self.is_wanted(by).then(|| {
            self.leave();
            self.set_fetch(Fetch::Idle);
            self.issue(token, record, Arc::default())
        })
    }

    /// A new token of the identity of this epoch, from outside. A flight in progress loses, and stays in the slot until
    /// its fetch has ended, because no second one may run beside it. A session without a token goes on from what is stored.
    /// Whether the refresh token is kept is told, too.
    pub(crate) fn replace(
        &mut self,
        epoch: Epoch,
        token: Sendable,
        stored: Option<Record>,
    ) -> Result<(Change, Option<Flight>, bool), Error> {
        self.absorb();
        if epoch != self.epoch || self.is_logged_out() {
            return Err(self.left());
        }
        let own = self.token.as_ref().and_then(|own| own.token().refresh());
        let keeps = self.presented.is_kept(own, &token.token);
        let flight = self.flight().cloned();
        // What this keeps if only the store had one. A flight that has lost before has handed on what it was to.
        let spending =
            flight.as_ref().filter(|flight| !flight.is_lost()).and_then(|flight| flight.spent().pop());
        match &flight {
            // Here already, and not when its waiters are released: an observer may take its time before that.
            Some(flight) => flight.disown(),
            None => self.set_fetch(Fetch::Idle),
        }
        let stored = stored.filter(|found| self.known().may_take(found));
        let (base, before) = match (&self.token, stored) {
            (None, Some(found)) if found.token.is_some() => (found.head(), found.token),
            (current, _) => (self.record, current.as_ref().map(|current| current.stored())),
        };
        let token = match before {
            Some(before) if keeps => {
                let refresh = before.refresh.or(spending);
                token.keeping_refresh_of(StoredToken { refresh, ..before })
            }
            _ => token,
        };
        self.note_spending(flight.as_ref().filter(|_| !keeps), &token.token);
        Ok((self.issue(token, base.following(), Arc::default()), flight, keeps))
    }

    /// The token in use has kept the refresh token that this flight has spent for the answer: it gets the next one.
    pub(crate) fn hand_down(
        &mut self,
        by: &Flight,
        answer: &Token,
        now: Now,
        record: RecordHead,
    ) -> Option<Arc<Issued>> {
        let token = self.kept_in_spite_of(by)?.with_refresh_of(answer, now);
        self.presented.spend(by.spent(), token.token().refresh());
        self.token = Some(token.clone());
        self.record = record;
        Some(token)
    }

    /// The end of the identity. The flight in progress is returned to be released.
    pub(crate) fn logout(&mut self) -> (RecordHead, Option<Flight>) {
        if !self.is_logged_out() {
            self.record = self.record.following();
        }
        let flight = self.leave();
        self.set_fetch(Fetch::LoggedOut);
        self.look_at = None;
        (self.record, flight)
    }

    /// The end of the identity, which was found in the store. Whether it is wanted.
    pub(crate) fn adopt_logout(&mut self, by: Finder<'_>, record: RecordHead) -> bool {
        let wanted = self.is_wanted(by);
        if wanted {
            // Without a token it has not had the session that ends.
            let last = if self.token.is_some() { self.record } else { record };
            self.leave();
            self.set_fetch(Fetch::LoggedOut);
            self.look_at = Some(Duration::ZERO);
            self.ended = Some(last.session);
            self.record = record;
        }
        wanted
    }

    fn issue(&mut self, fresh: Sendable, record: RecordHead, damper: Arc<Damper>) -> Change {
        let old = self.token.as_ref().map(|token| token.stamp().generation);
        let token = fresh.issue(self.epoch, damper);
        token.set_has_no_next(self.presented.has_refused(token.token().refresh()));
        self.token = Some(token.clone());
        self.ended = None;
        self.record = record;
        self.failures = Failures::default();
        Change { old, token, record }
    }

    /// Ends the epoch. The fetch half is left to the caller.
    fn leave(&mut self) -> Option<Flight> {
        self.epoch = self.epoch.following();
        self.token = None;
        self.failures = Failures::default();
        let flight = self.flight().cloned();
        if let Some(flight) = &flight {
            flight.disown();
        }
        flight
    }

    /// The fetch half changes without a new token: what was condemned for the sake of the flight goes out again and
    /// is refused on its own merit.
    fn end_fetch(&mut self, then: Fetch) {
        self.set_fetch(then);
        if let Some(token) = &self.token {
            token.condemn(false);
            let is_refused = self.presented.has_refused(token.token().refresh());
            token.set_has_no_next(is_refused || matches!(self.fetch, Fetch::Dead(_)));
        }
    }

    /// A flight that has lost to this token may have spent what it presents.
    fn note_spending(&mut self, lost: Option<&Flight>, next: &Token) {
        if let Some(lost) = lost {
            self.presented.spend(lost.spent(), next.refresh());
        }
    }

    /// The flight ends and leaves the session as it was.
    fn end_flight(&mut self, flight: &Flight) {
        self.end_fetch(match flight.over() {
            Some(over) if over.kind() == ErrorKind::SessionEnded => Fetch::LoggedOut,
            Some(over) if !flight.is_forgiven() => Fetch::Dead(over.clone()),
            _ => Fetch::Idle,
        });
    }

    /// A flight whose tasks are gone, with their runtime, is over.
    fn absorb(&mut self) {
        if let Some(gone) = self.flight().filter(|flight| flight.is_gone()).cloned() {
            self.end_flight(&gone);
        }
    }

    fn flight(&self) -> Option<&Flight> {
        match &self.fetch {
            Fetch::Flight(flight) | Fetch::Overdue(flight, _) => Some(flight),
            _ => None,
        }
    }

    fn set_fetch(&mut self, then: Fetch) {
        self.left_behind.push(std::mem::replace(&mut self.fetch, then));
    }

    pub(crate) fn has_left_behind(&self) -> bool {
        !self.left_behind.is_empty()
    }

    /// What the fetch half was before, and may be the last to remember errors: their causes are somebody else's, and may do
    /// anything when they are dropped.
    pub(crate) fn take_left_behind(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.left_behind)
    }

    /// The token in use, if its refresh token is the one that the flight spends.
    fn kept_in_spite_of(&self, flight: &Flight) -> Option<&Arc<Issued>> {
        self.token.as_ref().filter(|token| flight.spends(token.token().refresh()))
    }

    /// Whether what it brings still counts.
    pub(crate) fn is_wanted(&self, by: Finder<'_>) -> bool {
        match by {
            Finder::Flight(flight) => self.is_on(flight) && !flight.is_lost(),
            Finder::Sibling { epoch, since } => {
                (self.epoch, self.record) == (epoch, since) && self.flight().is_none()
            }
        }
    }

    fn is_on(&self, flight: &Flight) -> bool {
        self.flight().is_some_and(|current| current.is(flight))
    }

    fn is_damped(&self, ask: Ask, now: impl Fn() -> Now) -> bool {
        let (Ask::Refuse { verdict, target, .. }, Some(token)) = (ask, &self.token) else { return false };
        token.is_damped(verdict, target, now())
    }

    fn condemn_if_rejected(&self, ask: Ask) {
        if let (Ask::Refuse { verdict: Verdict::Reject, .. }, Some(token)) = (ask, &self.token) {
            token.condemn(true);
        }
    }

    pub(crate) fn known(&self) -> Known {
        Known {
            epoch: self.epoch,
            record: self.record,
            ended: self.ended,
            needs_another_login: self.is_logged_out() || self.ended.is_some(),
            is_logged_out_here: self.is_logged_out() && self.look_at.is_none(),
            current: self.token.clone(),
        }
    }

    fn plan(&self, ask: Ask, now: Now) -> Plan {
        let cause = match ask {
            Ask::Force => Cause::Forced,
            Ask::Renew | Ask::ValidFor(_)
                if self.token.as_ref().is_some_and(|token| !token.is_expired(now)) =>
            {
                Cause::Renewal
            }
            Ask::Refuse { .. } => Cause::Refused,
            _ if self.token.is_some() => Cause::Expired,
            _ => Cause::Absent,
        };
        Plan { cause, known: self.known(), refused: self.presented.refused().to_vec() }
    }

    /// Why a request of an earlier epoch gets no token.
    fn left(&self) -> Error {
        let changed = || Error::new(ErrorKind::SessionChanged, "another identity has logged in");
        self.over().filter(|over| over.kind() == ErrorKind::SessionEnded).unwrap_or_else(changed)
    }
}

fn session_ended() -> Error {
    Error::new(ErrorKind::SessionEnded, "the session was logged out")
}

/// What others have saved is to be found soon, and the store is not to be read all the time.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
