//! Follows what others save to the same store, so that their token is used without a refusal of ours.

use std::sync::{Arc, Weak};

use tokio::{runtime::Handle, time::sleep};

use super::{
    ask::{Known, Plan},
    engine::Engine,
    issued::Provenance,
    kernel::{BETWEEN_LOOKS, Finder},
    reload::{Taken, take_found},
};
use crate::source::Cause;

/// Sees to it that the store is being followed.
pub(super) fn follow(engine: &Arc<Engine>, runtime: &Handle) {
    engine.follower.run(runtime, follow_store(Arc::downgrade(engine)));
}

async fn follow_store(session: Weak<Engine>) {
    let mut seen = 0;
    loop {
        let Some(news) = session.upgrade().map(|engine| engine.storage.changed(seen)) else { return };
        let news = news.await;
        let Some((engine, known)) = quiet(&session).await else { return };
        // What is there at the first look may have been there for long.
        let provenance = if seen == 0 { Provenance::Stored } else { Provenance::Sibling };
        match adopt_news(engine, known, provenance).await {
            Look::Overtaken => {}
            Look::Found(revision) if news.is_ok() && revision != seen => seen = revision,
            // A store that fails, or that calls for nothing, is not asked again at once.
            Look::Found(_) | Look::Nothing => sleep(BETWEEN_LOOKS).await,
        }
    }
}

/// What a look into the store came to.
enum Look {
    /// A record of this revision.
    Found(u64),
    Nothing,
    /// The session has moved meanwhile: what was found has not been taken, whatever it was.
    Overtaken,
}

/// Goes over to what is in the store, if it is newer.
async fn adopt_news(engine: Arc<Engine>, known: Known, provenance: Provenance) -> Look {
    let Some(found) = engine.reported(engine.storage.load().await).flatten() else { return Look::Nothing };
    let revision = found.revision;
    let by = Finder::Sibling { epoch: known.epoch, since: known.record };
    // Nothing was refused, and nobody asks for a new one.
    let plan = Plan { cause: Cause::Renewal, known, refused: Vec::new() };
    let is_wanted = match take_found(&engine, &plan, Some(found), provenance) {
        Taken::Enough(obtained) => engine.conclude(by, obtained),
        Taken::Base(..) => engine.slot().is_wanted(by),
    };
    if is_wanted { Look::Found(revision) } else { Look::Overtaken }
}

/// Waits for the end of the refresh in progress, which looks into the store itself, and of our own writes, which may be
/// read half-way. A session that nobody has any more is not kept for that.
async fn quiet(session: &Weak<Engine>) -> Option<(Arc<Engine>, Known)> {
    let mut pulse = session.upgrade()?.pulse.subscribe();
    loop {
        pulse.mark_unchanged();
        let engine = session.upgrade()?;
        let is_flying = engine.slot().is_flying();
        if !is_flying && engine.storage.needs_a_lease() {
            // A session that is over gets none. What gives way to a later record is owed no more then.
            engine.newest().await;
        }
        let known = {
            let mut slot = engine.slot();
            let is_quiet = !slot.is_flying() && engine.storage.check_settled();
            is_quiet.then(|| slot.known())
        };
        if let Some(known) = known {
            return Some((engine, known));
        }
        drop(engine);
        // This task ends with the session.
        let _ = pulse.changed().await;
    }
}
