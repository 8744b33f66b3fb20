//! A clock that stands still until it is moved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tower_token_refresh::time::Clock;

/// Clones are the same clock.
#[derive(Clone, Default)]
pub(crate) struct StillClock {
    seconds: Arc<AtomicU64>,
}

impl StillClock {
    pub(crate) fn advance(&self, time: Duration) {
        self.seconds.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + self.monotonic()
    }
}
