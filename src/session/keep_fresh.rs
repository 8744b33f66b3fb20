//! Renewal without traffic.

use std::{pin::pin, sync::Weak, time::Duration};

use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::{acquire::renew, backoff::Backoff, engine::Engine, kernel::Fetch};
use crate::time::timer;

/// How long to sleep at most: a machine that was suspended has not counted the time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Renews whenever the token is due, as long as the session is there and not logged out.
pub(super) async fn until_the_end(session: Weak<Engine>, mut pulse: watch::Receiver<()>) {
    // How many refreshes in a row have ended before they brought anything, not even a failure that cools down.
    let mut in_vain = 0;
    loop {
        pulse.mark_unchanged();
        let wait = {
            let Some(engine) = session.upgrade() else { return };
            let now = engine.now();
            let (until_cool, is_idle) = match engine.slot().await.fetch() {
                Fetch::LoggedOut => return,
                Fetch::Cooling { until, .. } => (Some(until.saturating_sub(now.monotonic)), false),
                fetch => (None, matches!(fetch, Fetch::Idle)),
            };
            let present = engine.present();
            let is_due = present.as_ref().is_none_or(|token| token.is_due(now));
            if until_cool.is_some() || !is_due {
                in_vain = 0;
            } else if is_idle {
                in_vain += 1;
            }
            renew(&engine);
            let until_due = present.and_then(|token| token.until_due(now)).unwrap_or_default();
            match until_due.max(until_cool.unwrap_or_default()) {
                Duration::ZERO => LOOK_AGAIN,
                wait => wait.min(LOOK_AGAIN),
            }
        };
        if in_vain > 1 {
            // A runtime that has gone, or has no timers, ends every refresh at once.
            let Ok(pause) = timer(Backoff::DEFAULT.wait(in_vain, None)) else { return };
            let mut pause = pin!(pause);
            while let Either::Right(_) = select(&mut pause, pin!(pulse.changed())).await {
                if is_over(&session).await {
                    return;
                }
            }
        }
        let Ok(wait) = timer(wait) else { return };
        // Either the time has come or something has changed: look again. The session going away is a change, too.
        select(pin!(wait), pin!(pulse.changed())).await;
    }
}

async fn is_over(session: &Weak<Engine>) -> bool {
    let Some(engine) = session.upgrade() else { return true };
    matches!(engine.slot().await.fetch(), Fetch::LoggedOut)
}
