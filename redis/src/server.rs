//! The server: what it is asked goes by one connection, on the thread of that.

use std::sync::Arc;

use redis::{Cmd, FromRedisValue, IntoConnectionInfo, RedisError};
use tokio::{sync::watch, time::timeout};

use crate::{connection::Connection, failure::Failure, thread::Thread};

pub(crate) struct Server {
    connection: Arc<Connection>,
    thread: Thread,
    /// How many leases are being given back.
    releases: watch::Sender<usize>,
}

impl Server {
    pub(crate) fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        let connection = Arc::new(Connection::new(server)?);
        Ok(Server { connection, thread: Thread::start()?, releases: watch::Sender::default() })
    }

    pub(crate) fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Sends a command and waits for its answer. It is sent, and the answer counts for the connection, whether or not
    /// somebody still waits for it.
    pub(crate) async fn ask<T>(&self, command: Cmd) -> Result<T, Failure>
    where
        T: FromRedisValue + Send + 'static,
    {
        let connection = self.connection.clone();
        let asking = self.thread.spawn(async move { connection.ask(command).await });
        asking.await.unwrap_or_else(|_| Err(Failure::of_task()))
    }

    /// Until the guard is dropped a lease is being given back.
    pub(crate) fn release(self: &Arc<Self>) -> Release {
        self.releases.send_modify(|releases| *releases += 1);
        Release(self.clone())
    }

    /// Waits until all leases have been given back.
    pub(crate) async fn settle(&self) {
        let mut releases = self.releases.subscribe();
        let settled = async move {
            // Others may be taken and given back meanwhile, without end.
            let _ = timeout(Connection::LONGEST, releases.wait_for(|releases| *releases == 0)).await;
        };
        let _ = self.thread.run(settled).await;
    }

    /// Changes when a message has come for this name, or may have been missed.
    pub(crate) fn news(&self, name: &str) -> watch::Receiver<()> {
        self.connection.news().of(name)
    }
}

pub(crate) struct Release(Arc<Server>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.releases.send_modify(|releases| *releases -= 1);
    }
}
