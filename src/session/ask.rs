//! What can be asked of a session, and what may come of it.

use std::{sync::Arc, time::Duration};

use super::{
    damper::Target,
    flight::Flight,
    issued::{Issued, Sendable},
    record_head::RecordHead,
};
use crate::{
    classify::Verdict,
    error::Error,
    event::Event,
    generation::{Epoch, Generation, Stamp},
    secret::Secret,
    source::{Cause, FailureClass},
    store::{Record, SessionId},
    time::Now,
};

/// Why a flight brought no token.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: FailureClass,
    pub(crate) error: Error,
}

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// A token to send a request with.
    Need,
    /// A token to send a request with, after a refresh that succeeded: the current one is good enough even if our clock says
    /// that it has expired, unless it had expired before the session received it.
    Take,
    /// A better token than this one, which was refused there.
    Refuse { stamp: Stamp, verdict: Verdict, target: Target },
    /// The next token ahead of time, if the current one is due.
    Renew,
    /// A token that lives this much longer.
    ValidFor(Duration),
    /// A new token, whatever the current one is.
    Force,
}

/// What the kernel decides.
pub(crate) enum Decision {
    Use(Arc<Issued>),
    /// Wait for a flight in progress.
    Join(Flight),
    /// Start this flight; it is in the slot already.
    Start(Flight, Plan),
    Fail(Error),
    /// Recent refreshes brought nothing: this refusal stands.
    Damped,
}

/// What a flight needs to know of the moment at which it was started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) cause: Cause,
    pub(crate) known: Known,
    /// The refresh tokens that the authority has refused.
    pub(crate) refused: Vec<Secret>,
}

impl Plan {
    /// Whether a session that is over may go on with this refresh token: not with one that was refused, nor with its
    /// own, which it had when it ended.
    pub(super) fn may_go_on_with(&self, refresh_token: &Secret) -> bool {
        let own = self.known.current.as_ref().and_then(|current| current.token().refresh());
        !refresh_token.is_among(&self.refused) && !own.is_some_and(|own| own.same_as(refresh_token))
    }
}

/// What the session has at a moment.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) epoch: Epoch,
    pub(crate) record: RecordHead,
    /// The session that was ended elsewhere. The record of that logout may be of another one: whoever logs out need not have
    /// looked.
    pub(crate) ended: Option<SessionId>,
    /// Logged out, here or elsewhere, and there has been no token since: only another login counts.
    pub(crate) needs_another_login: bool,
    /// By a logout of its own: nobody asks the store then.
    pub(crate) is_logged_out_here: bool,
    pub(crate) current: Option<Arc<Issued>>,
}

impl Known {
    /// Whether there has never been a token.
    pub(crate) fn is_blank(&self) -> bool {
        self.current.is_none() && self.ended.is_none()
    }

    /// Whether that may be ours.
    pub(crate) fn may_take(&self, found: &Record) -> bool {
        let is_another_login = found.session != self.record.session && Some(found.session) != self.ended;
        is_another_login || !self.needs_another_login
    }
}

/// A new token has come into use.
pub(crate) struct Change {
    pub(crate) old: Option<Generation>,
    pub(crate) token: Arc<Issued>,
    pub(crate) record: RecordHead,
}

impl Change {
    pub(super) fn event(&self) -> Event<'static> {
        Event::Issued { old: self.old, new: self.token.stamp().generation }
    }
}

/// What comes of a look into the store, or of a fetch.
pub(crate) enum Obtained {
    /// A token was fetched, saved and put into use.
    Fetched(Change),
    /// A token was found in the store.
    Token { fresh: Sendable, record: RecordHead },
    /// Another identity was found in the store.
    Replaced { fresh: Sendable, record: RecordHead },
    /// The identity's end was found in the store.
    Ended { record: RecordHead },
    /// Nothing, or nothing that anybody wants.
    Nothing,
}

/// Whether the current token is the answer to an ask, so that nothing has to be fetched. Most asks need not know the time.
#[inline]
pub(crate) fn answers(token: &Issued, ask: Ask, now: impl FnOnce() -> Now) -> bool {
    match ask {
        Ask::Need => token.is_usable(now()),
        Ask::Take => !token.is_condemned() && !token.came_too_late(),
        Ask::Refuse { stamp, .. } => stamp.is_before(token.stamp()) && token.is_usable(now()),
        Ask::Renew => {
            let now = now();
            token.is_usable(now) && !token.is_due(now)
        }
        Ask::ValidFor(time) => {
            let now = now();
            token.is_usable(now) && token.is_valid_for(time, now)
        }
        Ask::Force => false,
    }
}
