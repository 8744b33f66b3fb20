//! A token in use, with all that is decided once when it is issued.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    damper::{Damper, Target},
    renewal::Renewal,
};
use crate::{
    classify::Verdict,
    error::Error,
    generation::{Epoch, Generation, Stamp},
    placement::{Credential, Placement},
    random,
    secret::Secret,
    store::StoredToken,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Moment, Now, Timekeeper, packed},
    token::Token,
};

/// What is left of a refresh token for which nothing is renewed ahead any more: its end may be one that no use of it moves.
const TOO_LATE: Duration = Duration::from_secs(60);

const LAST_SECOND: Duration = Duration::from_secs(1);

/// Stands for a moment that does not come.
const NEVER: u64 = u64::MAX;

/// A token that can be shown to servers, before it has a generation.
///
/// Made before the token is saved, so that one that cannot be sent is never stored.
#[derive(Clone, Debug)]
pub(crate) struct Sendable {
    pub(crate) token: Token,
    credential: Credential,
    received: Now,
    expiry: Option<Moment>,
    /// When it is to be renewed, if its refresh token lives long enough.
    usually_due: Option<Moment>,
    refresh_expires_at: Option<SystemTime>,
    /// When the refresh token came, here or to whoever has stored it.
    refresh_received_at: Option<SystemTime>,
    provenance: Provenance,
}

/// How a token came to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// From the authority, or from a caller who has it from there.
    New,
    /// From the authority, by a source that has looked at no refresh token, as it will not the next time.
    Unrefreshed,
    /// From a caller who knows the moment of its end: nobody knows how long it has lived.
    Handed,
    /// From a caller who has nothing but the refresh token.
    Promised,
    /// From the store, at the start or by a refresh: it may have been revoked meanwhile, and nobody knows how long it
    /// has lived.
    Stored,
    /// From the store, where a sibling has put it just now.
    Sibling,
}

impl Provenance {
    /// Of a token that a caller brings.
    pub(crate) fn of_brought(token: &Token) -> Self {
        if token.expiry().is_some() { Provenance::Handed } else { Provenance::New }
    }

    /// Of the token of a login.
    pub(crate) fn of_login(token: &Token) -> Self {
        if token.has_only_refresh() { Provenance::Promised } else { Provenance::of_brought(token) }
    }

    fn is_store(self) -> bool {
        matches!(self, Provenance::Stored | Provenance::Sibling)
    }

    /// Whether a token may come without what is shown to servers. It is dead, then, when it comes.
    fn may_be_promise(self) -> bool {
        self.is_store() || self == Provenance::Promised
    }
}

impl Sendable {
    pub(crate) fn new(
        token: Token,
        placement: &Placement,
        renewal: &Renewal,
        now: Now,
        provenance: Provenance,
    ) -> Result<Self, Error> {
        let is_promise = token.has_only_refresh() && provenance.may_be_promise();
        let credential = if is_promise { Credential::missing() } else { placement.prepare(&token)? };
        let left = if is_promise { Some(Duration::ZERO) } else { remaining(&token, now, provenance) };
        let expiry = left.map(|left| Moment::after(now, left));
        let usually_due = left.map(|left| Moment::after(now, renewal.wait(left, random::fraction())));
        Ok(Sendable {
            refresh_expires_at: refresh_expiry(&token, now),
            refresh_received_at: token.refresh_received().or_else(|| UNIX_EPOCH.checked_add(now.wall)),
            token,
            credential,
            received: now,
            expiry,
            usually_due,
            provenance,
        })
    }

    /// The token for the store.
    pub(crate) fn stored(&self) -> StoredToken {
        // That of one which the source does not look at hurries nobody, here or elsewhere.
        let refresh_expires_at =
            self.refresh_expires_at.filter(|_| self.provenance != Provenance::Unrefreshed);
        StoredToken {
            access: self.token.access().clone(),
            refresh: self.token.refresh().cloned(),
            expires_at: self.expires_at(),
            refresh_expires_at,
            refresh_received_at: refresh_expires_at.and(self.refresh_received_at),
            kind: self.token.kind().map(str::to_owned),
        }
    }

    /// When it is to be renewed. A refresh token that would be dead by then is used at half of its life, for those who come
    /// seldom; one that dies between then and the token's expiry as long before its own.
    fn due(&self, now: Now) -> Option<Moment> {
        let Some(left) = self.refresh_left(now) else { return self.usually_due };
        let since = self.refresh_received_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let lived = since.map_or(Duration::ZERO, |since| self.received.wall.saturating_sub(since));
        let half = left.saturating_sub(lived) / 2;
        let wait = self.expiry.zip(self.usually_due).map(|(expiry, due)| {
            let (life, wait) = (expiry.left(self.received), due.left(self.received));
            if wait < left { wait.min(half.max(left.saturating_sub(life - wait))) } else { half }
        });
        Some(Moment::after(self.received, wait.unwrap_or(half)))
    }

    /// What was left of the refresh token's life, if that is known. Nobody hurries for one that is dead or came all but
    /// dead, nor for one that the source does not look at.
    fn refresh_left(&self, now: Now) -> Option<Duration> {
        self.token.refresh().filter(|_| self.provenance != Provenance::Unrefreshed)?;
        let end = self.refresh_expires_at?.duration_since(UNIX_EPOCH).ok().filter(|end| now.wall < *end)?;
        end.checked_sub(self.received.wall).filter(|left| *left >= TOO_LATE)
    }

    fn expires_at(&self) -> Option<SystemTime> {
        self.expiry.and_then(|expiry| UNIX_EPOCH.checked_add(expiry.wall))
    }

    /// Whether it was dead already when it came, as only a stored token can be, or one that is only promised.
    pub(crate) fn came_too_late(&self) -> bool {
        self.expiry.is_some_and(|expiry| expiry.has_come(self.received))
    }

    /// The same token with the refresh token of the one before, which ends when this one says, unless it says that of
    /// another refresh token.
    pub(crate) fn keeping_refresh_of(mut self, before: StoredToken) -> Self {
        let is_kept = |said: &Secret| before.refresh.as_ref().is_some_and(|kept| kept.same_as(said));
        if !self.token.refresh().is_none_or(is_kept) {
            self.refresh_expires_at = None;
            self.token = self.token.refresh_expires_in(None);
        }
        self.refresh_expires_at = self.refresh_expires_at.or(before.refresh_expires_at);
        self.refresh_received_at = before.refresh_received_at.or(self.refresh_received_at);
        self.token = self.token.refresh_token(before.refresh);
        self
    }

    /// Lets the token itself say when it dies: whoever is handed it, another session perhaps, does not know since when its
    /// lifetime counts.
    fn dated(self) -> Self {
        let expires_at = self.expires_at().or(self.token.expiry());
        let token = self.token.expires_at(expires_at).refresh_expires_at(self.refresh_expires_at);
        let received_at = self.refresh_expires_at.and(self.refresh_received_at);
        Sendable { token: token.refresh_received_at(received_at), ..self }
    }

    pub(crate) fn issue(self, epoch: Epoch, damper: Arc<Damper>) -> Arc<Issued> {
        Arc::new(self.stamped(Stamp { epoch, generation: Generation::next() }, damper))
    }

    fn stamped(self, stamp: Stamp, damper: Arc<Damper>) -> Issued {
        Issued {
            sendable: self.dated(),
            stamp,
            condemned: AtomicBool::default(),
            has_no_next: AtomicBool::default(),
            fresh_until: AtomicU64::default(),
            verified: AtomicBool::default(),
            damper,
        }
    }
}

/// What is left of the token's life, where that is known. If its end is past, nothing is left of a stored token. For one
/// that has just come the end counts as unknown then, because a clock may be wrong: the server decides whether it is good.
/// So does a lifetime that stands beside such an end, because it may have been over for long.
fn remaining(token: &Token, now: Now, provenance: Provenance) -> Option<Duration> {
    let Some(moment) = token.expiry() else { return token.lifetime() };
    let by_wall = moment.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(now.wall);
    let left = token.lifetime().map_or(by_wall, |lifetime| lifetime.min(by_wall));
    (provenance.is_store() || !left.is_zero()).then_some(left)
}

/// When the refresh token dies by the wall clock, if that is known.
fn refresh_expiry(token: &Token, now: Now) -> Option<SystemTime> {
    let counted = token.refresh_lifetime().and_then(|lifetime| now.wall.checked_add(lifetime));
    let counted = counted.and_then(|moment| UNIX_EPOCH.checked_add(moment));
    let said = token.refresh_expiry();
    counted.into_iter().chain(said).min()
}

/// A token in use.
#[derive(Debug)]
pub(crate) struct Issued {
    sendable: Sendable,
    stamp: Stamp,
    /// The server said that it is bad; set and lifted in the kernel's critical section only.
    condemned: AtomicBool,
    /// A login is required, or its refresh token was refused: it is not renewed early for the sake of that.
    has_no_next: AtomicBool,
    /// Until when nothing is due, by the monotonic clock, packed, as it was found at the last look.
    fresh_until: AtomicU64,
    /// Somebody has the authority asked about it or has had its answer, if it was found in the store.
    verified: AtomicBool,
    damper: Arc<Damper>,
}

/// The right to have the authority asked about a token. Given back unless it has answered.
pub(crate) struct Claim {
    pub(crate) issued: Arc<Issued>,
    pub(crate) is_answered: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.issued.verified.store(self.is_answered, Ordering::Relaxed);
    }
}

impl Issued {
    pub(crate) fn token(&self) -> &Token {
        &self.sendable.token
    }

    #[inline]
    pub(crate) fn credential(&self) -> &Credential {
        &self.sendable.credential
    }

    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether it was dead already when it came: nobody gets it, and its refresh token gets the next one.
    pub(crate) fn came_too_late(&self) -> bool {
        self.sendable.came_too_late()
    }

    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.sendable.expiry.is_some_and(|expiry| expiry.has_come(now))
    }

    /// How long this token lives now that it has come again without a word of that: to its end, but for a second at least.
    /// A hub that tells whole seconds says nothing in the last one.
    pub(crate) fn life_of(&self, again: &Token, now: Now) -> Option<Duration> {
        let says_nothing = again.lifetime().is_none() && again.expiry().is_none();
        let is_this = says_nothing && again.access().same_as(self.token().access());
        let expiry = self.sendable.expiry.filter(|_| is_this)?;
        Some(expiry.left(now).max(LAST_SECOND))
    }

    fn due(&self, now: Now) -> Option<Moment> {
        if self.has_no_next.load(Ordering::Relaxed) {
            self.sendable.usually_due
        } else {
            self.sendable.due(now)
        }
    }

    /// Says whether its refresh token brings no other one, for all that is known.
    pub(crate) fn set_has_no_next(&self, has_no_next: bool) {
        self.has_no_next.store(has_no_next, Ordering::Relaxed);
    }

    /// Whether it is time to get the next one.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        self.due(now).is_some_and(|due| due.has_come(now))
    }

    /// Whether the last look at its deadlines is good enough: one comparison instead of four, for the request path.
    #[inline]
    pub(crate) fn is_known_to_be_fresh(&self, clock: &Timekeeper) -> bool {
        let until = self.fresh_until.load(Ordering::Relaxed);
        until == NEVER || !clock.has_come(until)
    }

    /// Looks whether it has expired, or is due where requests renew it; if not, that is remembered until then or the next
    /// reading of the wall clock.
    pub(crate) fn check_freshness(&self, now: Now, clock: &Timekeeper, renews: bool) -> bool {
        let deadline = if renews { self.due(now) } else { self.sendable.expiry };
        let is_fresh = !deadline.is_some_and(|deadline| deadline.has_come(now));
        if is_fresh {
            let until = match deadline {
                Some(at) => packed(at.monotonic).min(clock.next_wall_reading()),
                // Its refresh token may hurry again.
                None if renews && self.sendable.refresh_expires_at.is_some() => clock.next_wall_reading(),
                None => NEVER,
            };
            self.fresh_until.store(until, Ordering::Relaxed);
        }
        is_fresh
    }

    /// How long until it is due; `None` if it never is.
    pub(crate) fn until_due(&self, now: Now) -> Option<Duration> {
        self.due(now).map(|due| due.left(now))
    }

    /// Whether it lives that much longer; or never lived that long, so that the next one would not either.
    pub(crate) fn is_valid_for(&self, time: Duration, now: Now) -> bool {
        let Some(expiry) = self.sendable.expiry else { return true };
        let is_young = matches!(
            self.sendable.provenance,
            Provenance::New | Provenance::Unrefreshed | Provenance::Sibling
        );
        let lives_too_short = is_young && expiry.left(self.sendable.received) < time;
        expiry.left(now) >= time || (lives_too_short && !self.is_due(now))
    }

    /// The same token, with the refresh token of this answer.
    pub(crate) fn with_refresh_of(&self, answer: &Token, now: Now) -> Arc<Issued> {
        let token = self.token().clone();
        let sendable = Sendable {
            token: match answer.refresh() {
                Some(refresh) => token.refresh_token(refresh.clone()),
                None => token.without_refresh_token(),
            }
            .refresh_expires_in(answer.refresh_lifetime()),
            refresh_expires_at: refresh_expiry(answer, now),
            refresh_received_at: UNIX_EPOCH.checked_add(now.wall),
            ..self.sendable.clone()
        };
        Arc::new(Issued {
            condemned: AtomicBool::new(self.is_condemned()),
            verified: AtomicBool::new(self.verified.load(Ordering::Relaxed)),
            ..sendable.stamped(self.stamp, self.damper.clone())
        })
    }

    /// If it was found in the store, and nobody has claimed that before.
    pub(crate) fn claim_verification(self: Arc<Self>) -> Option<Claim> {
        let is_first = self.sendable.provenance.is_store() && !self.verified.swap(true, Ordering::Relaxed);
        is_first.then(|| Claim { issued: self, is_answered: false })
    }

    #[inline]
    pub(crate) fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::Acquire)
    }

    /// Whether a new request may be sent with it.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        !self.is_condemned() && !self.is_expired(now)
    }

    pub(crate) fn condemn(&self, condemned: bool) {
        self.condemned.store(condemned, Ordering::Release);
    }

    pub(crate) fn stored(&self) -> StoredToken {
        self.sendable.stored()
    }

    /// The damper, for the token that takes the place of this one.
    pub(crate) fn hand_damper_on(&self, next: &Sendable) -> Arc<Damper> {
        self.damper.retire(self.stamp.generation, self.age(next.received));
        self.damper.clone()
    }

    pub(crate) fn fruitless_refreshes(&self) -> u32 {
        self.damper.fruitless()
    }

    /// This token's refusal there starts a refresh. The resend of the request tells what that was good for, if there is one
    /// and it is answered, or else the first refusal of what it has brought.
    pub(crate) fn leave_unjudged(&self, target: Target) {
        self.damper.leave_unjudged(self.stamp.generation, target);
    }

    /// The answer to that resend.
    pub(crate) fn judge(&self, target: Target, verdict: Verdict) {
        self.damper.judge(self.stamp.generation, target, verdict);
    }

    /// Whether its refusal there starts no refresh. One that has lived and expired was good for so long, and anybody's next
    /// request refreshes it.
    pub(crate) fn is_damped(&self, verdict: Verdict, target: Target, now: Now) -> bool {
        let has_lived = self.age(now) >= Duration::from_secs(1);
        !(has_lived && self.is_expired(now))
            && self.damper.damps(verdict, target, self.stamp.generation, self.age(now))
    }

    fn age(&self, now: Now) -> Duration {
        now.monotonic.saturating_sub(self.sendable.received.monotonic)
    }
}
