//! The connection, which is replaced when it fails.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisError,
    aio::{MultiplexedConnection, SendError},
};
use tokio::time::{sleep, timeout};

use crate::{failure::Failure, news::News};

/// How long for a connection, and for an answer. A connection that swallows what is sent is given up then.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after one attempt to connect the next one begins: many may ask, of a server that refuses all.
const APART: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    client: Client,
    latest: Mutex<Latest>,
    news: News,
}

struct Latest {
    attempt: Option<Attempt>,
    /// When another one may begin.
    next: Instant,
}

/// All who need one at the same time share an attempt.
type Attempt = Shared<BoxFuture<'static, Result<MultiplexedConnection, Failure>>>;

impl Connection {
    /// How long an answer may take: a pause before the attempt, connecting, subscribing, and the answer itself.
    pub(crate) const LONGEST: Duration = APART.saturating_add(PATIENCE.saturating_mul(3));

    pub(crate) fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        let info = server.into_connection_info()?;
        // Messages come by the same connection as answers.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let latest = Latest { attempt: None, next: Instant::now() };
        Ok(Connection { client, latest: Mutex::new(latest), news: News::default() })
    }

    pub(crate) fn news(&self) -> &News {
        &self.news
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Failure> {
        let attempt = self.attempt();
        // What is said of the attempt may be otherwise the next time.
        let mut connection = attempt.clone().await.inspect_err(|_| self.forget(&attempt))?;
        let answer = timeout(PATIENCE, command.query_async(&mut connection)).await;
        let answer =
            answer.map_err(|_elapsed| Failure::of_silence()).and_then(|answer| answer.map_err(Failure::of));
        if answer.as_ref().is_err_and(Failure::is_of_the_connection) {
            self.forget(&attempt);
            // Their messages come by another one now, which a look begins.
            self.news.tell_all();
        }
        answer
    }

    fn attempt(&self) -> Attempt {
        let mut latest = self.latest();
        let Latest { attempt, next } = &mut *latest;
        let begin = || {
            let now = Instant::now();
            let begin = now.max(*next);
            *next = begin + APART;
            let connecting = connect(self.client.clone(), self.news.clone());
            // In a task, whose panic is a failure like others.
            let connecting = tokio::spawn(async move {
                sleep(begin - now).await;
                connecting.await
            });
            async move { connecting.await.unwrap_or_else(|_| Err(Failure::of_task())) }.boxed().shared()
        };
        attempt.get_or_insert_with(begin).clone()
    }

    fn forget(&self, attempt: &Attempt) {
        let mut latest = self.latest();
        if latest.attempt.as_ref().is_some_and(|current| current.ptr_eq(attempt)) {
            latest.attempt = None;
        }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(client: Client, news: News) -> Result<MultiplexedConnection, Failure> {
    let told = news.clone();
    let on_push = move |message: PushInfo| {
        told.tell(&message);
        Ok::<_, SendError>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(None)
        .set_push_sender(on_push);
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
