//! Where tokens come from.
//!
//! A [`TokenSource`] asks the authority once per call; everything around it (one call at a time, sharing the result,
//! cooling down, saving) is the session's work. The shortest source is a closure:
//!
//! ```
//! use std::time::Duration;
//! use tower_token_refresh::{FetchContext, Session, Token, source_fn};
//!
//! let session = Session::builder(source_fn(|cx: FetchContext| async move {
//!     let _old = cx.refresh_token();
//!     Ok(Token::new("fresh").expires_in(Duration::from_secs(7200)))
//! }))
//! .build();
//! # let _ = session;
//! ```
//!
//! With the feature `json` there are sources that speak to an authority over any HTTP client: `Password` and
//! `LoginCode` (see `login`), and the grants of OAuth 2 (see `oauth2`). They are chained by
//! [`or_else`](TokenSource::or_else).

#[cfg(feature = "json")]
mod app;
mod chain;
#[cfg(feature = "json")]
mod credentials;
mod error;
#[cfg(feature = "json")]
pub mod login;
#[cfg(feature = "json")]
pub mod oauth2;
#[cfg(feature = "json")]
mod refused;
#[cfg(feature = "json")]
pub(crate) mod wire;

use std::{fmt, future::Future, pin::Pin};

#[cfg(feature = "json")]
pub use self::{
    app::AppToken,
    credentials::Credentials,
    login::{LoginCode, Password},
    wire::{AuthorityClient, AuthorityError, Content, Failed, JsonAnswer},
};
pub use self::{
    chain::OrElse,
    error::{FailureClass, FetchError},
};
use http::Request;

use crate::{
    reentry::Mark,
    secret::Secret,
    token::{OptionalSecret, Token, given},
};

/// Asks an authority for tokens.
pub trait TokenSource: Send + Sync + 'static {
    /// Asks the authority for a token, once.
    ///
    /// # Cancel safety
    ///
    /// The session runs the future in a task of its own and drops it only at `abandon_after`, when the runtime shuts
    /// down, or when a [`Session::replace`](crate::Session::replace) has made it needless; no caller's cancellation
    /// reaches it.
    fn fetch(&self, cx: FetchContext) -> impl Future<Output = Result<Token, FetchError>> + Send;

    /// Asks the authority whether a stored token is still good, when the session starts. Says
    /// [`Unknown`](Verification::Unknown) unless it is overridden.
    fn verify(&self, token: &Token) -> impl Future<Output = Verification> + Send {
        let _ = token;
        std::future::ready(Verification::Unknown)
    }

    /// Asks `next` in the same fetch when the authority has refused what this source has, or when it has nothing:
    /// a refresh token first, a login where that is dead. No other failure asks for a login.
    ///
    /// The session hears of the last failure only. If this source has been refused its refresh token and `next` fails for the
    /// moment, the next fetch brings the same refresh token. Sources of this crate remember what was refused and do not
    /// present it again; one of your own has to do that itself (RFC 9700 §4.14.2: an authority may take it for a replay).
    fn or_else<S: TokenSource>(self, next: S) -> OrElse<Self, S>
    where
        Self: Sized,
    {
        OrElse::new(self, next)
    }
}

/// What an authority says of a stored token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verification {
    /// It is good.
    Valid,
    /// It is not: a new one is fetched.
    Invalid,
    /// It did not say (no such question, no answer, a failure of its own): the token is kept, requests will show.
    Unknown,
}

/// What a source may want to know about the fetch.
#[derive(Clone, Debug)]
pub struct FetchContext {
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) cause: Cause,
    pub(crate) fruitless: u32,
    pub(crate) mark: Mark,
    /// How often somebody has said that there are other credentials, for sources that remember which were refused.
    #[cfg(feature = "json")]
    pub(crate) changes: u64,
    /// Whether this fetch has asked already, without the refresh token.
    #[cfg(feature = "json")]
    pub(crate) has_asked: bool,
}

/// Why a token is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// There is no token.
    Absent,
    /// The token has expired by one of the clocks.
    Expired,
    /// The resource server did not accept the token.
    Refused,
    /// The token is about to expire.
    Renewal,
    /// Somebody asked for a new one ([`Session::refresh`](crate::Session::refresh)).
    Forced,
}

impl FetchContext {
    /// A context as a session makes it that has no refresh token, to call a source without one in a test of its own:
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_token_refresh::{FetchContext, FetchError, Token, TokenSource, source::{Cause, FailureClass}, source_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), FetchError> {
    /// let source = source_fn(|cx: FetchContext| async move {
    ///     let Some(refresh) = cx.refresh_token() else {
    ///         return Err(FetchError::login_required("nobody has logged in"));
    ///     };
    ///     Ok(Token::new(format!("made with {}", refresh.expose())).expires_in(Duration::from_secs(7200)))
    /// });
    ///
    /// let failure = source.fetch(FetchContext::new(Cause::Absent)).await.unwrap_err();
    /// assert_eq!(failure.class(), FailureClass::LoginRequired);
    ///
    /// let token = source.fetch(FetchContext::new(Cause::Refused).with_refresh_token("r1")).await?;
    /// assert_eq!(token.access().expose(), "made with r1");
    /// assert_eq!(token.lifetime(), Some(Duration::from_secs(7200)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(cause: Cause) -> Self {
        FetchContext {
            refresh_token: None,
            cause,
            fruitless: 0,
            mark: Mark::new(),
            #[cfg(feature = "json")]
            changes: 0,
            #[cfg(feature = "json")]
            has_asked: false,
        }
    }

    /// The same, with the refresh token of a session, if it has one. An empty one is none.
    #[must_use]
    pub fn with_refresh_token(mut self, refresh: impl OptionalSecret) -> Self {
        self.refresh_token = given(refresh);
        self
    }

    /// The same, after this many [fruitless](Self::fruitless) refreshes.
    #[must_use]
    pub fn with_fruitless(mut self, refreshes: u32) -> Self {
        self.fruitless = refreshes;
        self
    }

    /// The refresh token of the present session, if there is one that was not refused. One that is dead by our clock is
    /// left out at first. If the source says that a [login is required](FetchError::login_required) without it, unless
    /// [finally](FetchError::without_fallback), it is asked once more, with it, because a clock may be wrong. Sources of
    /// this crate that log in do not ask for credentials again then; one of your own that has been asked without a refresh
    /// token just before may do the same.
    ///
    /// Of a refusal the session knows when a fetch ends with it. Where another source is asked [next](TokenSource::or_else)
    /// and fails for the moment, the source that was refused has to remember that itself, as those of this crate do.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }

    /// Goes on, unless this fetch has asked before: for a source that presents something else than the refresh token.
    #[cfg(feature = "json")]
    pub(crate) fn wants_credentials(&self) -> Result<(), FetchError> {
        if self.has_asked {
            return Err(FetchError::login_required("no other credentials were wanted").not_processed());
        }
        Ok(())
    }

    /// Why the session asks.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Marks a request as sent by this fetch. If it reaches the layer that this source serves, by whatever queue or
    /// task, it fails at once instead of waiting for the fetch that waits for it.
    pub fn mark<B>(&self, request: &mut Request<B>) {
        request.extensions_mut().insert(self.mark);
    }

    /// How many refreshes in a row brought a token that was refused again: to the request which asked for it, or, where
    /// that could not be sent again, to any other within half a minute.
    pub fn fruitless(&self) -> u32 {
        self.fruitless
    }
}

/// Makes a source of a closure that returns a future.
pub fn source_fn<F, Fut>(fetch: F) -> SourceFn<F>
where
    F: Fn(FetchContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token, FetchError>> + Send,
{
    SourceFn { fetch }
}

/// The source made by [`source_fn`].
#[derive(Clone)]
pub struct SourceFn<F> {
    fetch: F,
}

impl<F, Fut> TokenSource for SourceFn<F>
where
    F: Fn(FetchContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token, FetchError>> + Send,
{
    fn fetch(&self, cx: FetchContext) -> impl Future<Output = Result<Token, FetchError>> + Send {
        (self.fetch)(cx)
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFn").finish_non_exhaustive()
    }
}

/// The object-safe face of [`TokenSource`].
pub(crate) trait DynTokenSource: Send + Sync {
    fn fetch(&self, cx: FetchContext) -> Answer<'_, Result<Token, FetchError>>;
    fn verify<'a>(&'a self, token: &'a Token) -> Answer<'a, Verification>;
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<T: TokenSource> DynTokenSource for T {
    fn fetch(&self, cx: FetchContext) -> Answer<'_, Result<Token, FetchError>> {
        Box::pin(TokenSource::fetch(self, cx))
    }

    fn verify<'a>(&'a self, token: &'a Token) -> Answer<'a, Verification> {
        Box::pin(TokenSource::verify(self, token))
    }
}
