//! Renewal without traffic.

use std::{future::poll_fn, pin::pin, sync::Weak, time::Duration};

use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::{acquire::Acquire, ask::Ask, backoff::Backoff, engine::Engine, kernel::Fetch};
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
            let (until_cool, is_idle, is_dead) = match engine.slot().await.fetch() {
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
                let mut renewing = Acquire::new(engine, Ask::Renew);
                let _ = poll_fn(|cx| renewing.poll_step(cx)).await;
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
                if is_over(&session).await {
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

async fn is_over(session: &Weak<Engine>) -> bool {
    let Some(engine) = session.upgrade() else { return true };
    engine.slot().await.is_logged_out()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex, mpsc},
        thread::{self, JoinHandle},
        time::{SystemTime, UNIX_EPOCH},
    };

    use tokio::time::sleep;

    use super::*;
    use crate::{Session, Token, source_fn, time::Clock};

    /// A clock at whose third reading, that of the renewal, somebody else takes the session's slot, until the fourth.
    #[derive(Clone, Default)]
    struct Crowded(Arc<Mutex<Crowd>>);

    #[derive(Default)]
    struct Crowd {
        session: Weak<Engine>,
        readings: u32,
        somebody: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    }

    impl Clock for Crowded {
        fn monotonic(&self) -> Duration {
            let mut crowd = self.0.lock().unwrap();
            crowd.readings += 1;
            if let Some((held, somebody)) = crowd.somebody.take() {
                drop(held);
                somebody.join().unwrap();
            }
            if crowd.readings == 3 {
                let engine = crowd.session.upgrade().unwrap();
                let ((takes, taken), (held, released)) = (mpsc::channel(), mpsc::channel());
                let somebody = thread::spawn(move || {
                    let slot = engine.slot.try_lock();
                    takes.send(slot.is_ok()).unwrap();
                    let _ = released.recv();
                });
                assert!(taken.recv().unwrap());
                crowd.somebody = Some((held, somebody));
            }
            Duration::ZERO
        }

        fn wall(&self) -> SystemTime {
            UNIX_EPOCH
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_taken_for_a_moment_delays_no_renewal() {
        let clock = Crowded::default();
        let source = source_fn(|_| async { Ok(Token::new("token")) });
        let session = Session::builder(source).clock(clock.clone()).build();
        clock.0.lock().unwrap().session = Arc::downgrade(session.engine());
        let keeper = tokio::spawn(session.keep_fresh());
        sleep(Duration::from_secs(1)).await;
        assert!(clock.0.lock().unwrap().readings >= 3);
        assert!(session.engine().current().is_some());
        keeper.abort();
    }
}
