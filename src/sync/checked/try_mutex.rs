//! Stands for the mutex of tokio, which is only ever tried.

use loom::sync::Mutex;

pub(crate) use loom::sync::MutexGuard as TryMutexGuard;

pub(crate) struct TryMutex<T>(Mutex<T>);

impl<T> TryMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        TryMutex(Mutex::new(value))
    }

    /// Whoever fails is told so when it may try again: a schedule in which it tries for ever is none.
    pub(crate) fn try_lock(&self) -> Result<TryMutexGuard<'_, T>, Taken> {
        self.0.try_lock().map_err(|_taken| {
            drop(self.0.lock());
            Taken
        })
    }
}

#[derive(Debug)]
pub(crate) struct Taken;
