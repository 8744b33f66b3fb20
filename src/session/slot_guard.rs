//! The right to change a session's slot.
//!
//! The slot is only ever taken with `try_lock`, for a section without an await: a failed try wakes its task and
//! yields. Nobody queues for it, because a queued waiter that is no longer polled would be handed the lock and stop
//! everybody.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::TryLockError,
    task::{Context, Poll},
};

use super::kernel::Slot;
use crate::sync::{TryMutex, TryMutexGuard};

/// The slot, taken. What it has forgotten meanwhile is dropped when it is free again.
pub(crate) struct SlotGuard<'a>(Option<TryMutexGuard<'a, Slot>>);

impl<'a> SlotGuard<'a> {
    pub(super) fn poll(slot: &'a TryMutex<Slot>, cx: &mut Context<'_>) -> Poll<Self> {
        match slot.try_lock() {
            Ok(slot) => Poll::Ready(SlotGuard(Some(slot))),
            Err(TryLockError::Poisoned(poisoned)) => Poll::Ready(SlotGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Deref for SlotGuard<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.0.as_deref().expect("taken until it is dropped")
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        self.0.as_deref_mut().expect("taken until it is dropped")
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        // Each of a crowd of waiters comes by here, and to take nothing costs more than to ask.
        if !self.has_left_behind() {
            return;
        }
        let left_behind = self.take_left_behind();
        self.0 = None;
        for fetch in left_behind {
            // A panic in it is its own affair: what was decided here must be carried out.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(fetch)));
        }
    }
}
