//! The thread that drives the connection: a runtime of the caller's may end, or not be there at all.

use std::{convert::Infallible, io, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::failure::Failure;

/// It ends when this is dropped.
pub(crate) struct Thread {
    runtime: Handle,
    _alive: oneshot::Sender<Infallible>,
}

impl Thread {
    pub(crate) fn start() -> io::Result<Self> {
        let (alive, ended) = oneshot::channel();
        // The thread comes first: where none is to be had, a runtime would be dropped here, which panics in async code.
        let (sender, runtime) = mpsc::channel::<Runtime>();
        let drive = move || runtime.recv().map(|runtime| runtime.block_on(ended));
        thread::Builder::new().name("tower-token-refresh-redis".to_owned()).spawn(drive)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let _ = sender.send(runtime);
        Ok(Thread { runtime: handle, _alive: alive })
    }

    /// Runs it whether or not somebody waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Runs it for as long as somebody waits for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut tasks = JoinSet::new();
        tasks.spawn_on(task, &self.runtime);
        tasks.join_next().await.and_then(Result::ok).ok_or_else(Failure::of_task)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc::RecvTimeoutError, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn it_ends_with_what_it_runs_when_it_is_dropped() {
        let thread = Thread::start().unwrap();
        let (begins, begun) = mpsc::channel();
        thread.spawn(async move {
            begins.send(()).unwrap();
            pending::<()>().await;
        });
        begun.recv_timeout(LONG).unwrap();
        drop(thread);
        assert_eq!(begun.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_run_on() {
        let thread = Thread::start().unwrap();
        let (begins, mut begun) = tokio::sync::mpsc::channel(1);
        let run = thread.run(async move {
            begins.send(()).await.unwrap();
            pending::<()>().await;
        });
        tokio::select! {
            _ = run => unreachable!("it is pending"),
            began = begun.recv() => began.unwrap(),
        }
        assert_eq!(timeout(LONG, begun.recv()).await, Ok(None));
    }
}
