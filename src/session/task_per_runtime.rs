//! A task of which each runtime has one at most.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
};

use tokio::{
    runtime::{Handle, Id},
    task::AbortHandle,
};

use crate::sync;

/// Ends its tasks when it is dropped. One on a runtime that nobody drives any more is left there: another runtime has
/// its own.
#[derive(Debug, Default)]
pub(super) struct TaskPerRuntime(Mutex<HashMap<Id, AbortHandle>>);

impl TaskPerRuntime {
    /// Spawns the task, unless it is there. False if the runtime has gone.
    pub(super) fn run(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose runtime has gone has ended.
        tasks.retain(|_, task| !task.is_finished());
        let task =
            tasks.entry(runtime.id()).or_insert_with(|| runtime.spawn(sync::task(task)).abort_handle());
        !task.is_finished()
    }
}

impl Drop for TaskPerRuntime {
    fn drop(&mut self) {
        let tasks = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.values().for_each(AbortHandle::abort);
    }
}
