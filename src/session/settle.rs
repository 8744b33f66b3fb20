//! The end of a process: no refresh is in progress, and everything is saved.

use std::pin::pin;

use futures_util::future::select;

use super::{engine::Engine, flight::Flight, lease::HeldLease};
use crate::{
    error::{Error, ErrorKind},
    timer::{rings, timer},
};

/// Waits for that as long as one refresh may go on before it is given up, and what is left to save may take.
pub(super) async fn in_time(engine: &Engine) -> Result<(), Error> {
    let limit = engine.limits.refresh.max(engine.limits.abandon);
    let limit = limit.saturating_add(engine.storage.time_to_write());
    // Only to see that there are any.
    drop(timer(limit)?);
    let bound = async {
        Err(if rings(limit).await {
            Error::new(ErrorKind::Timeout, "the session did not settle in time")
        } else {
            Error::new(ErrorKind::NoRuntime, "the runtime went away before the session had settled")
        })
    };
    select(pin!(settle(engine)), pin!(bound)).await.factor_first().0
}

async fn settle(engine: &Engine) -> Result<(), Error> {
    let mut pulse = engine.pulse.subscribe();
    loop {
        pulse.mark_unchanged();
        let flying = engine.slot().is_flying();
        if !flying && engine.storage.check_settled() {
            return Ok(());
        }
        if let (false, Some(runtime)) = (flying, engine.runtime()) {
            // Where that of the refresh which is owed counts no more: others have had one since, and what they saved, if
            // anything, has to be read first.
            let lease = if engine.storage.needs_a_lease() { engine.storage.lease().await } else { Ok(None) };
            let lease = engine.reported(lease).flatten();
            // In nobody's flight, and yet given back as a refresh gives it back, however this ends.
            let lease = lease.map(|lease| HeldLease::by(&Flight::new(), lease, &engine.storage));
            // What gives way to a later record is owed no more then, where a write of it would fail.
            engine.newest().await;
            match engine.storage.enqueue_owed(lease.as_ref().map(HeldLease::fence)) {
                Some(owed) => engine.save(&runtime, owed).await?,
                None => engine.storage.drain(&runtime),
            }
            drop(lease);
            if engine.storage.check_settled() {
                continue;
            }
        }
        // The sender is the session's, so this ends with a change.
        let _ = pulse.changed().await;
    }
}
