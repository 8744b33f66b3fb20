//! Where a session's token outlives the process, or is shared with others.
//!
//! A refresh takes the store's [`Lease`], loads, fetches, saves and only then publishes. [`MemoryStore`] is the
//! default; clones of it are one store, so two sessions can share their token through it. [`FileStore`](struct.FileStore.html)
//! (feature `file`) keeps the token in a file, which any number of processes may share.
//!
//! The crate `tower-token-refresh-redis`, beside this one, keeps tokens in Redis, for replicas on several machines.
//!
//! One store holds one identity. Many identities need a store each: a file each, say.

#[cfg(feature = "file")]
mod file;
mod memory;
mod record;
mod rules;

use std::{any::Any, fmt, future::Future, mem, sync::Arc};

use futures_util::future::BoxFuture;

#[cfg(feature = "file")]
pub use self::file::FileStore;
pub use self::{
    memory::MemoryStore,
    record::{Record, SessionId, StoredToken},
    rules::Numbers,
};
use crate::{error::BoxError, panics::isolated};

/// Keeps one session's [`Record`]. An `Arc` of a store is itself a store: sessions that share it have one login, as
/// processes that share a file have. Each user needs a store of their own.
///
/// Every call is bounded by the session's `store_timeout`, `lock` by its lease wait; only [`changed`](Self::changed)
/// may wait for ever. A store that fails stops no request: the session goes on in memory, reports the failure and saves
/// again later.
///
/// A store of one's own, for one process whose sessions share a row of a table:
///
/// ```
/// use std::{
///     sync::{Arc, Mutex},
///     time::Duration,
/// };
///
/// use tower_token_refresh::{
///     BoxError,
///     store::{Lease, Numbers, Record, TokenStore},
/// };
///
/// #[derive(Default)]
/// struct Row {
///     record: Option<Record>,
///     lease: u64,
/// }
///
/// #[derive(Clone, Default)]
/// struct Table {
///     row: Arc<Mutex<Row>>,
///     refreshing: Arc<tokio::sync::Mutex<()>>,
/// }
///
/// impl TokenStore for Table {
///     async fn load(&self) -> Result<Option<Record>, BoxError> {
///         Ok(self.row.lock().map_err(|_| "the table is broken")?.record.clone())
///     }
///
///     async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
///         // A database does this in one transaction.
///         let mut row = self.row.lock().map_err(|_| "the table is broken")?;
///         let revision = row.record.as_ref().map_or(0, |stored| stored.revision);
///         row.record = Some(record.admit(fence, Numbers { lease: row.lease, revision })?);
///         Ok(())
///     }
///
///     async fn lock(&self) -> Result<Lease, BoxError> {
///         // Not in its queue: whoever is next there may have given up the runtime that it waits on.
///         let refreshing = loop {
///             match self.refreshing.clone().try_lock_owned() {
///                 Ok(refreshing) => break refreshing,
///                 Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
///             }
///         };
///         let mut row = self.row.lock().map_err(|_| "the table is broken")?;
///         row.lease += 1;
///         Ok(Lease::new(row.lease, refreshing))
///     }
/// }
/// # let _ = Table::default();
/// ```
pub trait TokenStore: Send + Sync + 'static {
    /// The record that was saved last, or `None` where nothing ever was.
    ///
    /// Every error is reported. [`Damaged`] counts as `None`. After any other error a refresh asks the store again for two
    /// seconds at most; one that nobody waits for yet, a renewal, for a third of
    /// [`refresh_timeout`](crate::session::SessionBuilder::refresh_timeout), as long as it holds no lease. Then the session
    /// goes on from what it knows, and saves neither a replacement that keeps the refresh token nor a refresh without a
    /// lease. What it knows may be a refresh token that somebody who shares the store has spent: an authority that detects
    /// that ends the session for both. If it has never had a token, has no refresh token to present, and its source says that
    /// a login is required, then the failure is `Store`, not `LoginRequired`.
    fn load(&self) -> impl Future<Output = Result<Option<Record>, BoxError>> + Send;

    /// Replaces the record; the record of a logout has no token. All or nothing: whoever loads sees the old record or the
    /// new one.
    ///
    /// A refresh saves with the number of the [`Lease`] under which it was made, or of a later lease if it could not be
    /// saved then; without a number if it could get no lease. A store that is shared refuses
    ///
    /// 1. the number of a lease that is older than another it has handed out since, with [`LeaseLost`];
    /// 2. a record of a lower revision than the stored one, with [`Superseded`].
    ///
    /// A login, logout or replacement saves without a number. A record that comes without a number is never refused, and
    /// waits for nobody's lease: the session may hold it just then. Instead a store that is shared raises the record's
    /// revision to at least two more than the stored one. (Stored plus one is the number that a refresh in progress
    /// elsewhere may be about to save, and that refresh has to lose.) [`Record::admit`] does all of that.
    ///
    /// A store whose record may get lost has to remember its revision all the same: the revision of a login must be above
    /// what others have seen.
    ///
    /// # Cancel safety
    ///
    /// The session drops the future at its time limit, and makes the next save then. By then the dropped save must have
    /// failed, or be certain to finish before the next one: a login's save that finishes after a logout's would undo the
    /// logout. Give blocking work a lock that it keeps until it is over, as `FileStore` does; let a transaction end with
    /// its connection.
    fn save(&self, record: &Record, fence: Option<u64>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The right to refresh, held by one session of all that share this store until it is dropped.
    ///
    /// Do not hand it to a waiter in a queue, as a fair lock does: that waiter's runtime may no longer be running, and
    /// then nobody would get the lease.
    ///
    /// A lease that ends by itself, as a key with a lifetime does, must be prolonged as long as it is held, or last longer
    /// than [`abandon_after`](crate::session::SessionBuilder::abandon_after): whoever gets it earlier presents the refresh
    /// token that is being spent. An error is answered as one of [`load`](Self::load): the refresh goes on without a lease.
    ///
    /// # Cancel safety
    ///
    /// The session drops the future at the lease wait, or as soon as it has found a good token without the lease; perhaps
    /// between a request for the lease and its answer. Nothing may stay locked by that: a lease that is granted later has
    /// to end by itself or be given back.
    fn lock(&self) -> impl Future<Output = Result<Lease, BoxError>> + Send;

    /// Resolves as soon as the record is of another revision than `known`: somebody else who shares the store has saved.
    /// The session then loads it and goes over to it, instead of finding out by a refusal or by its next refresh.
    ///
    /// By default this never resolves, for a store that cannot tell. A session that is over then looks into the store when
    /// it is asked for a token, every five seconds at most, unless its own process has logged it out.
    ///
    /// A session waits for this on each tokio runtime on which it has refreshed or been changed, because it cannot know
    /// which of them goes on; a session that is [bound](crate::session::SessionBuilder::on_current_runtime) to a runtime
    /// waits there only.
    ///
    /// # Cancel safety
    ///
    /// The session drops the future when it ends itself.
    fn changed(&self, known: u64) -> impl Future<Output = ()> + Send {
        let _ = known;
        std::future::pending()
    }
}

impl<T: TokenStore> TokenStore for Arc<T> {
    fn load(&self) -> impl Future<Output = Result<Option<Record>, BoxError>> + Send {
        T::load(self)
    }

    fn save(&self, record: &Record, fence: Option<u64>) -> impl Future<Output = Result<(), BoxError>> + Send {
        T::save(self, record, fence)
    }

    fn lock(&self) -> impl Future<Output = Result<Lease, BoxError>> + Send {
        T::lock(self)
    }

    fn changed(&self, known: u64) -> impl Future<Output = ()> + Send {
        T::changed(self, known)
    }
}

/// The right to refresh. It ends when it is dropped.
#[must_use = "a lease ends when it is dropped"]
pub struct Lease {
    fence: u64,
    guard: Box<dyn Any + Send>,
}

impl Lease {
    /// A lease with this number, which must be greater than that of every lease before, and a guard that ends the lease
    /// when it is dropped.
    pub fn new(fence: u64, guard: impl Send + 'static) -> Self {
        Lease { fence, guard: Box::new(guard) }
    }

    /// The lease's number.
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let guard = mem::replace(&mut self.guard, Box::new(()));
        // A panic in it is its own affair: it is dropped in the midst of refreshes, saves and logouts, which must go on.
        isolated(|| drop(guard));
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("fence", &self.fence).finish_non_exhaustive()
    }
}

/// The stored data is not a record: damaged, cut short, or of a later format. The session reports it and goes on as if there
/// were nothing, and whatever it saves takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(&'static str);

impl Damaged {
    /// What is wrong, in words that quote nothing of what was found.
    pub const fn new(what: &'static str) -> Self {
        Damaged(what)
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Damaged {}

/// Why a store refuses to save: it holds a later record. The session drops the one that was refused. If the stored record
/// is another login or a logout, a refresh that was to be saved goes over to it at once; to any other record the session
/// goes over at its next refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token store holds a later record")
    }
}

impl std::error::Error for Superseded {}

/// Why a store refuses to save: the lease has ended by itself, and a later one has been handed out. The session takes
/// another lease for its next refresh, and saves under that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLost;

impl fmt::Display for LeaseLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a later lease of the token store has been handed out")
    }
}

impl std::error::Error for LeaseLost {}

/// The object-safe face of [`TokenStore`].
pub(crate) trait DynTokenStore: Send + Sync {
    fn load(&self) -> BoxFuture<'_, Result<Option<Record>, BoxError>>;
    fn save<'a>(&'a self, record: &'a Record, fence: Option<u64>) -> BoxFuture<'a, Result<(), BoxError>>;
    fn lock(&self) -> BoxFuture<'_, Result<Lease, BoxError>>;
    fn changed(&self, known: u64) -> BoxFuture<'_, ()>;
}

impl<T: TokenStore> DynTokenStore for T {
    fn load(&self) -> BoxFuture<'_, Result<Option<Record>, BoxError>> {
        Box::pin(TokenStore::load(self))
    }

    fn save<'a>(&'a self, record: &'a Record, fence: Option<u64>) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(TokenStore::save(self, record, fence))
    }

    fn lock(&self) -> BoxFuture<'_, Result<Lease, BoxError>> {
        Box::pin(TokenStore::lock(self))
    }

    fn changed(&self, known: u64) -> BoxFuture<'_, ()> {
        Box::pin(TokenStore::changed(self, known))
    }
}
