//! One identity's token: who holds it, who gets the next one, who waits.
//!
//! ```
//! use tower_token_refresh::{FetchContext, FetchError, Session, Token, source_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::builder(source_fn(|_: FetchContext| async {
//!     Ok::<_, FetchError>(Token::new("from-the-authority"))
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
mod backoff;
mod builder;
mod changes;
mod engine;
mod flight;
mod issued;
mod kernel;
mod storage;
mod transaction;

use std::{fmt, sync::Arc};

use futures_util::future::{Either, select};

use self::storage::Written;
pub(crate) use self::{
    acquire::{Acquire, Denied},
    engine::Engine,
    issued::Issued,
    kernel::Ask,
};
pub use self::{
    builder::SessionBuilder,
    changes::{Changes, State},
};
use crate::{
    error::{Error, ErrorKind},
    reentry,
    source::TokenSource,
    time::timer,
    token::Token,
};

/// One identity's token, shared by all clones and by all layers made from them.
///
/// Also a request extension: a request that carries a `Session` uses that one instead of its layer's, so that one
/// stack can serve many identities.
///
/// All methods may be called at any time, from any task. Dropping their futures never cancels a refresh or a save.
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

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The present token, or the one that the refresh in progress, or a new one, brings.
    ///
    /// # Errors
    ///
    /// Why there is none: see [`ErrorKind`].
    pub async fn token(&self) -> Result<Token, Error> {
        self.acquire(Ask::Need).await
    }

    /// Gets a new token, whatever the present one is. Joins the refresh in progress, if there is one.
    ///
    /// # Errors
    ///
    /// Always reports a failure, also when the present token is still good. After a failed refresh the remembered
    /// error is returned until its cooling is over.
    pub async fn refresh(&self) -> Result<Token, Error> {
        self.acquire(Ask::Force).await
    }

    /// Another identity has logged in, with this token. Whoever still waits for the identity before gets
    /// `SessionChanged`, and a refresh of that one changes nothing any more.
    ///
    /// # Errors
    ///
    /// `Encode` for a token that cannot be sent; nothing has changed then. `Store` or `NoRuntime` if the token is in
    /// use but was not saved; that is tried again with the next refresh.
    pub async fn login(&self, token: Token) -> Result<(), Error> {
        let token = self.engine.sendable(token)?;
        let written = self.engine.login(token).await;
        self.save(written).await
    }

    /// The same identity has got a new token elsewhere. It is used from now on; a refresh in progress loses, and its
    /// waiters go on with this token. Clears what an earlier failure left. A token without a refresh token keeps the one
    /// before.
    ///
    /// # Errors
    ///
    /// As [`login`](Self::login), and `SessionEnded` after a logout.
    pub async fn replace(&self, token: Token) -> Result<(), Error> {
        let token = self.engine.sendable(token)?;
        let written = self.engine.replace(token).await?;
        self.save(written).await
    }

    /// Forgets the token, here and in the store. A refresh in progress does not bring it back; its waiters get
    /// `SessionEnded` at once. No source logs in by itself afterwards in this process, until [`login`](Self::login); a
    /// session that is built later finds nothing in the store and begins anew.
    ///
    /// # Errors
    ///
    /// `Store` or `NoRuntime` if the logout is not in the store; it holds in this process all the same.
    pub async fn logout(&self) -> Result<(), Error> {
        let written = self.engine.logout().await;
        self.save(written).await
    }

    /// Follows what the session does.
    pub fn subscribe(&self) -> Changes {
        Changes::of(&self.engine)
    }

    /// Waits until no refresh is on and everything is saved, for the end of a process. Bounded by the time that a
    /// refresh may take before it is given up.
    ///
    /// # Errors
    ///
    /// `Timeout` when that time is over, `Store` if the last save failed, `Reentrant` inside a source of this session.
    pub async fn settle(&self) -> Result<(), Error> {
        if self.engine.mark().is_around_us() {
            return Err(reentry::error());
        }
        let bound = std::pin::pin!(timer(self.engine.time_to_settle())?);
        match select(std::pin::pin!(self.engine.settle()), bound).await {
            Either::Left((settled, _)) => settled,
            Either::Right(_) => Err(Error::new(ErrorKind::Timeout, "the session did not settle in time")),
        }
    }

    async fn acquire(&self, ask: Ask) -> Result<Token, Error> {
        Ok(Acquire::new(self.engine.clone(), ask).await?.token().clone())
    }

    /// Waits for a write that a change has put into the queue.
    async fn save(&self, written: Written) -> Result<(), Error> {
        let Some(runtime) = self.engine.runtime() else {
            return Err(Error::new(
                ErrorKind::NoRuntime,
                "the change holds, but there is no tokio runtime to save it on",
            ));
        };
        self.engine.save(&runtime, written).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
