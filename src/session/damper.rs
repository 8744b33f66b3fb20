//! How an endpoint that always refuses is kept from costing one fetch after another.

use std::time::Duration;

use crate::{
    classify::Verdict,
    generation::Generation,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

const AT_MOST_AFTER_REJECT: Duration = Duration::from_secs(5);
const AT_MOST_AFTER_SUSPECT: Duration = Duration::from_secs(60);
/// A token that nobody has refused for so long was good.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// What the latest refreshes were good for; shared by all tokens of one identity.
#[derive(Debug, Default)]
pub(crate) struct Damper {
    /// Refreshes in a row whose token was refused again.
    fruitless: AtomicU32,
    /// The generation whose refusal has started the latest refresh, until that is judged. 0: there is none.
    unjudged: AtomicU64,
}

impl Damper {
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

    /// Whether refreshes have brought so little of late that the refusal of a token of this age starts none. The wait
    /// doubles with every refresh in a row whose token was refused again. One that nobody has judged is judged by this
    /// refusal, because an endpoint that always refuses does so soon; that counts from the next refusal on, because the
    /// token may really have been revoked.
    pub(super) fn damps(&self, verdict: Verdict, refused: Generation, age: Duration) -> bool {
        let before = self.fruitless();
        self.judge_what_brought(refused, age >= GOOD_AFTER);
        let fruitless = self.fruitless().min(before);
        let cap = if verdict == Verdict::Reject { AT_MOST_AFTER_REJECT } else { AT_MOST_AFTER_SUSPECT };
        fruitless > 0 && age < Duration::from_secs(1 << fruitless.min(16)).min(cap)
    }

    /// A token gives way to the next one at this age. A later refusal is of that one, and judges no refresh before it.
    pub(super) fn retire(&self, token: Generation, age: Duration) {
        if age >= GOOD_AFTER {
            self.judge_what_brought(token, true);
        }
    }

    /// Judges the refresh that has brought this token, if nobody has.
    fn judge_what_brought(&self, token: Generation, is_good: bool) {
        let unjudged = self.unjudged.load(Ordering::Relaxed);
        if unjudged != 0 && token.as_u64() > unjudged {
            self.count(unjudged, is_good);
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
