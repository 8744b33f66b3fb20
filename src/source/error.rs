use std::{fmt, time::Duration};

use crate::error::{BoxError, Error, ErrorKind};

/// Why a fetch brought no token.
///
/// Any `std::error::Error` turns into a *transient* failure with `?`; what only derefs to one (a boxed error) does by
/// `.map_err(FetchError::transient)`. An end of the session is always said explicitly.
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
pub struct FetchError {
    class: FailureClass,
    cause: BoxError,
    retry_after: Option<Duration>,
}

/// What a failure means for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureClass {
    Transient,
    Configuration,
    LoginRequired,
}

impl FetchError {
    /// The authority could not be asked, or did not answer in full. The session is kept and tries again under
    /// back-off.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::Transient, cause: cause.into(), retry_after: None }
    }

    /// The authority refuses this client or the request as such (`invalid_client`, `invalid_scope` …). The session
    /// is kept and cools down.
    pub fn configuration(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::Configuration, ..Self::transient(cause) }
    }

    /// The authority said that the grant is over (`invalid_grant`, wrong password …): no further fetch until
    /// somebody logs in.
    pub fn login_required(cause: impl Into<BoxError>) -> Self {
        FetchError { class: FailureClass::LoginRequired, ..Self::transient(cause) }
    }

    /// Asks for at least this much time before the next fetch (the authority's `Retry-After`); ten minutes at most
    /// are granted.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn class(&self) -> FailureClass {
        self.class
    }

    /// The same failure as callers see it.
    pub(crate) fn into_error(self) -> Error {
        let (kind, message) = match self.class {
            FailureClass::Transient => (ErrorKind::Transient, "no new token could be had for now"),
            FailureClass::Configuration => (ErrorKind::Configuration, "the authority refuses this client"),
            FailureClass::LoginRequired => {
                (ErrorKind::LoginRequired, "the session is over: a login is required")
            }
        };
        Error::of_fetch(kind, message, self.cause, self.retry_after)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for FetchError {
    fn from(cause: E) -> Self {
        FetchError::transient(cause)
    }
}

impl fmt::Debug for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchError").field("class", &self.class).finish_non_exhaustive()
    }
}
