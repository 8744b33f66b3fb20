//! What was done to a user, so that a failure can be held against it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// One kind of mischief. It is counted before it is done, and over when a token has been issued after it.
#[derive(Default)]
pub(crate) struct Trouble {
    done: AtomicUsize,
    /// What was done before the newest token was issued.
    before_newest: AtomicUsize,
    /// What was done before the token was issued that is in use.
    over: AtomicUsize,
}

impl Trouble {
    pub(crate) fn happens(&self) {
        self.done.fetch_add(1, SeqCst);
    }

    /// The authority is about to issue a token.
    pub(crate) fn issues(&self) {
        self.before_newest.store(self.done.load(SeqCst), SeqCst);
    }

    /// The session uses it.
    pub(crate) fn is_over(&self) {
        self.over.store(self.before_newest.load(SeqCst), SeqCst);
    }

    /// For a request that begins now.
    pub(crate) fn begin(&self) -> Since {
        Since(self.over.load(SeqCst))
    }

    /// Whether there was any that a request may have felt that ends now.
    pub(crate) fn excuses(&self, since: &Since) -> bool {
        self.done.load(SeqCst) > since.0
    }
}

/// What was over when a request began.
pub(crate) struct Since(usize);
