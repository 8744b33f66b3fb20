//! When may the next fetch start?

use std::time::Duration;

use crate::{
    random,
    source::FailureClass,
    time::{Moment, Now},
};

const STRIKES: u32 = 3;
const BETWEEN_STRIKES: Duration = Duration::from_secs(5 * 60);
const STALLED_FOR: Duration = Duration::from_secs(15 * 60);
/// A request that got no answer may have spent the refresh token.
const AFTER_SILENCE: Duration = Duration::from_secs(30);

/// How long a session cools down after failed refreshes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

impl Backoff {
    pub(crate) const DEFAULT: Self = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

    /// The wait after this many failures in a row: doubling, up to the longest, spread by a quarter to both sides so
    /// that processes that failed together do not come back together; never shorter than the authority asked for.
    pub(crate) fn wait(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        let spread = wait.as_secs_f64() * (0.75 + 0.5 * random::fraction());
        let spread = Duration::try_from_secs_f64(spread).unwrap_or(Duration::MAX);
        spread.max(retry_after.unwrap_or_default())
    }
}

/// The failed refreshes of a session since something was good.
#[derive(Default)]
pub(super) struct Failures {
    in_a_row: u32,
    /// Refusals of the authority that it did not explain, and from when on the next one counts.
    strikes: u32,
    next_strike: Option<Moment>,
}

impl Failures {
    /// Counts one more, and says how long to wait after it.
    pub(super) fn count(
        &mut self,
        class: FailureClass,
        retry_after: Option<Duration>,
        now: Now,
        backoff: &Backoff,
    ) -> Duration {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let least = match class {
            FailureClass::Ambiguous => {
                self.strike(now);
                if self.are_stalled() { STALLED_FOR } else { Duration::ZERO }
            }
            FailureClass::Unanswered => AFTER_SILENCE,
            _ => Duration::ZERO,
        };
        backoff.wait(self.in_a_row, retry_after).max(least)
    }

    /// Whether the authority has refused so often without a reason that a login is recommended.
    pub(super) fn are_stalled(&self) -> bool {
        self.strikes >= STRIKES
    }

    /// Counts an unexplained refusal, unless the last one was counted a short while ago.
    fn strike(&mut self, now: Now) {
        if self.next_strike.is_none_or(|next| next.has_come(now)) {
            self.strikes += 1;
            self.next_strike = Some(Moment::after(now, BETWEEN_STRIKES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

    #[test]
    fn waits_double_up_to_the_longest_within_a_quarter() {
        for (failures, seconds) in
            [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (40, 60.0), (u32::MAX, 60.0)]
        {
            for _ in 0..50 {
                let wait = BACKOFF.wait(failures, None).as_secs_f64();
                assert!((seconds * 0.75..=seconds * 1.25).contains(&wait), "{failures} failures: {wait} s");
            }
        }
    }

    #[test]
    fn the_longest_wait_does_not_overflow() {
        let longest = Backoff { first: Duration::MAX, most: Duration::MAX };
        for failures in 1..50 {
            assert!(longest.wait(failures, None) >= Duration::MAX / 2);
        }
    }

    #[test]
    fn no_wait_is_shorter_than_the_authority_asks() {
        assert_eq!(BACKOFF.wait(1, Some(Duration::from_secs(90))), Duration::from_secs(90));
    }

    #[test]
    fn a_first_wait_of_zero_disables_the_cooling() {
        let off = Backoff { first: Duration::ZERO, ..BACKOFF };
        assert_eq!(off.wait(5, None), Duration::ZERO);
    }
}
