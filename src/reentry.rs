//! Marks by which a source that calls through the layer it serves is recognised.
//!
//! Such a call would wait for the refresh that waits for it. Two marks tell: a task-local around the fetch, and a
//! request extension that survives a `Buffer`, a `spawn` or a `Retry` in between.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::Extensions;

use crate::error::{Error, ErrorKind};

tokio::task_local! {
    static FETCHING: Mark;
}

/// How many fetches are under way in this process: mostly none, and then no request has to look whose task it is on.
static FETCHES: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Fetch;

impl Fetch {
    fn begin() -> Self {
        FETCHES.fetch_add(1, Ordering::Relaxed);
        Fetch
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        FETCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One session, as its own sources see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// A mark of its own for each session.
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Mark(LAST.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs a fetch of the marked session. What it does before it has a future is a part of it.
    pub(crate) async fn around<F: Future>(self, fetch: impl FnOnce() -> F) -> F::Output {
        let _fetch = Fetch::begin();
        FETCHING.scope(self, async { fetch().await }).await
    }

    /// Whether this very task runs a fetch of the marked session.
    #[inline]
    pub(crate) fn is_around_us(self) -> bool {
        // Relaxed is enough: a fetch around us was counted by this very task.
        FETCHES.load(Ordering::Relaxed) > 0 && self.is_on_this_task()
    }

    fn is_on_this_task(self) -> bool {
        FETCHING.try_with(|around| *around == self).unwrap_or(false)
    }

    /// Whether a request with these extensions was made by a fetch of the marked session.
    #[inline]
    pub(crate) fn is_on(self, extensions: &Extensions) -> bool {
        extensions.get::<Mark>() == Some(&self)
    }
}

/// Marks a request of a fetch or a verification that this very task runs, if it runs one.
#[cfg(feature = "json")]
pub(crate) fn mark(extensions: &mut Extensions) {
    if let Ok(mark) = FETCHING.try_with(|around| *around) {
        extensions.insert(mark);
    }
}

pub(crate) fn error() -> Error {
    Error::new(
        ErrorKind::Reentrant,
        "a token source called its own session, or the layer that waits for it; give it a client of its own",
    )
}
