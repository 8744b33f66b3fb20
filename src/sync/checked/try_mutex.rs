//! Stands for the mutex of tokio, which is only ever tried.

use loom::{sync::Mutex, thread};

pub(crate) use loom::sync::MutexGuard as TryMutexGuard;

pub(crate) struct TryMutex<T>(Mutex<T>);

impl<T> TryMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        TryMutex(Mutex::new(value))
    }

    /// Whoever tries again at once lets the others go on first: a schedule in which nobody else ever does is none.
    pub(crate) fn try_lock(&self) -> Result<TryMutexGuard<'_, T>, Taken> {
        self.0.try_lock().map_err(|_| {
            thread::yield_now();
            Taken
        })
    }
}

#[derive(Debug)]
pub(crate) struct Taken;
