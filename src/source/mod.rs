//! Where tokens come from.
//!
//! A [`TokenSource`] asks the authority once per call; everything around it (one call at a time, sharing the result,
//! cooling down, saving) is the session's work. The shortest source is a closure:
//!
//! ```
//! use std::time::Duration;
//! use tower_token_refresh::{FetchContext, Session, Token, source_fn};
//!
//! let session = Session::builder(source_fn(|_: FetchContext| async {
//!     Ok(Token::new("fresh").expires_in(Duration::from_secs(7200)))
//! }))
//! .build();
//! # let _ = session;
//! ```
//!
//! With the feature `json` there are sources that speak to an authority over any HTTP client: `Password`, `LoginCode` and
//! `RefreshToken` (see [`login`](login/index.html)), and the grants of OAuth 2 (see [`oauth2`](oauth2/index.html)). They are
//! chained by [`or_else`](TokenSource::or_else).

#[cfg(feature = "json")]
mod app;
mod chain;
mod context;
#[cfg(feature = "json")]
mod credentials;
mod error;
#[cfg(feature = "json")]
pub mod login;
#[cfg(feature = "json")]
pub mod oauth2;
#[cfg(feature = "json")]
mod own_words;
#[cfg(feature = "json")]
mod refused;
#[cfg(feature = "json")]
mod wire;

use std::{fmt, future::Future, sync::Arc};

use futures_util::future::BoxFuture;

#[cfg(feature = "json")]
pub(crate) use self::own_words::OwnWords;
#[cfg(feature = "json")]
pub use self::{
    app::AppToken,
    credentials::Credentials,
    login::{LoginCode, Password, RefreshToken},
    wire::{AuthorityClient, AuthorityError, Content, FailedCall, JsonAnswer},
};
pub use self::{
    chain::OrElse,
    context::{Cause, FetchContext},
    error::{FailureClass, FetchError},
};
use crate::token::Token;

/// Asks an authority for tokens. An `Arc` of a source is itself a source, so several sessions may share it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no source of tokens",
    note = "a closure from a `FetchContext` to a future is made one by `source_fn(..)`"
)]
pub trait TokenSource: Send + Sync + 'static {
    /// Asks the authority for a token, once.
    ///
    /// # Cancel safety
    ///
    /// The session runs the future in a task of its own and drops it only at `abandon_after`, when the runtime shuts
    /// down, or when a [`Session::replace`](crate::Session::replace) has made it unnecessary; no caller's cancellation
    /// reaches it.
    ///
    /// A login or logout does not end it: what it brings then is dropped, and offered for revocation
    /// ([`revoke_with`](crate::session::SessionBuilder::revoke_with)). If your source keeps a refresh token of its own,
    /// as a cookie in the jar of its client say, give each login another jar, clear it there, and make the call in a task of
    /// its own, because a `replace` drops this future.
    fn fetch(&self, cx: FetchContext) -> impl Future<Output = Result<Token, FetchError>> + Send;

    /// Asks the authority whether a stored token is still good, when the session starts. Says
    /// [`Unknown`](Verification::Unknown) unless it is overridden.
    ///
    /// It runs in a task of its own, and nobody waits for it. At the session's
    /// [`refresh_timeout`](crate::session::SessionBuilder::refresh_timeout) it is dropped; that counts as `Unknown`, and so
    /// does a panic.
    fn verify(&self, token: &Token) -> impl Future<Output = Verification> + Send {
        let _ = token;
        std::future::ready(Verification::Unknown)
    }

    /// Asks `next` in the same fetch when this source fails with [`login_required`](FetchError::login_required): the
    /// authority has refused what this source presents, or it has nothing to present. So a refresh token comes first, and a
    /// login when that token is dead. After any other failure, or one [`without_fallback`](FetchError::without_fallback),
    /// `next` is not asked.
    ///
    /// If this source has [looked at](FetchContext::refresh_token) the refresh token and `next` has not, the token of
    /// `next` counts as another login: it does not keep that refresh token, with or without
    /// [`Token::without_refresh_token`].
    ///
    /// `next` has to log in the user whose session it is, whoever that is after a [`login`](crate::Session::login): a request
    /// that was refused is sent again with what `next` brings.
    ///
    /// The session hears of the last failure only. If the authority has refused this source's refresh token and `next`
    /// fails for the moment, the next fetch brings the same refresh token. Sources of this crate remember what was refused
    /// and do not present it again. A source of your own has to do that itself, because an authority may take a second
    /// attempt for a replay (RFC 9700 §4.14.2).
    ///
    /// ```
    /// use tower_token_refresh::{FetchContext, FetchError, Session, Token, TokenSource, source_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_token_refresh::Error> {
    /// let refresh = source_fn(|cx: FetchContext| async move {
    ///     let Some(refresh_token) = cx.refresh_token() else {
    ///         return Err(FetchError::login_required("there is no refresh token")); // so `login` is asked
    ///     };
    ///     Ok(Token::new(format!("got-with-{}", refresh_token.expose())))
    /// });
    /// let login = source_fn(|_| async { Ok(Token::new("from-a-login").refresh_token("r1")) });
    /// let session = Session::builder(refresh.or_else(login)).build();
    ///
    /// assert_eq!(session.token().await?.access().expose(), "from-a-login");
    /// assert_eq!(session.refresh().await?.access().expose(), "got-with-r1");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    fn or_else<S: TokenSource>(self, next: S) -> OrElse<Self, S>
    where
        Self: Sized,
    {
        OrElse::new(self, next)
    }
}

/// One source for several sessions. A source of this crate remembers for all of them what was refused: the last 1024
/// refresh tokens and the last 16 credentials. When the credentials have changed, say so [to each
/// session](crate::Session::credentials_changed).
impl<T: TokenSource> TokenSource for Arc<T> {
    fn fetch(&self, cx: FetchContext) -> impl Future<Output = Result<Token, FetchError>> + Send {
        T::fetch(self, cx)
    }

    fn verify(&self, token: &Token) -> impl Future<Output = Verification> + Send {
        T::verify(self, token)
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
    /// It did not say (no such question, no answer, a failure of its own): the token is kept, and requests will show.
    Unknown,
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
#[must_use]
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
    fn fetch(&self, cx: FetchContext) -> BoxFuture<'_, Result<Token, FetchError>>;
    fn verify<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Verification>;
}

impl<T: TokenSource> DynTokenSource for T {
    fn fetch(&self, cx: FetchContext) -> BoxFuture<'_, Result<Token, FetchError>> {
        Box::pin(TokenSource::fetch(self, cx))
    }

    fn verify<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Verification> {
        Box::pin(TokenSource::verify(self, token))
    }
}
