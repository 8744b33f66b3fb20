//! Follows what others save to the same store, so that their token is used without a refusal of ours.

use std::sync::{Arc, Weak};

use tokio::{runtime::Handle, time::sleep};

use super::{
    ask::Known,
    engine::Engine,
    issued::Provenance,
    kernel::{Fetch, Finder},
    reload::{Taken, reload, take},
    storage::Storage,
};

/// Sees to it that the store is being followed.
pub(super) fn follow(engine: &Arc<Engine>, runtime: &Handle) {
    engine.follower.run(runtime, until_the_end(Arc::downgrade(engine), engine.storage.clone()));
}

async fn until_the_end(session: Weak<Engine>, storage: Arc<Storage>) {
    let mut seen = 0;
    loop {
        let news = storage.changed(seen).await;
        let Some(quiet) = quiet(&session).await else { return };
        // What is there at the first look may have been there for long.
        let provenance = if seen == 0 { Provenance::Stored } else { Provenance::Sibling };
        let revision = look(quiet, provenance).await;
        if news.is_err() || revision.is_none_or(|revision| revision == seen) {
            // A store that fails, or that calls for nothing, is not asked again at once.
            sleep(storage.timeout()).await;
        }
        seen = revision.unwrap_or(seen);
    }
}

/// Goes over to what is in the store, if it is newer, and returns its revision.
async fn look(Quiet { engine, known, is_logged_out }: Quiet, provenance: Provenance) -> Option<u64> {
    let engine = &engine;
    let found = engine.reported(engine.storage.load().await).flatten()?;
    let revision = found.revision;
    // After a logout only another login counts.
    let is_news = !is_logged_out || found.session != known.record.session;
    let found = Some(found).filter(|_| is_news);
    if let Taken::Whole(obtained) = take(engine, &known, reload(known.record, &known, found), provenance) {
        engine.conclude(Finder::Sibling { since: known.record }, obtained).await;
    }
    Some(revision)
}

struct Quiet {
    engine: Arc<Engine>,
    known: Known,
    is_logged_out: bool,
}

/// Waits for the end of the refresh that is on, which looks into the store itself, and of our own writes, which may be
/// read half-way. A session that nobody has any more is not kept for that.
async fn quiet(session: &Weak<Engine>) -> Option<Quiet> {
    let mut pulse = session.upgrade()?.pulse().subscribe();
    loop {
        pulse.mark_unchanged();
        let engine = session.upgrade()?;
        let quiet = {
            let mut slot = engine.slot().await;
            let is_quiet = !slot.is_flying() && engine.storage.is_settled();
            is_quiet.then(|| (slot.known(), matches!(slot.fetch(), Fetch::LoggedOut)))
        };
        if let Some((known, is_logged_out)) = quiet {
            return Some(Quiet { engine, known, is_logged_out });
        }
        drop(engine);
        // This task ends with the session.
        let _ = pulse.changed().await;
    }
}
