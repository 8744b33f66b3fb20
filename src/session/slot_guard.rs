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

use super::kernel::{Fetch, Slot};
use crate::sync::{TryMutex, TryMutexGuard};

/// The slot, taken. Fields are dropped in their order: the slot is free again when what it has forgotten is dropped.
pub(crate) struct SlotGuard<'a> {
    slot: TryMutexGuard<'a, Slot>,
    left_behind: LeftBehind,
}

impl<'a> SlotGuard<'a> {
    pub(super) fn poll(slot: &'a TryMutex<Slot>, cx: &mut Context<'_>) -> Poll<Self> {
        let slot = match slot.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        Poll::Ready(SlotGuard { slot, left_behind: LeftBehind(Vec::new()) })
    }
}

impl Deref for SlotGuard<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        // Each of a crowd of waiters comes by here, and to take nothing costs more than to ask.
        if self.slot.has_left_behind() {
            self.left_behind.0 = self.slot.take_left_behind();
        }
    }
}

struct LeftBehind(Vec<Fetch>);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        for fetch in self.0.drain(..) {
            // A panic in it is its own affair: what was decided here must be carried out.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(fetch)));
        }
    }
}
