//! Asks the authority about a token that was found in the store.

use std::sync::Arc;

use tokio::time::timeout;

use super::{acquire::Acquire, ask::Ask, engine::Engine, issued::Issued};
use crate::{classify::Verdict, source::Verification};

/// Verifies in a task of its own. A source that panics or hangs there harms nobody.
pub(super) fn in_background(engine: &Arc<Engine>, stored: Arc<Issued>) {
    let Some(runtime) = engine.runtime() else { return };
    let engine = engine.clone();
    runtime.spawn(async move {
        let asked = engine.mark().around(|| engine.source.verify(stored.token()));
        if let Ok(Verification::Invalid) = timeout(engine.limits.refresh, asked).await {
            let ask = Ask::Refuse { stamp: stored.stamp(), verdict: Verdict::Reject };
            // Whatever comes of it is for the requests that need the token.
            let _ = Acquire::new(engine.clone(), ask).await;
        }
    });
}
