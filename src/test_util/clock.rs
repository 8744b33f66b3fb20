//! A clock that tests move by hand.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::time::Clock;

/// Both clocks of a machine, to be moved by hand; clones are the same clock.
///
/// By itself it goes with tokio's time, so that `#[tokio::test(start_paused = true)]` holds it still and
/// [`tokio::time::advance`] moves it. The methods below move *only* this clock. Timers do not fire early; the 30 s and the
/// day of `preset::StableToken` go by tokio's time; and the date in a `Retry-After` is compared with the answer's own
/// `Date` or the system's clock.
#[derive(Clone, Debug)]
pub struct TestClock {
    start: Instant,
    moved: Arc<Mutex<Moved>>,
}

#[derive(Debug)]
struct Moved {
    monotonic: Duration,
    wall: SystemTime,
}

impl TestClock {
    /// A clock that starts now, at the same time of day in every run.
    pub fn new() -> Self {
        let wall = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        TestClock {
            start: Instant::now(),
            moved: Arc::new(Mutex::new(Moved { monotonic: Duration::ZERO, wall })),
        }
    }

    /// Time passes: both clocks move on.
    ///
    /// # Panics
    ///
    /// If that is more time than a clock can hold. So do the next two.
    pub fn advance(&self, time: Duration) {
        let mut moved = self.moved();
        moved.monotonic += time;
        moved.wall += time;
    }

    /// The machine sleeps and wakes up: the wall clock moves on, the monotonic one has stood still. A session reads the
    /// wall clock at most once in a second of the monotonic one, so requests notice when that has moved by another
    /// second.
    pub fn suspend(&self, time: Duration) {
        self.moved().wall += time;
    }

    /// Somebody sets the time of day back, which requests notice as they do after [`suspend`](Self::suspend).
    pub fn set_wall_back(&self, time: Duration) {
        self.moved().wall -= time;
    }

    fn moved(&self) -> MutexGuard<'_, Moved> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        self.moved().monotonic + self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.moved().wall + self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn both_clocks_go_with_paused_time_and_with_advance() {
        let clock = TestClock::new();
        let (monotonic, wall) = (clock.monotonic(), clock.wall());
        tokio::time::advance(HOUR).await;
        clock.clone().advance(HOUR);
        assert_eq!(clock.monotonic(), monotonic + 2 * HOUR);
        assert_eq!(clock.wall(), wall + 2 * HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_or_a_correction_moves_the_wall_only() {
        let clock = TestClock::new();
        let (monotonic, wall) = (clock.monotonic(), clock.wall());
        clock.suspend(3 * HOUR);
        assert_eq!(clock.wall(), wall + 3 * HOUR);
        clock.set_wall_back(5 * HOUR);
        assert_eq!(clock.wall(), wall - 2 * HOUR);
        assert_eq!(clock.monotonic(), monotonic);
    }
}
