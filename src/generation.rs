//! Numbers that tell one issued token, and one identity, from the next.

use std::{
    fmt,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
};

/// The number of an issued token.
///
/// Numbers only grow and are never used twice in a process, across logout and login and across sessions, so a
/// refusal that names its generation can never be mistaken for one of a later token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(NonZeroU64);

impl Generation {
    /// The next number of this process.
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Generation(NonZeroU64::MIN.saturating_add(LAST.fetch_add(1, Ordering::Relaxed)))
    }

    /// The bare number, for logs and metrics.
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One identity's turn in a session; it changes at login and logout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(pub(crate) u64);

impl Epoch {
    pub(crate) fn following(self) -> Self {
        Epoch(self.0 + 1)
    }
}

/// What a request remembers of the token it was sent with; taken from the same snapshot as the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
}

impl Stamp {
    /// Whether the other is that of a later token of the same identity.
    #[inline]
    pub(crate) fn is_before(self, other: Stamp) -> bool {
        self.epoch == other.epoch && self.generation < other.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_only_grow() {
        let first = Generation::next();
        assert!(Generation::next() > first);
    }
}
