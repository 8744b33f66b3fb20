//! Renewal without traffic.

use std::{pin::pin, sync::Weak, time::Duration};

use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::{acquire::renew, backoff::Backoff, engine::Engine, kernel::Fetch};
use crate::timer::timer;

/// How long to sleep at most: a machine that was suspended has not counted the time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Tokens that live for less are renewed as often, and by requests besides.
const BETWEEN_RENEWALS: Duration = Duration::from_millis(500);

/// Renews whenever the token is due, as long as the session is there and not logged out.
pub(super) async fn renew_when_due(session: Weak<Engine>, mut pulse: watch::Receiver<()>) {
    // How many refreshes in a row have ended before they brought anything, not even a failure.
    let mut in_vain = 0;
    // By the monotonic clock.
    let mut not_before = Duration::ZERO;
    loop {
        pulse.mark_unchanged();
        let wait = {
            let Some(engine) = session.upgrade() else { return };
            let now = engine.now();
            let (until_cool, is_idle, is_dead) = match engine.slot().fetch() {
                Fetch::LoggedOut => return,
                Fetch::Cooling { until, .. } => (Some(until.left(now)), false, false),
                fetch => (None, matches!(fetch, Fetch::Idle), matches!(fetch, Fetch::Dead(_))),
            };
            let current = engine.current();
            let is_due = current.as_ref().is_none_or(|token| token.is_due(now));
            let too_early = not_before.saturating_sub(now.monotonic);
            let may_renew = too_early.is_zero();
            if until_cool.is_some() || is_dead || !is_due {
                in_vain = 0;
            } else if is_idle && may_renew {
                in_vain += 1;
                not_before = now.monotonic.saturating_add(BETWEEN_RENEWALS);
            }
            if may_renew {
                renew(&engine);
            }
            let until_due = current.and_then(|token| token.until_due(now)).unwrap_or_default();
            match until_due.max(until_cool.unwrap_or_default()).max(too_early) {
                Duration::ZERO => LOOK_AGAIN,
                wait => wait.min(LOOK_AGAIN),
            }
        };
        if in_vain > 1 {
            // A runtime that has gone, or has no timers, ends every refresh at once.
            let Ok(pause) = timer(Backoff::DEFAULT.wait(in_vain, None)) else { return };
            let mut pause = pin!(pause);
            while let Either::Right(_) = select(&mut pause, pin!(pulse.changed())).await {
                if is_over(&session) {
                    return;
                }
            }
            // Whatever has come meanwhile.
            continue;
        }
        let Ok(wait) = timer(wait) else { return };
        // Either the time has come or something has changed: look again. The session going away is a change, too.
        select(pin!(wait), pin!(pulse.changed())).await;
    }
}

fn is_over(session: &Weak<Engine>) -> bool {
    let Some(engine) = session.upgrade() else { return true };
    engine.slot().is_logged_out()
}
