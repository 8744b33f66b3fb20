//! The right to change a session's slot.
//!
//! A section is short: it has no await, which the compiler refuses, and runs no code but ours.

use std::ops::{Deref, DerefMut};

use super::kernel::Slot;
use crate::{
    panics::isolated,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The slot, taken. What it has forgotten meanwhile is dropped when it is free again.
pub(crate) struct SlotGuard<'a>(Option<MutexGuard<'a, Slot>>);

impl<'a> SlotGuard<'a> {
    pub(super) fn take(slot: &'a Mutex<Slot>) -> Self {
        SlotGuard(Some(slot.lock().unwrap_or_else(PoisonError::into_inner)))
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
            isolated(|| drop(fetch));
        }
    }
}
