use std::{fmt, time::Duration};

#[cfg(feature = "json")]
use super::AuthorityError;
use crate::{
    error::{BoxError, Error, ErrorKind},
    secret::Secret,
};

/// Why a fetch brought no token.
///
/// Any `std::error::Error` turns into a *transient* failure with `?`; a boxed error, which is none itself, needs
/// `.map_err(FetchError::transient)`. Only an explicit [`login_required`](Self::login_required) ends the session.
///
/// ```
/// use tower_token_refresh::FetchError;
///
/// fn parse(answer: &str) -> Result<u64, FetchError> {
///     if answer == "invalid_grant" {
///         return Err(FetchError::login_required("the refresh token was revoked"));
///     }
///     Ok(answer.parse()?)
/// }
/// # assert!(parse("x").is_err());
/// ```
///
/// A source may ask another session for its token, and turn that session's [`Error`] into one of these by `?`. Callers then
/// see the kind of that error and its `retry_after`; but transient errors, `NoRuntime` and `SessionChanged` of the other
/// session are all shown as `Transient`. No error of the other session ends this one: it cools down and asks again, and so
/// goes on by itself once somebody has logged in to the other session, as whoever that is. The other session's refresh
/// token comes with its token. This session would store it, and have it revoked at a logout: leave it out by
/// [`Token::without_refresh_token`](crate::Token::without_refresh_token).
///
/// The other session does not hear that its token was refused here: ask it for a new one then, unless it has another one
/// already. Nor does it say whose token that is: whoever logs in or out there has to log in or out here, too. Otherwise a
/// request that was refused as one user is sent again as another.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use tower_token_refresh::{FetchContext, Session, Token, source::Cause, source_fn};
///
/// fn behind(other: Session) -> Session {
///     let given: Arc<Mutex<Option<Token>>> = Arc::default();
///     let source = source_fn(move |cx: FetchContext| {
///         let (other, given) = (other.clone(), given.clone());
///         async move {
///             let mut token = other.token().await?;
///             let is_given = |given: &Token| given.access().expose() == token.access().expose();
///             let is_known = given.lock().unwrap().as_ref().is_none_or(is_given);
///             if is_known && matches!(cx.cause(), Cause::Refused | Cause::Forced) {
///                 token = other.refresh().await?;
///             }
///             *given.lock().unwrap() = Some(token.clone());
///             Ok(token.without_refresh_token())
///         }
///     });
///     Session::builder(source).build()
/// }
/// # let _ = behind;
/// ```
///
/// A `FetchError` is no `std::error::Error` itself, because `?` makes each of those a transient failure. Code that calls a
/// source gets a [`BoxError`] by `?`, and in it the [`Error`] that callers of a session would get:
///
/// ```
/// use tower_token_refresh::{BoxError, Error, FetchContext, FetchError, TokenSource, source::Cause, source_fn};
///
/// async fn try_out(source: impl TokenSource) -> Result<String, BoxError> {
///     let token = source.fetch(FetchContext::new(Cause::Absent)).await?;
///     Ok(token.access().expose().to_owned())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let nobody = source_fn(|_| async { Err(FetchError::login_required("nobody has logged in")) });
/// let error = try_out(nobody).await.unwrap_err();
/// assert!(Error::find(&*error).is_some_and(Error::is_login_required));
/// assert_eq!(error.source().unwrap().to_string(), "nobody has logged in");
/// # }
/// ```
pub struct FetchError {
    class: FailureClass,
    cause: BoxError,
    retry_after: Option<Duration>,
    is_final: bool,
    /// The authority has not looked at what was presented: nothing was sent, or it said so.
    pub(crate) was_not_processed: bool,
    /// A refresh token that has come all the same: the one that was presented is spent.
    pub(crate) refresh_token: Option<Secret>,
}

#[cfg(feature = "json")]
pub(super) const BETWEEN_PASSWORDS: Duration = Duration::from_secs(5 * 60);

/// What a [`FetchError`] means for the session: which of its constructors made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// [`FetchError::transient`].
    Transient,
    /// [`FetchError::unanswered`].
    Unanswered,
    /// [`FetchError::ambiguous`].
    Ambiguous,
    /// [`FetchError::configuration`].
    Configuration,
    /// [`FetchError::login_required`].
    LoginRequired,
}

impl FetchError {
    /// The authority could not be asked, or said that it did not process the request (a connection that failed, 429,
    /// 503). The session is kept and tries again under back-off, without limit.
    #[must_use = "a fetch fails by returning it"]
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        FetchError {
            class: FailureClass::Transient,
            cause: cause.into(),
            retry_after: None,
            is_final: false,
            was_not_processed: false,
            refresh_token: None,
        }
    }

    /// The request was sent and no complete answer came: a refresh token may have been spent. The session is kept;
    /// it looks into its store and tries again, not before half a minute has passed.
    #[must_use = "a fetch fails by returning it"]
    pub fn unanswered(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::Unanswered, ..Self::transient(cause) }
    }

    /// The authority refused without saying why in a way that can be relied upon (a 403 page of a proxy, say). The
    /// session is kept; after three of these, five minutes apart at least, it is *stalled* and asks rarely.
    #[must_use = "a fetch fails by returning it"]
    pub fn ambiguous(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::Ambiguous, ..Self::transient(cause) }
    }

    /// The authority refuses this client or the request as such (`invalid_client`, `invalid_scope` …). The session
    /// is kept and cools down.
    #[must_use = "a fetch fails by returning it"]
    pub fn configuration(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::Configuration, ..Self::transient(cause) }
    }

    /// The authority said that the grant or the credentials are not good (any more): `invalid_grant`, a wrong
    /// password. The next source of a chain is asked; where there is none, nothing is fetched until somebody logs in.
    #[must_use = "a fetch fails by returning it"]
    pub fn login_required(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::LoginRequired, ..Self::transient(cause) }
    }

    /// Makes a chain of sources stop here: the account is blocked, or a person has to do something.
    #[must_use]
    pub fn without_fallback(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// Asks for at least this much time before the next fetch (the authority's `Retry-After`); at most ten minutes are
    /// granted.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_token_refresh::{BoxError, Error, FetchError};
    ///
    /// let busy: BoxError = FetchError::transient("busy").retry_after(Duration::from_secs(30)).into();
    /// assert_eq!(Error::find(&*busy).and_then(Error::retry_after), Some(Duration::from_secs(30)));
    /// ```
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same failure of a login with a password: an answer that may have been a refusal is not asked for again before it
    /// would count as another strike, because presenting a password over and over locks accounts.
    #[cfg(feature = "json")]
    pub(super) fn of_a_password(mut self) -> Self {
        if self.class == FailureClass::Ambiguous {
            self.retry_after = self.retry_after.max(Some(BETWEEN_PASSWORDS));
        }
        self
    }

    #[cfg(feature = "json")]
    pub(super) fn not_processed(mut self) -> Self {
        self.was_not_processed = true;
        self
    }

    #[cfg(feature = "json")]
    pub(super) fn with_refresh_token(mut self, refresh_token: Option<Secret>) -> Self {
        self.refresh_token = refresh_token;
        self
    }

    /// What the user makes of it. What the authority has said and done does not depend on that.
    #[cfg(feature = "json")]
    pub(super) fn reclassified_as(self, other: FetchError) -> Self {
        let cause = match self.cause.downcast::<AuthorityError>() {
            Ok(answer) => answer.with_meaning(other.cause).into(),
            Err(_of_the_client) => other.cause,
        };
        FetchError {
            cause,
            retry_after: other.retry_after.or(self.retry_after),
            was_not_processed: self.was_not_processed,
            refresh_token: self.refresh_token,
            ..other
        }
    }

    /// What it means for the session.
    pub fn class(&self) -> FailureClass {
        self.class
    }

    /// What went wrong, as it was supplied.
    pub fn cause(&self) -> &(dyn std::error::Error + 'static) {
        &*self.cause
    }

    /// Whether the next source of a chain may be asked.
    pub fn allows_fallback(&self) -> bool {
        self.class == FailureClass::LoginRequired && !self.is_final
    }

    /// The same failure as callers see it.
    pub(crate) fn into_error(self) -> Error {
        let inner = Error::find(&*self.cause).cloned();
        let retry_after = self.retry_after.or(inner.as_ref().and_then(Error::retry_after));
        match inner {
            // A mistake in the program: nobody is to be told to try again.
            Some(error) if error.kind() == ErrorKind::Reentrant => return error,
            // What the authority has said itself is told; the session of a gateway is only behind it.
            #[cfg(feature = "json")]
            Some(_) if self.cause.is::<AuthorityError>() => {}
            // Another session's, and nothing else was said: whoever is to log in there has to hear of it. Not that it had no
            // runtime, or that somebody else has logged in there: ours has one, and cools down.
            Some(error)
                if self.class == FailureClass::Transient
                    && !error.is_transient()
                    && !matches!(error.kind(), ErrorKind::NoRuntime | ErrorKind::SessionChanged) =>
            {
                return error.of_fetch_behind(self.cause, retry_after);
            }
            _ => {}
        }
        let (kind, message) = match self.class {
            FailureClass::Transient | FailureClass::Unanswered | FailureClass::Ambiguous => {
                (ErrorKind::Transient, "no new token could be had for now")
            }
            #[cfg(feature = "json")]
            FailureClass::Configuration
                if self.was_not_processed && AuthorityError::find(&*self.cause).is_none() =>
            {
                (ErrorKind::Configuration, "the authority cannot be asked as it is configured")
            }
            FailureClass::Configuration => (ErrorKind::Configuration, "the authority refuses this client"),
            FailureClass::LoginRequired => {
                let message = "a login is required: there is nothing left to get a token with";
                (ErrorKind::LoginRequired, message)
            }
        };
        Error::of_fetch(kind, message, self.cause, retry_after)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for FetchError {
    fn from(cause: E) -> Self {
        FetchError::transient(cause)
    }
}

impl From<FetchError> for BoxError {
    fn from(failure: FetchError) -> Self {
        failure.into_error().into()
    }
}

impl fmt::Debug for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchError").field("class", &self.class).finish_non_exhaustive()
    }
}
