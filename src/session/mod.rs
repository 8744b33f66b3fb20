//! One identity's token: who holds it, who gets the next one, who waits.
//!
//! ```
//! use tower_token_refresh::{Session, Token, source_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::builder(source_fn(|_| async {
//!     Ok(Token::new("from-the-authority"))
//! }))
//! .build();
//! assert_eq!(session.token().await?.access().expose(), "from-the-authority");
//!
//! session.logout().await?;
//! assert!(session.token().await.unwrap_err().is_login_required());
//! # Ok(())
//! # }
//! ```

mod acquire;
mod ask;
mod backoff;
mod builder;
mod changes;
mod damper;
mod engine;
mod flight;
mod issued;
mod keep_fresh;
mod kernel;
mod lease;
#[cfg(all(test, token_refresh_loom))]
mod models;
mod presented;
mod record_head;
mod reload;
mod renewal;
mod reread;
mod revoker;
mod seats;
mod settle;
mod siblings;
mod slot_guard;
mod storage;
mod task_per_runtime;
mod transaction;
mod verify;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use self::{acquire::renew_what_is_due, issued::Provenance, storage::PendingWrite};
pub(crate) use self::{
    acquire::{Acquire, Denied, at_hand},
    ask::Ask,
    damper::Target,
    engine::Engine,
    issued::Issued,
};
pub use self::{
    builder::SessionBuilder,
    changes::{Changes, State},
    renewal::RenewalMode,
};
use crate::{error::Error, reentry, source::TokenSource, token::Token};

/// One identity's token, shared by all clones and by all layers made from them.
///
/// Also a request extension: a request that carries a `Session` uses that one instead of its layer's, so one stack can
/// serve many identities. A request that has lost its extensions on the way (to a follower of redirects, say) is sent with
/// the layer's.
///
/// ```
/// # use tower_token_refresh::{Session, Token, source_fn};
/// # let alice = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
/// // Sent with Alice's token, whatever session the layer has:
/// let request = http::Request::get("https://api.example.com/me").extension(alice.clone()).body(())?;
/// # let _ = request;
/// # Ok::<_, http::Error>(())
/// ```
///
/// All methods may be called at any time, from any task. Dropping their futures never cancels a refresh or a save. A wait
/// for one refresh ends at [`refresh_timeout`](SessionBuilder::refresh_timeout), 30 s by default; if a login or a
/// [`replace`](Self::replace) comes between, or the refresh has only found a stored token that does not do, the call may
/// wait for the next refresh as well. [`settle`](Self::settle) has a limit of its own.
///
/// # Security
///
/// A request loses its extensions easily: redirect followers may drop them on the way to another origin, and so may any code
/// that builds the request anew. The request then goes out with the layer's own session. Where each request brings its
/// session, give the layer a session whose source always fails with
/// [`FetchError::login_required`](crate::FetchError::login_required): a request that has lost its own then fails, instead
/// of being sent as somebody else.
///
/// The session on a request takes the place of the session of *every* layer that the request comes through, so its token is
/// shown in the scopes of all of them. axum's `Extension` and tower-http's `AddExtension` put a `Session` on requests, too:
/// a gateway that forwards incoming requests keeps its sessions elsewhere, in axum's `State`, say.
#[derive(Clone)]
pub struct Session {
    engine: Arc<Engine>,
}

impl Session {
    /// Starts to build a session whose tokens come from `source`.
    pub fn builder(source: impl TokenSource) -> SessionBuilder {
        SessionBuilder::new(source)
    }

    pub(crate) fn of(engine: Arc<Engine>) -> Self {
        Session { engine }
    }

    #[inline]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Gets the session going: takes the token that is stored, or fetches one where there is none. Optional, because the
    /// first request does the same.
    ///
    /// A stored token is then [verified](TokenSource::verify) in the background: once, however many callers start the
    /// session, and again at a later start if there was no answer. A token that the authority calls invalid is replaced as
    /// if a server had refused it. On any other outcome the token is kept, and the next requests show whether it is good.
    ///
    /// # Errors
    ///
    /// Why no token could be had. The session is then as after any failed refresh: if a login is required it waits for one,
    /// otherwise it cools down, and a request tries again after that.
    pub async fn start(&self) -> Result<(), Error> {
        let issued = self.acquire(Ask::Need).await?;
        if let Some(claim) = issued.claim_verification() {
            verify::in_background(&self.engine, claim);
        }
        Ok(())
    }

    /// Whether this is the only handle: nobody uses the session, nobody waits for it, and no refresh is in progress.
    #[cfg(feature = "session-map")]
    pub(crate) fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.engine) == 1
    }

    /// Whether all that the session has is in its store.
    #[cfg(feature = "session-map")]
    pub(crate) fn is_saved(&self) -> bool {
        self.engine.storage.check_settled()
    }

    /// The current token. If there is none to use, waits for the refresh in progress, or starts one.
    ///
    /// # Errors
    ///
    /// Why there is none: see [`ErrorKind`](crate::ErrorKind).
    pub async fn token(&self) -> Result<Token, Error> {
        if let Some(token) = at_hand(&self.engine, |issued| Some(issued.token().clone())) {
            return Ok(token);
        }
        Ok(self.acquire(self.engine.first_ask()).await?.token().clone())
    }

    /// A token that is valid for at least `time`, for use outside of HTTP requests: the current one, or else the result of
    /// one refresh, even if that result is valid for less. A token whose whole life is shorter than `time` is not refreshed
    /// for this, because its successor would live no longer. If the current token is good enough but
    /// [due](SessionBuilder::renew_before), it is renewed in the background; not with [`RenewalMode::Off`].
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token). A failed refresh is not an error as long as the current token has not expired.
    pub async fn token_valid_for(&self, time: Duration) -> Result<Token, Error> {
        renew_what_is_due(&self.engine);
        Ok(self.acquire(Ask::ValidFor(time)).await?.token().clone())
    }

    /// Gets a new token, whatever the current one is. Joins the refresh in progress, if there is one.
    ///
    /// # Errors
    ///
    /// A failure is always reported, also when the current token is still good. After a failed refresh the remembered
    /// error is returned until its cooling is over.
    pub async fn refresh(&self) -> Result<Token, Error> {
        Ok(self.acquire(Ask::Force).await?.token().clone())
    }

    /// Another identity has logged in, with this token. A request that was refused as the old identity gets its refused
    /// response, with `SessionChanged` as the [`RefreshFailure`](crate::RefreshFailure). A request that has sent nothing
    /// yet goes out as the new identity, and a call of [`token`](Self::token) or [`refresh`](Self::refresh) that waits gets
    /// the new identity's token, too. A refresh of the old identity changes nothing any more, with one exception: if it is
    /// already spending this login's refresh token, no other refresh starts beside it, and the login gets the next refresh
    /// token from it.
    ///
    /// A source that logs in by itself has to log in this identity from now on: the session takes whatever the source
    /// brings for a token of the same identity.
    ///
    /// Log in once with each refresh token, and in one of the sessions that share a store: a login that comes again later
    /// brings back what has been spent meanwhile.
    ///
    /// With a token that was made by [`from_refresh_token`](Token::from_refresh_token) the authority is not asked here. The
    /// first request, or call of [`token`](Self::token), asks it, and shows whether the refresh token is good.
    ///
    /// It waits until the login is saved, at most four times [`store_timeout`](SessionBuilder::store_timeout): 20 s by
    /// default.
    ///
    /// # Cancel safety
    ///
    /// The change is made by the first poll. From that moment on the login holds, and is saved, whether or not the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for a token that cannot be sent; nothing has changed then. `Store` or `NoRuntime` if the token is in
    /// use but was not saved; the save is tried again under back-off. The result is `Ok` if another login, replacement,
    /// logout or refresh has superseded this login before it was saved: the other call reports its own result, and a
    /// refresh reports a failed save only by an [event](crate::event::Event::StoreFailed).
    ///
    /// Do not repeat the call after `Store` or `NoRuntime`: a refresh may have spent this login's refresh token meanwhile,
    /// and a second login would bring it back.
    pub async fn login(&self, token: Token) -> Result<(), Error> {
        let provenance = Provenance::of_login(&token);
        let token = self.engine.sendable(token, provenance)?;
        let written = self.engine.login(token);
        self.save(written).await
    }

    /// The same identity has got a new token elsewhere, which is used from now on. The result of a refresh in progress is
    /// dropped, and its waiters go on with this token. Earlier failures are forgotten.
    ///
    /// A token that comes without a refresh token keeps the session's, and its end unless it says another one. So does one
    /// with the session's own refresh token, or with one of the last 16 that refreshes have spent, which is out of date:
    ///
    /// 1. If a refresh in progress is spending that refresh token, the refresh goes on to its end, however late, and the
    ///    session gets the next refresh token from it.
    /// 2. If the session has not looked for a token yet, the stored refresh token is kept, and the store is read first.
    /// 3. The new token is not saved while the store cannot be read: somebody who shares the store may have put a later
    ///    refresh token there. The same applies to a token that comes with the very refresh token that is stored.
    ///
    /// None of this applies to a token made by [`without_refresh_token`](Token::without_refresh_token).
    ///
    /// A refresh token that this session has spent before its process was started again, or that another one on the same store
    /// has spent unseen, is not known to be out of date. Bring each refresh token once, and to one of the sessions.
    ///
    /// A session that has not looked into a shared store yet does not know whose session is there: where the token brings a
    /// refresh token, or was made by `without_refresh_token`, the others on that store take this for a login. Call
    /// [`start`](Self::start) before.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it reads the store, nothing has changed. If it is dropped later, the token is in use,
    /// and is saved all the same. It waits for the save as long as [`login`](Self::login) does, and before that for one
    /// call of the store, if the store has to be read.
    ///
    /// # Errors
    ///
    /// As [`login`](Self::login). Where the store has to be read first, `Store` and `NoRuntime` may also mean that it could
    /// not be read, and that nothing has changed. The kind does not tell these cases apart; the call may be repeated in
    /// both, if its token is still the newest. A call whose token brings a refresh token never has to read, and must not be
    /// repeated: a refresh may have spent that refresh token meanwhile. `SessionEnded` after a logout, and `SessionChanged`
    /// if somebody has logged in while the call waited for the store.
    pub async fn replace(&self, token: Token) -> Result<(), Error> {
        let provenance = Provenance::of_brought(&token);
        let token = self.engine.sendable(token, provenance)?;
        let written = self.engine.replace(token).await?;
        self.save(written).await
    }

    /// Forgets the token, here and in the store. A refresh in progress does not bring it back; its waiters get
    /// `SessionEnded` at once. From then on no source logs in by itself in this process, until [`login`](Self::login) is
    /// called. A session that is built later finds nothing in the store and begins anew.
    ///
    /// It waits until the logout is saved, at most four times [`store_timeout`](SessionBuilder::store_timeout): 20 s by
    /// default.
    ///
    /// # Cancel safety
    ///
    /// The change is made by the first poll. From that moment on the logout holds, and is saved, whether or not the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// `Store` or `NoRuntime` if the logout is not in the store; it holds in this process all the same, and is saved later
    /// unless somebody has logged in elsewhere by then. The result is `Ok` if a login has superseded the logout before it
    /// was saved: the login reports its own result.
    pub async fn logout(&self) -> Result<(), Error> {
        let written = self.engine.logout();
        self.save(written).await
    }

    /// Says that the source has other credentials now, or that the old ones are good again. The session forgets which
    /// credentials were refused, so the next request may fetch with any of them. A refresh token that was refused is still
    /// never presented again. A session that was logged out elsewhere looks into the store for a login with the next
    /// request.
    ///
    /// It ends every [wait after a failure](SessionBuilder::cooling), also one that the authority has asked for or that
    /// follows a lost answer: call it when the credentials have changed, not before each attempt.
    ///
    /// If several sessions share a source, call this on each of them. The next fetch of any of them makes the source forget
    /// what was refused, for all of them. But a session that is over stays over until this is called on that session, too.
    pub fn credentials_changed(&self) {
        self.engine.forgive();
    }

    /// Renews the token ahead of its expiry without any traffic, whatever the [`RenewalMode`], until the session is
    /// logged out or gone; twice a second at most, however short tokens live, and after a failure as soon as that has
    /// [cooled down](SessionBuilder::cooling). Without a tokio runtime with time it ends at
    /// once. Fetches the first token as well. After a logout and another login it has to be called anew. Give it a task of
    /// its own, which may be aborted at any time:
    ///
    /// ```
    /// # use tower_token_refresh::{Session, Token, source_fn};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
    /// let keeper = tokio::spawn(session.keep_fresh());
    /// # keeper.abort();
    /// # }
    /// ```
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + use<> {
        keep_fresh::renew_when_due(Arc::downgrade(&self.engine), self.engine.pulse.subscribe())
    }

    /// Follows what the session does.
    pub fn subscribe(&self) -> Changes {
        Changes::of(&self.engine)
    }

    /// Waits until no refresh is in progress and everything is saved, for the end of a process. It waits at most for
    /// [`abandon_after`](SessionBuilder::abandon_after), or `refresh_timeout` if that is longer, plus three times
    /// [`store_timeout`](SessionBuilder::store_timeout): 135 s by default. A process that has less time puts a timeout
    /// around it; dropping the future stops nothing that is under way. It does not wait for a refresh that a login or
    /// logout has made void, nor for [`revoke_with`](SessionBuilder::revoke_with).
    ///
    /// # Errors
    ///
    /// `Timeout` when that time is over; `Store` if the last save failed; `NoRuntime` outside of a runtime, even if the
    /// session is bound to one, or if the runtime that the call waits on goes away; `Reentrant` inside a source of this
    /// session.
    pub async fn settle(&self) -> Result<(), Error> {
        if self.engine.mark().is_around_us() {
            return Err(reentry::error());
        }
        settle::in_time(&self.engine).await
    }

    fn acquire(&self, ask: Ask) -> Acquire {
        Acquire::new(self.engine.clone(), ask)
    }

    /// Waits for a write that a change has put into the queue.
    async fn save(&self, written: PendingWrite) -> Result<(), Error> {
        let missing = "the change holds, but there is no tokio runtime to save it on";
        let runtime = match self.engine.runtime_for_the_store(missing) {
            Ok(runtime) => runtime,
            Err(error) => {
                self.engine.storage.put_off(written);
                return Err(error);
            }
        };
        siblings::follow(&self.engine, &runtime);
        self.engine.save(&runtime, written).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
