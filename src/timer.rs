//! A runtime and its timers where there may be none: no runtime, one without timers, or one that goes away.

use std::{
    future::{Future, pending},
    panic::catch_unwind,
    pin::pin,
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Sleep, sleep},
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

/// The same in a task of its own, for a future that may move on to another runtime: a timer whose runtime is gone
/// panics.
pub(crate) fn alarm(limit: Duration, runtime: &Handle) -> JoinSet<Result<(), Error>> {
    let mut alarm = JoinSet::new();
    alarm.spawn_on(
        async move {
            timer(limit)?.await;
            Ok(())
        },
        runtime,
    );
    alarm
}

/// Waits for an [`alarm`]. False as soon as it is known that none will ring.
pub(crate) async fn rings(limit: Duration) -> bool {
    match Handle::try_current() {
        Ok(here) => matches!(alarm(limit, &here).join_next().await, Some(Ok(Ok(())))),
        Err(_) => false,
    }
}

/// What comes of work elsewhere, bounded here as well where there are timers: nobody may be driving the runtime that does it.
/// `None`: not in time.
pub(crate) async fn in_time<F: Future + Unpin>(limit: Duration, work: F) -> Option<F::Output> {
    let limit = pin!(async {
        if !rings(limit).await {
            pending::<()>().await;
        }
    });
    match select(work, limit).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
