//! Random numbers that follow from a seed (SplitMix64).

use std::{ops::Range, time::Duration};

pub(crate) struct Dice(u64);

impl Dice {
    /// Those of one task of many.
    pub(crate) fn of(seed: u64, task: u64) -> Self {
        Dice(seed ^ task.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub(crate) fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    pub(crate) fn between(&mut self, microseconds: Range<u64>) -> Duration {
        Duration::from_micros(microseconds.start + self.below(microseconds.end - microseconds.start))
    }
}
