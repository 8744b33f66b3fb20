//! A token in use, with all that is decided once when it is issued.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    error::Error,
    generation::{Epoch, Generation, Stamp},
    placement::{Credential, Placement},
    time::Now,
    token::Token,
};

/// A token that can be shown to servers, before it has a generation.
///
/// Made before the token is saved, so that one that cannot be sent is never stored.
#[derive(Debug)]
pub(crate) struct Sendable {
    pub(crate) token: Token,
    credential: Credential,
    received: Now,
    expiry: Option<Expiry>,
}

/// When a token dies, by each of the clocks.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    monotonic: Duration,
    wall: Duration,
}

impl Sendable {
    pub(crate) fn new(token: Token, placement: &Placement, now: Now) -> Result<Self, Error> {
        let credential = placement.prepare(&token)?;
        let expiry = remaining(&token, now).map(|left| Expiry {
            monotonic: now.monotonic.saturating_add(left),
            wall: now.wall.saturating_add(left),
        });
        Ok(Sendable { token, credential, received: now, expiry })
    }

    /// The moment of expiry by the wall clock, for the store.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.expiry.and_then(|expiry| UNIX_EPOCH.checked_add(expiry.wall))
    }

    /// The same token; one that came without a refresh token keeps the one before.
    pub(crate) fn keeping_refresh_of(mut self, before: &Issued) -> Self {
        if let (None, Some(kept)) = (self.token.refresh(), before.token().refresh()) {
            self.token = self.token.clone().refresh_token(kept.clone());
        }
        self
    }

    pub(crate) fn issue(self, epoch: Epoch, fruitless: Arc<AtomicU32>) -> Arc<Issued> {
        let stamp = Stamp { epoch, generation: Generation::next() };
        Arc::new(Issued { sendable: self, stamp, condemned: AtomicBool::new(false), fruitless })
    }
}

/// What is left of the token's life, where that is known. A moment that is past already counts as unknown: the
/// server decides whether such a token is good.
fn remaining(token: &Token, now: Now) -> Option<Duration> {
    let by_wall = token
        .moment_of_expiry()
        .and_then(|moment| moment.duration_since(UNIX_EPOCH).ok())
        .and_then(|moment| moment.checked_sub(now.wall))
        .filter(|left| !left.is_zero());
    match (token.lifetime(), by_wall) {
        (Some(lifetime), Some(left)) => Some(lifetime.min(left)),
        (lifetime, left) => lifetime.or(left),
    }
}

/// A token in use.
#[derive(Debug)]
pub(crate) struct Issued {
    sendable: Sendable,
    stamp: Stamp,
    /// The server said that it is bad; set and lifted in the kernel's critical section only.
    condemned: AtomicBool,
    /// Refreshes in a row whose token was refused again; shared by all tokens of one identity.
    fruitless: Arc<AtomicU32>,
}

impl Issued {
    pub(crate) fn token(&self) -> &Token {
        &self.sendable.token
    }

    pub(crate) fn credential(&self) -> &Credential {
        &self.sendable.credential
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.sendable
            .expiry
            .is_some_and(|expiry| expiry.monotonic <= now.monotonic || expiry.wall <= now.wall)
    }

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

    pub(crate) fn age(&self, now: Now) -> Duration {
        now.monotonic.saturating_sub(self.sendable.received.monotonic)
    }

    pub(crate) fn sendable(&self) -> &Sendable {
        &self.sendable
    }

    pub(crate) fn fruitless(&self) -> &Arc<AtomicU32> {
        &self.fruitless
    }

    pub(crate) fn fruitless_refreshes(&self) -> u32 {
        self.fruitless.load(Ordering::Relaxed)
    }

    /// The verdict on this token of the request whose refusal got it.
    pub(crate) fn judge(&self, accepted: bool) {
        if accepted {
            self.fruitless.store(0, Ordering::Relaxed);
        } else {
            self.fruitless.fetch_add(1, Ordering::Relaxed);
        }
    }
}
