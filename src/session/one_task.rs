//! A task of which there is one at most.

use std::{
    future::Future,
    mem,
    sync::{Mutex, PoisonError},
};

use tokio::{
    runtime::{Handle, Id},
    task::JoinSet,
};

use crate::sync;

/// Ends its task when it is dropped.
#[derive(Debug, Default)]
pub(super) struct OneTask(Mutex<(JoinSet<()>, Option<Id>)>);

impl OneTask {
    /// Spawns the task, unless it is there.
    pub(super) fn run(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tasks, on) = &mut *this;
        // One whose runtime is gone has ended.
        while tasks.try_join_next().is_some() {}
        if tasks.is_empty() {
            tasks.spawn_on(sync::task(task), runtime);
            *on = Some(runtime.id());
        }
    }

    /// The same, and takes it from another runtime, which nobody may be driving any more.
    pub(super) fn move_to(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let elsewhere = {
            let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if this.1 == Some(runtime.id()) { None } else { Some(mem::take(&mut *this)) }
        };
        drop(elsewhere);
        self.run(runtime, task);
    }
}
