//! The two clocks that decide whether a token has expired.
//!
//! A monotonic clock may stand still while a laptop sleeps, a wall clock may be set back: a token has expired when
//! either of them says so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Where the time comes from. [`SystemClock`] is the default; the test kit has one that can be moved. An `Arc` of a clock is
/// itself a clock, so several sessions may share it.
///
/// For its requests a session reads the wall clock at most once in a second of the monotonic clock.
///
/// A clock must not panic: what a refresh has brought is lost if that happens before it is saved.
pub trait Clock: Send + Sync + 'static {
    /// Time since a fixed moment of this clock. It never goes back.
    fn monotonic(&self) -> Duration;

    /// The time of day; it may jump.
    fn wall(&self) -> SystemTime;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn wall(&self) -> SystemTime {
        (**self).wall()
    }
}

/// The clocks of the machine. The monotonic one is tokio's, so that paused time in tests moves it; the wall clock is not, and
/// a stored token does not expire in such a test without a clock of the test's own, as the test kit has one.
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// One reading of both clocks, as durations since the start of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) monotonic: Duration,
    /// Since the Unix epoch, up to a second old.
    pub(crate) wall: Duration,
}

/// A moment by each of the clocks; it has come when either of them says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) monotonic: Duration,
    pub(crate) wall: Duration,
}

impl Moment {
    pub(crate) fn after(now: Now, wait: Duration) -> Self {
        Moment { monotonic: now.monotonic.saturating_add(wait), wall: now.wall.saturating_add(wait) }
    }

    pub(crate) fn has_come(self, now: Now) -> bool {
        self.monotonic <= now.monotonic || self.wall <= now.wall
    }

    pub(crate) fn left(self, now: Now) -> Duration {
        self.monotonic.saturating_sub(now.monotonic).min(self.wall.saturating_sub(now.wall))
    }
}

/// Reads the monotonic clock each time and the wall clock at most once a second.
pub(crate) struct Timekeeper {
    clock: Box<dyn Clock>,
    /// What the clock has shown at first: its moments are counted from here, because a packed one ends after five centuries.
    began: Duration,
    /// Where the machine's own clock has begun, if that is the clock: its moments are compared without a subtraction.
    start: Option<Instant>,
    // Both packed.
    wall_read_at: AtomicU64,
    wall: AtomicU64,
}

impl Timekeeper {
    pub(crate) fn of_system() -> Self {
        let clock = SystemClock::new();
        Timekeeper { start: Some(clock.start), began: Duration::ZERO, ..Timekeeper::new(clock) }
    }

    pub(crate) fn new(clock: impl Clock) -> Self {
        let keeper = Timekeeper {
            began: clock.monotonic(),
            clock: Box::new(clock),
            start: None,
            wall_read_at: AtomicU64::new(0),
            wall: AtomicU64::new(0),
        };
        keeper.read_wall(Duration::ZERO);
        keeper
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.began)
    }

    /// Both clocks, for the request path.
    pub(crate) fn now(&self) -> Now {
        let monotonic = self.monotonic();
        let wall = if packed(monotonic) < self.next_wall_reading() {
            unpacked(self.wall.load(Ordering::Relaxed))
        } else {
            self.read_wall(monotonic)
        };
        Now { monotonic, wall }
    }

    /// Both clocks, read when the closure is called. One of somebody else is read at once, because that may be under a lock.
    #[inline]
    pub(crate) fn reading(&self) -> impl Fn() -> Now {
        let taken = if self.start.is_none() { Some(self.now()) } else { None };
        move || taken.unwrap_or_else(|| self.now())
    }

    /// Whether that moment of the monotonic clock, packed, has come.
    #[inline]
    pub(crate) fn has_come(&self, moment: u64) -> bool {
        match self.start.and_then(|start| start.checked_add(unpacked(moment))) {
            Some(moment) => moment <= Instant::now(),
            None => moment <= packed(self.monotonic()),
        }
    }

    /// When, by the monotonic clock, packed, the wall clock is read again.
    pub(crate) fn next_wall_reading(&self) -> u64 {
        self.wall_read_at.load(Ordering::Acquire).saturating_add(SECOND)
    }

    /// Both clocks read afresh, for the moment at which a token is issued.
    pub(crate) fn exact(&self) -> Now {
        let monotonic = self.monotonic();
        Now { monotonic, wall: self.read_wall(monotonic) }
    }

    fn read_wall(&self, monotonic: Duration) -> Duration {
        let wall = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.wall.store(packed(wall), Ordering::Relaxed);
        // Whoever sees the moment must see that reading, or one that was made meanwhile.
        self.wall_read_at.store(packed(monotonic), Ordering::Release);
        wall
    }
}

/// A duration in one word: whole seconds above, nanoseconds below. It is taken apart without a division, and compares as the
/// duration does. Saturates after more than five centuries.
#[inline]
pub(crate) fn packed(duration: Duration) -> u64 {
    if duration.as_secs() >> (u64::BITS - NANOS) > 0 {
        return u64::MAX;
    }
    (duration.as_secs() << NANOS) + u64::from(duration.subsec_nanos())
}

#[inline]
fn unpacked(word: u64) -> Duration {
    Duration::new(word >> NANOS, (word & (SECOND - 1)) as u32)
}

/// How many bits nanoseconds take.
const NANOS: u32 = 30;
const SECOND: u64 = 1 << NANOS;

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENTS: [Duration; 6] = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_nanos(999_999_999),
        Duration::from_secs(1),
        Duration::new(1_800_000_000, 999_999_999),
        Duration::from_secs((1 << 34) - 1),
    ];

    #[test]
    fn what_is_packed_compares_as_before_and_comes_out_as_it_went_in() {
        assert!(MOMENTS.is_sorted_by_key(|moment| packed(*moment)));
        assert_eq!(MOMENTS.map(|moment| unpacked(packed(moment))), MOMENTS);
        for too_long in [Duration::from_secs(1 << 34), Duration::MAX] {
            assert_eq!(packed(too_long), u64::MAX);
        }
    }

    /// Its wall clock goes on by a second whenever it is read.
    #[derive(Default)]
    struct Counted {
        milliseconds: AtomicU64,
        read: AtomicU64,
    }

    impl Clock for Counted {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
        }

        fn wall(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(self.read.fetch_add(1, Ordering::Relaxed))
        }
    }

    #[test]
    fn the_wall_clock_is_read_at_most_once_a_second() {
        let clock = Arc::new(Counted::default());
        let keeper = Timekeeper::new(clock.clone());
        for (milliseconds, wall) in [(0, 0), (999, 0), (1000, 1), (1001, 1), (1999, 1), (2000, 2), (9000, 3)]
        {
            clock.milliseconds.store(milliseconds, Ordering::Relaxed);
            assert_eq!(keeper.now().wall, Duration::from_secs(wall), "{milliseconds}");
        }
        assert_eq!(keeper.exact().wall, Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_has_come_as_soon_as_the_clock_shows_it() {
        let keeper = Timekeeper::of_system();
        let moment = packed(Duration::from_millis(1500));
        for (milliseconds, has_come) in [(0, false), (1499, false), (1, true), (1, true)] {
            tokio::time::advance(Duration::from_millis(milliseconds)).await;
            assert_eq!(keeper.has_come(moment), has_come);
        }
        // A clock may count from a time long ago.
        for began in [0, 63_000_000_000_000] {
            let clock = Arc::new(Counted { milliseconds: began.into(), ..Counted::default() });
            let keeper = Timekeeper::new(clock.clone());
            for (milliseconds, has_come) in [(0, false), (1499, false), (1500, true), (1501, true)] {
                clock.milliseconds.store(began + milliseconds, Ordering::Relaxed);
                assert_eq!(keeper.has_come(moment), has_come);
                assert_eq!(keeper.now().monotonic, Duration::from_millis(milliseconds));
            }
        }
    }
}
