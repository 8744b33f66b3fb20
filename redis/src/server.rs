//! The connections: one for each runtime, because what drives one ends with its runtime.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisError,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{
    runtime::{Handle, Id},
    sync::watch,
    time::timeout,
};

use crate::{failure::Failure, news::News};

/// How long for a connection, and for an answer. A connection that swallows what is sent is given up then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of how many runtimes connections are kept. Nobody tells which of them have ended.
const RUNTIMES: usize = 64;

pub(crate) struct Server {
    client: Client,
    connections: Arc<Connections>,
    /// How many leases are being given back.
    releases: watch::Sender<usize>,
}

/// All who need one at the same time share an attempt.
type Attempt = Shared<BoxFuture<'static, Result<MultiplexedConnection, Failure>>>;

#[derive(Default)]
struct Connections {
    attempts: Mutex<HashMap<Id, Attempt>>,
    news: News,
}

impl Server {
    pub(crate) fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        let info = server.into_connection_info()?;
        // Messages come by the same connection as answers.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        Ok(Server { client, connections: Arc::default(), releases: watch::Sender::default() })
    }

    /// Sends a command and waits for its answer. It is sent, and the answer counts for the connection, whether or not
    /// somebody still waits for it.
    pub(crate) async fn ask<T>(&self, command: Cmd) -> Result<T, Failure>
    where
        T: FromRedisValue + Send + 'static,
    {
        let here = Handle::try_current().map_err(|_| Failure::new("there is no tokio runtime"))?;
        let (runtime, connections) = (here.id(), self.connections.clone());
        let attempt = connections.attempt(runtime, || {
            let connecting = connect(self.client.clone(), &connections);
            let connecting = here.spawn(connecting);
            async move { connecting.await.unwrap_or_else(|_| Err(Failure::of_task())) }.boxed().shared()
        });
        // In a task: it panics where the runtime lacks I/O or timers.
        let asking = here.spawn(async move {
            let connected = attempt.clone().await;
            // What is said of the attempt may be otherwise the next time.
            let mut connection = connected.inspect_err(|_| connections.forget(runtime, &attempt))?;
            let answer = timeout(PATIENCE, command.query_async(&mut connection)).await;
            let answer = answer
                .map_err(|_elapsed| Failure::of_silence())
                .and_then(|answer| answer.map_err(Failure::of));
            if answer.as_ref().is_err_and(Failure::is_of_the_connection) {
                connections.forget(runtime, &attempt);
                // Their messages come by another one now, which a look begins.
                connections.news.tell_all();
            }
            answer
        });
        asking.await.unwrap_or_else(|_| Err(Failure::of_task()))
    }

    /// Until the guard is dropped a lease is being given back.
    pub(crate) fn release(self: &Arc<Self>) -> Release {
        self.releases.send_modify(|releases| *releases += 1);
        Release(self.clone())
    }

    /// Waits until all leases have been given back.
    pub(crate) async fn settle(&self) {
        // A release whose runtime nobody drives has to end by itself.
        let _ = timeout(2 * PATIENCE, self.releases.subscribe().wait_for(|releases| *releases == 0)).await;
    }

    /// Changes when a message has come for this name, or may have been missed.
    pub(crate) fn news(&self, name: &str) -> watch::Receiver<()> {
        self.connections.news.of(name)
    }
}

impl Connections {
    fn attempt(&self, runtime: Id, begin: impl FnOnce() -> Attempt) -> Attempt {
        let mut attempts = self.attempts();
        if attempts.len() >= RUNTIMES && !attempts.contains_key(&runtime) {
            attempts.clear();
        }
        attempts.entry(runtime).or_insert_with(begin).clone()
    }

    fn forget(&self, runtime: Id, attempt: &Attempt) {
        let mut attempts = self.attempts();
        if attempts.get(&runtime).is_some_and(|current| current.ptr_eq(attempt)) {
            attempts.remove(&runtime);
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Id, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(
    client: Client,
    connections: &Arc<Connections>,
) -> impl Future<Output = Result<MultiplexedConnection, Failure>> + use<> {
    let news = connections.news.clone();
    let told = news.clone();
    let on_push = move |message: PushInfo| {
        told.tell(&message);
        Ok::<_, SendError>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(None)
        .set_push_sender(on_push);
    async move {
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(Failure::of)?;
        let subscribed = timeout(PATIENCE, connection.psubscribe(News::PATTERN)).await;
        match subscribed.map_err(|_elapsed| Failure::of_silence())? {
            // Where this is not allowed, changes are looked for.
            Err(error) if !matches!(error.kind(), ErrorKind::Server(_)) => return Err(Failure::of(error)),
            _ => {}
        }
        // What was said before, nobody has heard.
        news.tell_all();
        Ok(connection)
    }
}

pub(crate) struct Release(Arc<Server>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.releases.send_modify(|releases| *releases -= 1);
    }
}
