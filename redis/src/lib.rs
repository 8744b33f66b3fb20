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
//! | `{name}` | a hash: the record, and the number of the last lease |
//! | `{name}:lease` | whose turn it is to refresh; ends by itself |
//! | the channel `tower-token-refresh:{name}` | a message for each change, and for each lease that is given back |
//!
//! The braces are part of the keys: they keep both in one slot.
//!
//! Redis must not lose these keys while somebody is logged in: it needs persistence, and `maxmemory-policy noeviction`. Where
//! they are lost, a replica that refreshes writes its own record again; a process that starts meanwhile begins anew. A
//! failover may lose the last writes, and with them a refresh token that was spent for the next one.
//!
//! It needs Redis 6 (RESP3), one primary, no cluster. Its user needs these commands, `~{name}*` for each name, and
//! `&tower-token-refresh:*`:
//!
//! ```text
//! +hello +eval +hget +hmget +hgetall +hset +hdel +set +del +exists +time +publish +psubscribe
//! ```
//!
//! Where the URL names a database, it needs `+select` as well. Without `publish` or `psubscribe` changes are found within half
//! a minute.
//!
//! # At the end of a process
//!
//! The lease of a refresh is given back behind the scenes. Await [`RedisStores::settle`] after the session's own
//! [`settle`](tower_token_refresh::Session::settle), or others may have to wait until the lease has ended by itself.
//!
//! # Security
//!
//! Tokens are stored as they are: whoever can read the keys has them. Use TLS (`rediss://`, with one of the TLS features of
//! the crate [`redis`]) beyond this machine. Texts of the server are in no error, because some repeat what it was sent.

#![forbid(unsafe_code)]

mod connection;
mod failure;
mod lease;
mod news;
mod record;
mod server;
mod thread;

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, ErrorKind, IntoConnectionInfo, RedisError};
use tokio::time::{sleep, timeout};
use tower_token_refresh::{
    BoxError,
    store::{Lease, Numbers, Record, TokenStore},
};

use self::{failure::Failure, server::Server};

/// How long a lease lasts after its holder has last been heard of.
const LEASE: Duration = Duration::from_secs(30);
const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// How often to look for a change of which no message has come.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// How long to wait after a look that has failed, at first.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A server that keeps the tokens of any number of sessions, by one connection, which a thread of its own drives: no runtime
/// has to last for it, or to be there. It connects when a store is first used; the connection and the thread end after the
/// last store and lease have been dropped.
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
    /// For what is no address of a Redis server, and where no thread is to be had.
    pub fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        Ok(RedisStores { server: Arc::new(Server::new(server)?), lease: LEASE })
    }

    /// How long others wait for a replica that has died while it refreshed; 30 s by default. The lease of one that lives is
    /// prolonged for as long as the refresh takes; where its connection breaks or swallows what is sent, only if this is
    /// longer than 15 s. A replica that stands still for longer than this (a machine or a process that is suspended)
    /// loses its turn, and another one presents the refresh token that it is presenting: an authority that detects reuse may
    /// end the session then. One whose runtime is blocked keeps its turn.
    ///
    /// # Errors
    ///
    /// For less than a second, and for more than a day.
    pub fn lease_lifetime(mut self, lifetime: Duration) -> Result<Self, RedisError> {
        if !LEASES.contains(&lifetime) {
            return Err((ErrorKind::InvalidClientConfig, "a lease lasts for one second to one day").into());
        }
        self.lease = lifetime;
        Ok(self)
    }

    /// Waits until the leases that sessions have let go are given back, for as long as Redis may take to answer.
    pub async fn settle(&self) {
        self.server.settle().await;
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

/// Writes a record, if nobody has written one, or got a lease, since what the arguments say was read. So a write that was
/// given up, and comes late, never takes the place of the next one.
const WRITE: &str = r"
    local found = redis.call('HMGET', KEYS[1], 'write', 'lease')
    if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then
        return 0
    end
    redis.call('HSET', KEYS[1], unpack(ARGV, 4))
    redis.pcall('PUBLISH', ARGV[3], '')
    return 1
";

fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

/// One that nobody else has.
fn random_id() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", number(), number())
}

impl TokenStore for RedisStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let mut look = redis::cmd("HGETALL");
        look.arg(self.key());
        Ok(record::decode(self.server.ask(look).await?)?)
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        let key = self.key();
        loop {
            let mut look = redis::cmd("HMGET");
            look.arg(&key).arg(&["write", "lease", "revision"]);
            let [write, lease, revision]: [Option<Vec<u8>>; 3] = self.server.ask(look).await?;
            let last = Numbers { lease: record::number(&lease), revision: record::number(&revision) };
            let record = record.admit(fence, last)?;
            let mut save = script(WRITE, &[&key]);
            save.arg(write.unwrap_or_default()).arg(lease.unwrap_or_default()).arg(news::channel(&self.name));
            save.arg("write").arg(random_id()).arg(record::encode(&record));
            if self.server.ask(save).await? {
                return Ok(());
            }
        }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        Ok(self.server.thread().run(lease::wait_for(self.clone())).await??)
    }

    async fn changed(&self, known: u64) {
        let _ = self.server.thread().run(self.clone().differs(known)).await;
    }
}

impl RedisStore {
    /// Waits for another revision. Runs on the thread of the connection.
    async fn differs(self, known: u64) {
        let mut news = self.server.news(&self.name);
        let mut pause = AFTER_FAILURE;
        loop {
            news.mark_unchanged();
            match self.revision().await {
                Ok(revision) if revision != known => return,
                Ok(_) => {
                    pause = AFTER_FAILURE;
                    let _ = timeout(LOOK_AGAIN, news.changed()).await;
                }
                Err(_) => {
                    sleep(AFTER_FAILURE).await;
                    let _ = timeout(pause, news.changed()).await;
                    pause = (2 * pause).min(LOOK_AGAIN);
                }
            }
        }
    }

    /// That of the record; 0 if there is none.
    async fn revision(&self) -> Result<u64, Failure> {
        let mut look = redis::cmd("HGET");
        look.arg(self.key()).arg("revision");
        Ok(record::number(&self.server.ask(look).await?))
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("name", &self.name).finish_non_exhaustive()
    }
}
