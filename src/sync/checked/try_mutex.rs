//! Stands for a mutex that is only ever tried.

use std::sync::TryLockResult;

use loom::sync::Mutex;

pub(crate) use loom::sync::MutexGuard as TryMutexGuard;

pub(crate) struct TryMutex<T>(Mutex<T>);

impl<T> TryMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        TryMutex(Mutex::new(value))
    }

    /// Whoever fails is told so when it may try again: a schedule in which it tries for ever is none.
    pub(crate) fn try_lock(&self) -> TryLockResult<TryMutexGuard<'_, T>> {
        let taken = self.0.try_lock();
        if taken.is_err() {
            drop(self.0.lock());
        }
        taken
    }
}
