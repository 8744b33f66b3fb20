//! Asks the authority about a token that was found in the store.

use std::sync::Arc;

use super::{acquire::Acquire, ask::Ask, damper::Target, engine::Engine, issued::Claim};
use crate::{classify::Verdict, source::Verification, timer::within};

/// Verifies in a task of its own. A source that panics or hangs there harms nobody.
pub(super) fn in_background(engine: &Arc<Engine>, mut claim: Claim) {
    let Some(runtime) = engine.runtime() else { return };
    let engine = engine.clone();
    runtime.spawn(async move {
        let asked = engine.mark().around(|| engine.source.verify(claim.issued.token()));
        let answer = within(engine.limits.refresh, asked).await.unwrap_or(Verification::Unknown);
        claim.is_answered = answer != Verification::Unknown;
        if answer == Verification::Invalid {
            let (stamp, verdict) = (claim.issued.stamp(), Verdict::Reject);
            let ask = Ask::Refuse { stamp, verdict, target: Target::default() };
            // Whatever comes of it is for the requests that need the token.
            let _ = Acquire::new(engine.clone(), ask).await;
        }
    });
}
