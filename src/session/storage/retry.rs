//! Writes what could not be saved again, under back-off.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Weak, atomic::Ordering},
};

use tokio::{runtime::Handle, sync::watch};

use super::{Storage, queue::PendingWrite};
use crate::{session::backoff::Backoff, timer::timer};

impl Storage {
    /// Sees to it that what is owed is written, sooner than the next refresh, of which there may be none: on the runtime
    /// that the session is bound to, or here if there is none, or if that has gone.
    pub(crate) fn write_again(self: &Arc<Self>) {
        self.has_failed.store(true, Ordering::Relaxed);
        let here = Handle::try_current().ok();
        let runs_on = |runtime: &Handle| {
            let task = retry_writes(Arc::downgrade(self), self.pulse.subscribe(), runtime.clone());
            self.owing.run(runtime, task)
        };
        self.bound.iter().chain(&here).any(runs_on);
    }

    /// There is no runtime to make this write on, and nobody's lease is to wait until there is one.
    pub(crate) fn put_off(self: &Arc<Self>, written: PendingWrite) {
        drop(written);
        let unwritten = self.update(|queue| {
            // Where somebody waits for a write, some thread sees to all of them this moment.
            let is_waited_for = queue.writes.iter().any(|write| !write.done.is_closed());
            if queue.draining || is_waited_for { VecDeque::new() } else { mem::take(&mut queue.writes) }
        });
        drop(unwritten);
        self.write_again();
    }

    /// Calls [`write_again`](Self::write_again) if a write has failed. For whoever comes by: the runtime of that write may
    /// have gone, or may not be driven any more.
    #[inline]
    pub(crate) fn write_what_has_failed(self: &Arc<Self>) {
        if self.has_failed.load(Ordering::Relaxed) {
            self.write_again();
        }
    }

    /// Enqueues what is owed between two refreshes. A refresh whose lease counts no more waits for the next one: it might
    /// write over a sibling's.
    fn enqueue_again(&self) -> Option<PendingWrite> {
        let mut queue = self.queue();
        if queue.needs_a_lease() { None } else { self.push_owed(&mut queue) }
    }
}

/// Writes what has failed again, under back-off, as long as the session is there.
pub(super) async fn retry_writes(storage: Weak<Storage>, mut pulse: watch::Receiver<()>, runtime: Handle) {
    let mut failures = 0;
    loop {
        pulse.mark_unchanged();
        let writes_ended = match storage.upgrade() {
            Some(storage) if storage.check_settled() => {
                failures = 0;
                None
            }
            Some(storage) => {
                let queue = storage.queue();
                (!queue.draining).then_some(queue.writes_ended)
            }
            None => return,
        };
        let Some(writes_ended) = writes_ended else {
            // This task ends with the storage.
            let _ = pulse.changed().await;
            continue;
        };
        failures += 1;
        let Ok(pause) = timer(Backoff::DEFAULT.wait(failures, None)) else { return };
        pause.await;
        let Some(storage) = storage.upgrade() else { return };
        if storage.queue().writes_ended != writes_ended {
            // Somebody else has tried: on each runtime there may be one of us.
            continue;
        }
        let again = storage.enqueue_again();
        storage.drain(&runtime);
        if let Some(again) = again {
            // The first failure was reported.
            let _ = again.end().await;
        }
    }
}
