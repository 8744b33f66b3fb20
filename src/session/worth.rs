//! What the latest refreshes were good for.

use crate::{
    generation::Generation,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Shared by all tokens of one identity.
#[derive(Debug, Default)]
pub(crate) struct Worth {
    /// Refreshes in a row whose token was refused again.
    fruitless: AtomicU32,
    /// The generation whose refusal has started the latest refresh, until that is judged. 0: there is none.
    unjudged: AtomicU64,
}

impl Worth {
    pub(super) fn fruitless(&self) -> u32 {
        self.fruitless.load(Ordering::Relaxed)
    }

    /// The refusal of this generation starts a refresh.
    pub(super) fn leave_unjudged(&self, refused: Generation) {
        self.unjudged.store(refused.as_u64(), Ordering::Relaxed);
    }

    /// The resend after that refusal was answered.
    pub(super) fn judge(&self, refused: Generation, is_accepted: bool) {
        self.count(refused.as_u64(), is_accepted);
    }

    /// This generation is refused: if nobody has judged the refresh that has brought it, this does.
    pub(super) fn judge_by_refusal(&self, brought: Generation, is_late: bool) {
        let refused = self.unjudged.load(Ordering::Relaxed);
        if refused != 0 && brought.as_u64() > refused {
            self.count(refused, is_late);
        }
    }

    /// Each refresh counts as fruitless once at most.
    fn count(&self, refused: u64, is_good: bool) {
        let is_first =
            self.unjudged.compare_exchange(refused, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_good {
            self.fruitless.store(0, Ordering::Relaxed);
        } else if is_first {
            self.fruitless.fetch_add(1, Ordering::Relaxed);
        }
    }
}
