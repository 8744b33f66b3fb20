//! A runtime and its timers where there may be none: no runtime, one without timers, or one that goes away.

use std::{
    future::{Future, poll_fn},
    panic::catch_unwind,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, OptionFuture, select};
use tokio::{
    runtime::{self, Handle},
    task::{JoinSet, unconstrained},
    time::{Instant, Sleep, sleep},
};

use crate::error::{Error, ErrorKind};

/// The runtime that a session is bound to, or the current one if it is bound to none.
pub(crate) fn runtime(bound: Option<&Handle>) -> Option<Handle> {
    bound.cloned().or_else(|| Handle::try_current().ok())
}

/// A timer of the current runtime.
pub(crate) fn timer(limit: Duration) -> Result<Sleep, Error> {
    let missing = |message| Error::new(ErrorKind::NoRuntime, message);
    Handle::try_current().map_err(|_| missing("there is no tokio runtime to wait on"))?;
    catch_unwind(|| sleep(limit))
        .map_err(|_| missing("the tokio runtime has no timers: build it with `enable_time`"))
}

/// A timer for what others do. Its last second, or half, begins when the rest is over: a process that was stopped meanwhile,
/// or whose machine was, finds its timers at their end before it has looked at its sockets, where the answer may lie.
pub(crate) fn limit(limit: Duration) -> Result<Limit, Error> {
    let last = (limit / 2).min(Duration::from_secs(1));
    Ok(Limit { timer: Box::pin(timer(limit - last)?), last: Some(last) })
}

pub(crate) struct Limit {
    timer: Pin<Box<Sleep>>,
    /// Until it begins.
    last: Option<Duration>,
}

impl Future for Limit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_timer(cx));
        if let Some(last) = self.last.take() {
            self.timer.as_mut().reset(Instant::now() + last);
        }
        self.poll_timer(cx)
    }
}

impl Limit {
    /// Also where what is limited has used up the task's budget, as it may do each time.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        pin!(unconstrained(&mut self.timer)).poll(cx)
    }
}

/// What comes of work within a [`limit`] of this runtime. `None`: not in time, or there are no timers.
pub(crate) async fn within<T>(most: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), OptionFuture::from(limit(most).ok())).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// A [`limit`] in a task of its own, for a future that may move on to another runtime: a timer whose runtime has gone panics,
/// and one of a runtime that nobody drives any more stands still.
pub(crate) struct Alarm {
    runtime: runtime::Id,
    ring: JoinSet<Result<(), Error>>,
}

impl Alarm {
    /// Sets it, and anew whenever the future that waits for it is polled on another runtime than before.
    pub(crate) fn follow(alarm: &mut Option<Box<Self>>, limit: Duration, here: &Handle) {
        if alarm.as_ref().is_some_and(|alarm| alarm.runtime == here.id()) {
            return;
        }
        let mut ring = JoinSet::new();
        ring.spawn_on(
            async move {
                self::limit(limit)?.await;
                Ok(())
            },
            here,
        );
        *alarm = Some(Box::new(Alarm { runtime: here.id(), ring }));
    }

    /// False as soon as it is known that it will not ring.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.ring.poll_join_next(cx).map(|rung| matches!(rung, Some(Ok(Ok(())))))
    }

    /// Sets it where this is polled, and polls it.
    fn poll_here(alarm: &mut Option<Box<Self>>, limit: Duration, cx: &mut Context<'_>) -> Poll<bool> {
        if let Ok(here) = Handle::try_current() {
            Alarm::follow(alarm, limit, &here);
        }
        alarm.as_mut().map_or(Poll::Ready(false), |alarm| alarm.poll(cx))
    }
}

/// Waits for an [`Alarm`] of the runtime on which this is polled. False as soon as it is known that none will ring.
pub(crate) async fn rings(limit: Duration) -> bool {
    let mut alarm = None;
    poll_fn(move |cx| Alarm::poll_here(&mut alarm, limit, cx)).await
}

/// What comes of work elsewhere, bounded here as well where there are timers: nobody may be driving the runtime that
/// does it. `None`: not in time.
pub(crate) async fn in_time<F: Future + Unpin>(limit: Duration, work: F) -> Option<F::Output> {
    let mut alarm = None;
    // Where none will ring there may be one elsewhere: that is asked at each poll.
    let late = poll_fn(move |cx| match Alarm::poll_here(&mut alarm, limit, cx) {
        Poll::Ready(true) => Poll::Ready(()),
        _ => Poll::Pending,
    });
    match select(work, late).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_has_passed_in_one_leap_leaves_a_second_for_what_came_meanwhile() {
        const SECOND: Duration = Duration::from_secs(1);
        for (most, leap) in [(10 * SECOND, 3600 * SECOND), (10 * SECOND, 10 * SECOND), (SECOND / 2, SECOND)] {
            let mut limit = task::spawn(limit(most).unwrap());
            assert_pending!(limit.poll());
            tokio::time::advance(leap).await;
            assert_pending!(limit.poll());
            tokio::time::advance((most / 2).min(SECOND)).await;
            assert_ready!(limit.poll());
        }
        // In small steps it is as long as it says.
        let began = Instant::now();
        limit(10 * SECOND).unwrap().await;
        assert_eq!(began.elapsed(), 10 * SECOND);
    }

    #[tokio::test]
    async fn work_that_uses_up_the_budget_of_its_task_each_time_ends_in_time() {
        const BRIEFLY: Duration = Duration::from_millis(20);
        let busy = async || {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        let ended = tokio::time::timeout(500 * BRIEFLY, within(BRIEFLY, busy())).await;
        assert_eq!(ended.expect("the limit ends it"), None::<()>);
    }
}
