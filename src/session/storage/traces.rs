//! Tokens that are known again without their secrets.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use crate::{secret::Secret, store::StoredToken};

/// How many are remembered, however long the store fails: three days of tokens that live for five minutes.
pub(super) const REMEMBERED: usize = 1024;

#[derive(Clone, Default)]
pub(super) struct Traces(Vec<Trace>);

/// Enough of a token to know it again.
#[derive(Clone, Copy)]
struct Trace {
    access: u64,
    refresh: Option<u64>,
}

const _: () = assert!(size_of::<Trace>() <= 24, "a thousand of them stay small");

impl Trace {
    fn of(token: &StoredToken) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let trace = |secret: &Secret| KEY.hash_one(secret.expose());
        Trace { access: trace(&token.access), refresh: token.refresh.as_ref().map(trace) }
    }
}

impl Traces {
    /// Adds tokens. Of too many the first one and the last ones are kept.
    pub(super) fn add<'a>(&mut self, tokens: impl IntoIterator<Item = &'a StoredToken>) {
        self.0.extend(tokens.into_iter().map(Trace::of));
        while self.0.len() > REMEMBERED {
            self.0.remove(1);
        }
    }

    pub(super) fn have_access_of(&self, token: &StoredToken) -> bool {
        let found = Trace::of(token);
        self.0.iter().any(|trace| trace.access == found.access)
    }

    /// False where it has none.
    pub(super) fn have_refresh_of(&self, token: &StoredToken) -> bool {
        let found = Trace::of(token);
        found.refresh.is_some() && self.0.iter().any(|trace| trace.refresh == found.refresh)
    }

    /// Whether one token had both, or this access token and no refresh token if this has none.
    pub(super) fn have_both_of(&self, token: &StoredToken) -> bool {
        let found = Trace::of(token);
        self.0.iter().any(|trace| trace.access == found.access && trace.refresh == found.refresh)
    }
}
