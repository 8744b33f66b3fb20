use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    Session,
    backoff::Backoff,
    engine::{Engine, Limits},
    kernel::Slot,
    renewal::{Renewal, RenewalMode},
    revoker::{Revoke, Revoker},
    storage::{Calls, Storage},
    task_per_runtime::TaskPerRuntime,
};
use crate::{
    error::{Error, ErrorKind},
    event::{Observer, Observers},
    placement::Placement,
    reentry::Mark,
    source::{DynTokenSource, TokenSource},
    store::{DynTokenStore, MemoryStore, SessionId, TokenStore},
    sync::{ArcSwapOption, Mutex},
    time::{Clock, Timekeeper},
    token::Token,
};

/// Builds a [`Session`]. Building does no I/O, spawns nothing and needs no runtime.
///
/// ```
/// use std::time::Duration;
/// use tower_token_refresh::{Placement, Session, Token, session::RenewalMode, source_fn};
///
/// let session = Session::builder(source_fn(|_| async { Ok(Token::new("from-the-authority")) }))
///     .placement(Placement::header("x-api-key")?)
///     .refresh_timeout(Duration::from_secs(10))?
///     .renewal(RenewalMode::Inline)
///     .build();
/// # let _ = session;
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
#[must_use]
pub struct SessionBuilder {
    source: Box<dyn DynTokenSource>,
    store: Box<dyn DynTokenStore>,
    placement: Placement,
    observers: Vec<Box<dyn Observer>>,
    revoke: Option<Box<Revoke>>,
    clock: Timekeeper,
    runtime: Option<Handle>,
    limits: Limits,
    renewal: Renewal,
    store_timeout: Duration,
    lease_wait: Duration,
}

impl SessionBuilder {
    pub(crate) fn new(source: impl TokenSource) -> Self {
        SessionBuilder {
            source: Box::new(source),
            store: Box::new(MemoryStore::new()),
            placement: Placement::bearer(),
            observers: Vec::new(),
            revoke: None,
            clock: Timekeeper::of_system(),
            runtime: None,
            limits: Limits {
                refresh: Duration::from_secs(30),
                abandon: Duration::from_secs(120),
                cooling: Backoff::DEFAULT,
            },
            renewal: Renewal {
                mode: RenewalMode::default(),
                before: Duration::from_secs(60),
                jitter: Duration::from_secs(5),
            },
            store_timeout: Duration::from_secs(5),
            lease_wait: Duration::from_secs(10),
        }
    }

    /// Where the token is kept; [`MemoryStore`] by default.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Box::new(store);
        self
    }

    /// How the token is put on a request; [`Placement::bearer`] by default.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Who is told what happens. May be called several times.
    ///
    /// One that holds a handle of this session keeps it alive for ever, in a `SessionMap` as well. Whoever wants to do
    /// something to the session follows [`subscribe`](Session::subscribe) in a task instead.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Called with tokens that are no longer needed, for example to revoke them at the authority (RFC 7009): at a logout,
    /// the session's token and any other one that is found in the store; and the result of a refresh whose session has
    /// ended or changed meanwhile. It is not called with
    ///
    /// - a token that a login or [`replace`](Session::replace) has replaced;
    /// - the result of a refresh that was overtaken by a `replace`;
    /// - the result of a refresh whose refresh token somebody has used for a [`login`](Session::login) meanwhile.
    ///
    /// The last two may share a grant with the token in use, and revoking them might end that grant.
    ///
    /// Best effort: each call runs in a task of its own, which is dropped after [`refresh_timeout`](Self::refresh_timeout);
    /// without a tokio runtime there is no call. Nothing waits for that task, not even [`settle`](Session::settle): a
    /// process that ends right after a logout has to wait by its own means. A token may be offered twice, and it may be a
    /// refresh token without an access token.
    ///
    /// ```
    /// use tower_token_refresh::{Session, Token, source_fn};
    /// # async fn revoke(_: &str) {}
    ///
    /// let session = Session::builder(source_fn(|_| async { Ok(Token::new("from-the-authority")) }))
    ///     .revoke_with(|token: Token| async move {
    ///         // Revoking the refresh token ends the access tokens of the same grant, too (RFC 7009 §2.1).
    ///         revoke(token.refresh().unwrap_or(token.access()).expose()).await;
    ///     })
    ///     .build();
    /// # let _ = session;
    /// ```
    pub fn revoke_with<F, Fut>(mut self, revoke: F) -> Self
    where
        F: Fn(Token) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let revoke = Arc::new(revoke);
        self.revoke = Some(Box::new(move |token| {
            let revoke = revoke.clone();
            // In the task as well: what the closure does by itself must not stop a logout.
            Box::pin(async move { revoke(token).await })
        }));
        self
    }

    /// Where the time comes from; [`SystemClock`](crate::time::SystemClock) by default. Requests read the wall clock at
    /// most once a second, so a jump of it may go unnoticed for up to a second.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Timekeeper::new(clock);
        self
    }

    /// Makes refreshes run on the tokio runtime that is current now, instead of on the runtime of the caller that happens
    /// to start one. This is for processes with several runtimes, of which this one lives longest. The source's client then
    /// opens its connections there, and the end of another runtime cuts off nobody's refresh.
    ///
    /// The runtime needs timers (`enable_time` of tokio's builder); without them each refresh fails with `NoRuntime`. Tokio
    /// reports missing timers only by a panic. That panic is caught here, but a panic hook sees it, and in a program that
    /// is built with `panic = "abort"` it ends the process. A caller that waits for a refresh on a runtime of its own
    /// without timers causes the same panic.
    ///
    /// # Errors
    ///
    /// `NoRuntime` outside of a runtime.
    pub fn on_current_runtime(mut self) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| {
            Error::new(ErrorKind::NoRuntime, "there is no current tokio runtime to refresh on")
        })?;
        self.runtime = Some(runtime);
        Ok(self)
    }

    /// How long callers wait for one refresh, from the store's lease to the save; 30 s by default. The fetch goes on
    /// afterwards, and its late result is used.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn refresh_timeout(mut self, limit: Duration) -> Result<Self, Error> {
        self.limits.refresh = positive(limit, "a refresh timeout must be longer than zero")?;
        Ok(self)
    }

    /// After how long a refresh is given up, counted from its start; 120 s by default. A value below `refresh_timeout`
    /// counts as `refresh_timeout`. Where the process was stopped meanwhile it may take longer. Whatever the source is at is
    /// dropped then: one that asks a person needs more.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn abandon_after(mut self, limit: Duration) -> Result<Self, Error> {
        self.limits.abandon = positive(limit, "a refresh must be given more time than zero")?;
        Ok(self)
    }

    /// How long one call of the store may take; 5 s by default.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn store_timeout(mut self, limit: Duration) -> Result<Self, Error> {
        self.store_timeout = positive(limit, "a store timeout must be longer than zero")?;
        Ok(self)
    }

    /// How long a refresh waits for the store's lease; 10 s by default. If the lease is still taken by then, a refresh that
    /// would present a refresh token fails as `Transient`, because the holder of the lease is spending that token. Any
    /// other refresh goes on without the lease, and so does every refresh if the store [fails](TokenStore::load) for longer.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn lease_wait(mut self, limit: Duration) -> Result<Self, Error> {
        self.lease_wait = positive(limit, "a lease wait must be longer than zero")?;
        Ok(self)
    }

    /// How long the session leaves the authority alone after a failed refresh: `first` after the first failure, twice as
    /// long after each further one, up to `most`, varied at random by up to a quarter; 1 s and 60 s by default. A `first`
    /// of zero turns the cooling off, for tests: then each request asks the authority again, and
    /// [`keep_fresh`](Session::keep_fresh) asks without a pause for as long as it fails. Whatever `first` and `most` say,
    /// the authority is left alone, unless the [credentials have changed](Session::credentials_changed), for at least
    ///
    /// - as long as the authority [asks for](crate::FetchError::retry_after), up to ten minutes;
    /// - 30 s after a request [without an answer](crate::FetchError::unanswered);
    /// - five minutes after an answer that may have refused a password;
    /// - 15 minutes while the session is [stalled](crate::ErrorKind::Stalled).
    ///
    /// # Errors
    ///
    /// `InvalidValue` if `first` is longer than `most`.
    pub fn cooling(mut self, first: Duration, most: Duration) -> Result<Self, Error> {
        Error::require(first <= most, "the first cooling must not be longer than the longest one")?;
        self.limits.cooling = Backoff { first, most };
        Ok(self)
    }

    /// How long before its expiry a token is renewed; 60 s by default, and never more than a quarter of its life. For a
    /// token from the store, or one with [`expires_at`](Token::expires_at), the session knows only the life that was left
    /// when it took the token: a quarter of that counts. Zero renews at the moment of expiry.
    ///
    /// A refresh token has to be used while it lives. Where its end is known, the renewal may therefore come earlier, even
    /// if the end of the access token is unknown:
    ///
    /// 1. A refresh token that ends before the access token is due is used at half of its life, which counts from when it
    ///    came, to this process or to the one that has [stored](crate::store::StoredToken::refresh_received_at) it.
    /// 2. A refresh token that ends later, but before the access token, is used as long before its own end as the access
    ///    token would be renewed before its expiry, though not before that half.
    ///
    /// Such a renewal is one like any other: a process that ends without having [settled](Session::settle) may leave a spent
    /// refresh token to the next.
    ///
    /// A refresh token does not bring the renewal forward if it had less than a minute left when it came, if it has expired
    /// or been refused since, or if the source did not [look at](crate::FetchContext::refresh_token) the session's refresh
    /// token in the fetch that brought it.
    pub fn renew_before(mut self, margin: Duration) -> Self {
        self.renewal.before = margin;
        self
    }

    /// By how much a renewal may come earlier, at random, so that processes which started together do not renew
    /// together; 5 s by default, and never more than the margin. Zero makes it exact.
    pub fn renewal_jitter(mut self, most: Duration) -> Self {
        self.renewal.jitter = most;
        self
    }

    /// Whether requests wait for a renewal; [`RenewalMode::Background`] by default.
    pub fn renewal(mut self, mode: RenewalMode) -> Self {
        self.renewal.mode = mode;
        self
    }

    /// Builds the session: no I/O, no task, and no runtime needed.
    pub fn build(self) -> Session {
        let pulse = watch::Sender::new(());
        let observers = Arc::new(Observers(self.observers));
        let mark = Mark::new();
        let revoker = Arc::new(Revoker {
            revoke: self.revoke,
            limit: self.limits.refresh,
            runtime: self.runtime.clone(),
            mark,
        });
        let calls =
            Calls { store: self.store.into(), timeout: self.store_timeout, lease_wait: self.lease_wait };
        let storage =
            Storage::new(calls, pulse.clone(), observers.clone(), revoker.clone(), self.runtime.clone());
        Session::of(Arc::new(Engine {
            cell: ArcSwapOption::empty(),
            slot: Mutex::new(Slot::new(SessionId::random())),
            clock: self.clock,
            placement: self.placement,
            source: self.source,
            storage: Arc::new(storage),
            observers,
            revoker,
            limits: self.limits,
            renewal: self.renewal,
            runtime: self.runtime,
            mark,
            last_change: AtomicU64::new(0),
            pulse,
            follower: TaskPerRuntime::default(),
        }))
    }
}

fn positive(limit: Duration, otherwise: &'static str) -> Result<Duration, Error> {
    Error::require(!limit.is_zero(), otherwise).map(|()| limit)
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
