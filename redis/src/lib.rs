//! A store in Redis for [`tower_token_refresh`]: replicas of a service share one token.
//!
//! One replica refreshes at a time, and the others take over what it has got. A login or logout in one of them is known to
//! the others at once. If Redis cannot be reached, requests go on with the tokens that each replica has in memory.
//!
//! ```no_run
//! use tower_token_refresh::{Session, Token, source_fn};
//! use tower_token_refresh_redis::RedisStores;
//!
//! # fn example() -> Result<(), redis::RedisError> {
//! let stores = RedisStores::new("redis://127.0.0.1/")?; // one for the process: one connection
//! let source = source_fn(|_| async { Ok(Token::new("from-the-authority")) });
//! let session = Session::builder(source).store(stores.store("acme:token")).build();
//! # let _ = session;
//! # Ok(())
//! # }
//! ```
//!
//! # What is in Redis
//!
//! | key | holds |
//! |---|---|
//! | `{name}` | a hash: the record, the number of the last lease, and how often it was written |
//! | `{name}:lease` | whose turn it is to refresh; ends by itself |
//! | the channel `tower-token-refresh:{name}` | a message for each change |
//!
//! The braces are part of the keys: they keep both in one slot.
//!
//! Redis must not lose these keys while somebody is logged in: it needs persistence, and no eviction of keys without a
//! lifetime (`noeviction`, or one of the `volatile-` policies). Where they are lost, a replica that refreshes writes its own
//! record again; a process that starts meanwhile begins anew. A failover may lose the last writes, and with them a refresh
//! token that was spent for the next one.
//!
//! It needs Redis 6 (RESP3), one primary, no cluster, and for its user the commands `HELLO`, `HGET`, `HMGET`, `HGETALL`,
//! `HSET`, `HDEL`, `HINCRBY`, `GET`, `SET`, `DEL`, `PEXPIRE`, `EXISTS`, `EVAL`, `EVALSHA`, `PUBLISH` and `PSUBSCRIBE` for
//! these keys and channels. Without `PSUBSCRIBE` changes are found within half a minute.
//!
//! # Security
//!
//! Tokens are stored as they are: whoever can read the keys has them. Use TLS (`rediss://`, with one of the TLS features of
//! the crate [`redis`]) beyond this machine. Texts of the server are in no error, because some repeat what it was sent.

#![forbid(unsafe_code)]

mod failure;
mod lease;
mod news;
mod record;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use redis::{ErrorKind, IntoConnectionInfo, RedisError, Script};
use tokio::time::timeout;
use tower_token_refresh::{
    BoxError,
    store::{Lease, Numbers, Record, TokenStore},
};

use self::{failure::Failure, server::Server};

/// How long a lease lasts after its holder has last been heard of.
const LEASE: Duration = Duration::from_secs(30);
/// How often to look for a change of which no message has come.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A server that keeps the tokens of any number of sessions, by one connection. It connects when a store is first used.
#[derive(Clone)]
pub struct RedisStores {
    server: Arc<Server>,
    lease: Duration,
}

impl RedisStores {
    /// The server at this URL, or with this [`ConnectionInfo`](redis::ConnectionInfo).
    ///
    /// # Errors
    ///
    /// For what is no address of a Redis server.
    pub fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        Ok(RedisStores { server: Arc::new(Server::new(server)?), lease: LEASE })
    }

    /// How long others wait for a replica that has died while it refreshed; 30 s by default. The lease of one that lives is
    /// prolonged for as long as the refresh takes. A replica that stands still for longer than this (a machine that is
    /// suspended, a runtime that is blocked) loses its turn, and another one presents the refresh token that it is
    /// presenting: an authority that detects reuse may end the session then.
    ///
    /// # Errors
    ///
    /// For less than 100 ms.
    pub fn lease_lifetime(mut self, lifetime: Duration) -> Result<Self, RedisError> {
        if lifetime < Duration::from_millis(100) {
            let what = "a lease must last for 100 ms at least";
            return Err((ErrorKind::InvalidClientConfig, what).into());
        }
        self.lease = lifetime;
        Ok(self)
    }

    /// The store of one identity. All sessions that use this name share their token; each user needs a name of their own.
    pub fn store(&self, name: &str) -> RedisStore {
        RedisStore { server: self.server.clone(), name: name.into(), lease: self.lease }
    }
}

impl fmt::Debug for RedisStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStores").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// The store of one identity, made by [`RedisStores::store`].
#[derive(Clone)]
pub struct RedisStore {
    server: Arc<Server>,
    name: Arc<str>,
    lease: Duration,
}

impl RedisStore {
    fn key(&self) -> String {
        format!("{{{}}}", self.name)
    }
}

/// Writes a record, if nobody has written one, or got a lease, since the numbers in the arguments were read. So a write
/// that was given up, and comes late, never takes the place of the next one.
const WRITE: &str = r"
    local found = redis.call('HMGET', KEYS[1], 'writes', 'lease')
    if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then
        return 0
    end
    redis.call('HDEL', KEYS[1], 'access', 'refresh', 'expires_at', 'refresh_expires_at', 'refresh_received_at', 'kind')
    redis.call('HSET', KEYS[1], unpack(ARGV, 4))
    redis.call('HINCRBY', KEYS[1], 'writes', 1)
    redis.call('PUBLISH', ARGV[3], '')
    return 1
";

impl TokenStore for RedisStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let mut connection = self.server.connection().await?;
        let hash = redis::cmd("HGETALL").arg(self.key()).query_async(&mut connection).await;
        Ok(record::decode(hash.map_err(Failure::of)?)?)
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        let mut connection = self.server.connection().await?;
        let key = self.key();
        let write = Script::new(WRITE);
        loop {
            let mut look = redis::cmd("HMGET");
            look.arg(&key).arg(&["writes", "lease", "revision"]);
            let [writes, lease, revision]: [Option<String>; 3] =
                look.query_async(&mut connection).await.map_err(Failure::of)?;
            // What is no number is no record: whatever is saved takes its place.
            let number =
                |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0);
            let last = Numbers { lease: number(&lease), revision: number(&revision) };
            let record = record.admit(fence, last)?;
            let written: bool = write
                .key(&key)
                .arg(writes.unwrap_or_default())
                .arg(lease.unwrap_or_default())
                .arg(news::channel(&self.name))
                .arg(record::encode(&record))
                .invoke_async(&mut connection)
                .await
                .map_err(Failure::of)?;
            if written {
                return Ok(());
            }
        }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        lease::wait_for(self).await
    }

    async fn changed(&self, known: u64) {
        let mut news = self.server.news(&self.name);
        loop {
            news.mark_unchanged();
            if self.revision().await.is_ok_and(|revision| revision != known) {
                return;
            }
            let _ = timeout(LOOK_AGAIN, news.changed()).await;
        }
    }
}

impl RedisStore {
    /// That of the record; 0 if there is none.
    async fn revision(&self) -> Result<u64, Failure> {
        let mut connection = self.server.connection().await?;
        let found = redis::cmd("HGET").arg(self.key()).arg("revision").query_async(&mut connection).await;
        found.map(|revision: Option<u64>| revision.unwrap_or(0)).map_err(Failure::of)
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("name", &self.name).finish_non_exhaustive()
    }
}
