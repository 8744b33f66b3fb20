use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{random, secret::Secret, time::Now, token::Token};

/// What a store keeps: one identity's token, or the mark that it has logged out. Later releases may add parts: begin with
/// [`new`](Self::new).
///
/// A store of one's own keeps the parts and makes the record of them again:
///
/// ```
/// use tower_token_refresh::store::{Record, SessionId, StoredToken};
///
/// let mut token = StoredToken::new("an-access-token");
/// token.refresh = Some("a-refresh-token".into());
/// let record = Record::new(SessionId(7), 1, token);
/// assert_eq!(record.revision, 1);
///
/// let logged_out = Record::new(record.session, record.revision + 1, None);
/// assert!(logged_out.token.is_none());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// Made at login and kept through every refresh.
    pub session: SessionId,
    /// Never goes down. Most saves raise it; a refresh may be saved with the number that is already there. The revision
    /// of a login, logout or replacement is raised above what the store has when it is saved, so that it outdoes what
    /// others have saved meanwhile.
    pub revision: u64,
    /// The token; `None` marks a logout.
    pub token: Option<StoredToken>,
}

impl Record {
    /// A record of this session, with its token; `None` marks a logout.
    pub fn new(session: SessionId, revision: u64, token: impl Into<Option<StoredToken>>) -> Self {
        Record { session, revision, token: token.into() }
    }
}

/// A token as it is stored. Later releases may add parts: begin with [`new`](Self::new). Lifetimes are moments, because a
/// duration means nothing to another process.
#[derive(Clone)]
#[non_exhaustive]
pub struct StoredToken {
    /// The access token. Empty after a login with nothing but a refresh token, until a refresh has got one.
    pub access: Secret,
    /// The refresh token. An empty one is none.
    pub refresh: Option<Secret>,
    /// When the access token dies by the wall clock, if that is known.
    pub expires_at: Option<SystemTime>,
    /// When the refresh token dies, if that is known.
    pub refresh_expires_at: Option<SystemTime>,
    /// When the refresh token came, if it is known when it dies: half of its life counts from then. Where a store does not
    /// keep this, it counts anew for each process that loads the token, and a refresh token that dies before its access
    /// token may die unused.
    pub refresh_received_at: Option<SystemTime>,
    /// The type of the access token, as [`Token::kind`] says it, if that is known. A store that does not keep it hands out
    /// tokens of unknown type.
    pub kind: Option<String>,
}

impl StoredToken {
    /// A token of unknown lifetime, without a refresh token. The other parts are fields.
    pub fn new(access: impl Into<Secret>) -> Self {
        StoredToken {
            access: access.into(),
            refresh: None,
            expires_at: None,
            refresh_expires_at: None,
            refresh_received_at: None,
            kind: None,
        }
    }

    pub(crate) fn to_token(&self) -> Token {
        let token = Token::new(self.access.clone())
            .expires_at(self.expires_at)
            .refresh_token(self.refresh.clone())
            .refresh_expires_at(self.refresh_expires_at)
            .refresh_received_at(self.refresh_received_at);
        match &self.kind {
            Some(kind) => token.token_type(kind),
            None => token,
        }
    }

    /// The same with the new refresh token of an answer whose access token is of no use: the authority has spent the
    /// one before.
    pub(crate) fn rotated(self, answer: &Token) -> Option<Self> {
        let refresh = answer.refresh()?.clone();
        let is_new = !self.refresh.as_ref().is_some_and(|before| before.same_as(&refresh));
        is_new.then(|| StoredToken {
            refresh: Some(refresh),
            refresh_expires_at: None,
            refresh_received_at: None,
            ..self
        })
    }

    pub(crate) fn take_refresh_of(&mut self, other: &StoredToken) {
        self.refresh.clone_from(&other.refresh);
        self.refresh_expires_at = other.refresh_expires_at;
        self.refresh_received_at = other.refresh_received_at;
    }

    /// Whether the refresh token is dead by the clock.
    pub(crate) fn is_refresh_dead(&self, now: Now) -> bool {
        self.refresh_expires_at
            .is_some_and(|moment| moment.duration_since(UNIX_EPOCH).unwrap_or_default() <= now.wall)
    }
}

impl fmt::Debug for StoredToken {
    /// Leaves out the type, which is a text of the authority's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredToken")
            .field("refresh", &self.refresh.is_some())
            .field("expires_at", &self.expires_at)
            .field("refresh_expires_at", &self.refresh_expires_at)
            .field("refresh_received_at", &self.refresh_received_at)
            .finish_non_exhaustive()
    }
}

/// Tells one login from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// A new one, for a login.
    pub(crate) fn random() -> Self {
        SessionId(u128::from(random::number()) << 64 | u128::from(random::number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_refresh_token_does_not_inherit_the_end_of_the_one_before() {
        let refresh = Some(Secret::from("one"));
        let stored =
            StoredToken { refresh, refresh_expires_at: Some(UNIX_EPOCH), ..StoredToken::new("access") };
        let rotated = stored.rotated(&Token::new("of no use").refresh_token("two")).unwrap();
        assert_eq!((rotated.refresh.unwrap().expose(), rotated.refresh_expires_at), ("two", None));
    }

    #[test]
    fn a_refresh_token_that_is_taken_over_comes_with_its_beginning_and_its_end() {
        let of = |moment| StoredToken {
            refresh_expires_at: moment,
            refresh_received_at: moment,
            ..StoredToken::new("access")
        };
        let mut taken = of(Some(UNIX_EPOCH));
        taken.take_refresh_of(&of(None));
        assert_eq!((taken.refresh_expires_at, taken.refresh_received_at), (None, None));
    }
}
