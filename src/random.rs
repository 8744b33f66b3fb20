//! Random numbers from the seeds of the standard library's hash tables: good enough to spread waits and to tell one
//! login from another, and no dependency. Not for secrets.

use std::hash::{BuildHasher, RandomState};

pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(())
}

/// A number in `[0, 1)`.
pub(crate) fn fraction() -> f64 {
    f64::from(number() as u32) / (f64::from(u32::MAX) + 1.0)
}
