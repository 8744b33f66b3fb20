//! Random numbers from the seeds of the standard library's hash tables: good enough to spread waits and to tell one
//! login from another, and no dependency. Not for secrets.

use std::hash::{BuildHasher, RandomState};

pub(crate) fn number() -> u64 {
    #[cfg(feature = "test-util")]
    if let Some(number) = repeatable::next() {
        return number;
    }
    RandomState::new().hash_one(())
}

/// A number in `[0, 1)`.
pub(crate) fn fraction() -> f64 {
    f64::from(number() as u32) / (f64::from(u32::MAX) + 1.0)
}

/// The next of the numbers that follow from a state: SplitMix64.
#[cfg(any(test, feature = "test-util"))]
pub(crate) fn following(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Numbers that a test can have once more.
#[cfg(feature = "test-util")]
mod repeatable {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// The numbers drawn on this thread follow from the seed from now on: every wait is spread as it was the last time
    /// that a test began with this seed. For tests that are run again and again to find the shortest way to a failure.
    pub fn repeat_random_numbers(seed: u64) {
        STATE.set(Some(seed));
    }

    pub(super) fn next() -> Option<u64> {
        let mut state = STATE.get()?;
        let number = super::following(&mut state);
        STATE.set(Some(state));
        Some(number)
    }
}

#[cfg(feature = "test-util")]
pub use self::repeatable::repeat_random_numbers;
