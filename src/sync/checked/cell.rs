//! Stands for `arc_swap`.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
};

use loom::sync::atomic::{AtomicUsize, Ordering};

/// Promises no more than a pointer that is released and acquired: whoever has heard of a newer value in no other way may
/// still find the one before.
pub(crate) struct ArcSwapOption<T> {
    /// All that was ever stored. No schedule depends on its lock.
    stored: Mutex<Vec<Option<Arc<T>>>>,
    newest: AtomicUsize,
}

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        ArcSwapOption { stored: Mutex::new(vec![None]), newest: AtomicUsize::new(0) }
    }

    pub(crate) fn load(&self) -> Guard<Option<Arc<T>>> {
        Guard(self.load_full())
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        let newest = self.newest.load(Ordering::Acquire);
        self.stored()[newest].clone()
    }

    pub(crate) fn store(&self, value: Option<Arc<T>>) {
        self.swap(value);
    }

    pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let next = {
            let mut stored = self.stored();
            stored.push(value);
            stored.len() - 1
        };
        let before = self.newest.swap(next, Ordering::AcqRel);
        self.stored()[before].clone()
    }

    fn stored(&self) -> MutexGuard<'_, Vec<Option<Arc<T>>>> {
        self.stored.lock().expect("nothing panics under it")
    }
}

/// What was loaded.
pub(crate) struct Guard<T>(T);

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
