//! A task of which there is one at most.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
};

use tokio::{runtime::Handle, task::JoinSet};

use crate::sync;

/// Ends its task when it is dropped.
#[derive(Debug, Default)]
pub(super) struct OneTask(Mutex<JoinSet<()>>);

impl OneTask {
    /// Spawns the task, unless it is there.
    pub(super) fn run(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose runtime is gone has ended.
        while tasks.try_join_next().is_some() {}
        if tasks.is_empty() {
            tasks.spawn_on(sync::task(task), runtime);
        }
    }
}
