//! The one error of the crate.
//!
//! The service's error type is [`BoxError`], as in tower's own middleware: an error of the wrapped service is boxed
//! and downcasts to itself. Ours is [`Error`]; [`Error::find`] gets it out of any
//! chain of causes, and [`Error::of`] out of a result. Where the server has answered before the refresh failed, the
//! result is that answer, and the error is in its extensions.

use std::{error::Error as StdError, fmt, iter, sync::Arc, time::Duration};

/// A boxed error, as in tower.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a token could not be attached, refreshed or changed.
///
/// Cloning is cheap: every waiter of a failed refresh gets the same cause. The text never holds a credential of
/// ours; a cause that a [`TokenSource`](crate::TokenSource) supplies is shown by `source()` only, as it came.
#[derive(Clone)]
pub struct Error(Arc<Repr>);

struct Repr {
    kind: ErrorKind,
    message: &'static str,
    cause: Option<BoxError>,
    retry_after: Option<Duration>,
}

/// The longest `Retry-After` that is granted.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value cannot be used as given: a token with a line break, an origin with a path, a limit of zero.
    InvalidValue,
    /// There is nothing left to get a token with: somebody has to log in.
    LoginRequired,
    /// The authority refuses this client or its request as such, or cannot be asked at the URL that was given; the
    /// session is kept.
    Configuration,
    /// The authority could not be asked or did not answer in full; trying again later may help.
    Transient,
    /// The refresh took longer than `refresh_timeout`; it goes on up to `abandon_after`, and its result will be used. Also
    /// returned while cooling down after a refresh that was given up at `abandon_after`, and by
    /// [`settle`](crate::Session::settle) when its time runs out.
    Timeout,
    /// The authority has refused several times without saying that the session is over; a login is recommended. The session
    /// tries a fetch every 15 minutes, which also finds a login that somebody has made elsewhere on the same store.
    Stalled,
    /// The token store failed.
    Store,
    /// A token source called its own session, or sent a request through the layer that waits for this very source.
    Reentrant,
    /// The token source panicked.
    Panic,
    /// There is no tokio runtime with time enabled to refresh, save or wait on, or it has shut down.
    NoRuntime,
    /// Another identity has logged in while the request was under way.
    SessionChanged,
    /// The session was logged out.
    SessionEnded,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: &'static str) -> Self {
        Error(Arc::new(Repr { kind, message, cause: None, retry_after: None }))
    }

    pub(crate) fn with_cause(kind: ErrorKind, message: &'static str, cause: impl Into<BoxError>) -> Self {
        Error(Arc::new(Repr { kind, message, cause: Some(cause.into()), retry_after: None }))
    }

    /// `InvalidValue`: a value that cannot be used as given.
    pub(crate) fn unfit(message: &'static str) -> Self {
        Error::new(ErrorKind::InvalidValue, message)
    }

    /// `InvalidValue` with this message, unless the value is fit to be used.
    pub(crate) fn require(is_fit: bool, message: &'static str) -> Result<(), Self> {
        if is_fit { Ok(()) } else { Err(Error::unfit(message)) }
    }

    /// A failed fetch, with what the authority said of the next one.
    pub(crate) fn of_fetch(
        kind: ErrorKind,
        message: &'static str,
        cause: BoxError,
        retry_after: Option<Duration>,
    ) -> Self {
        let retry_after = retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER));
        Error(Arc::new(Repr { kind, message, cause: Some(cause), retry_after }))
    }

    /// A failed fetch of a source that has its tokens from another session, of which this is the failure.
    pub(crate) fn of_fetch_behind(&self, cause: BoxError, retry_after: Option<Duration>) -> Self {
        Error::of_fetch(self.0.kind, self.0.message, cause, retry_after)
    }

    /// The same failure, after several that nobody explained.
    pub(crate) fn stalled(self) -> Self {
        let message = "the authority keeps refusing without saying why: a login is recommended";
        let retry_after = self.retry_after();
        Error::of_fetch(ErrorKind::Stalled, message, self.into(), retry_after)
    }

    /// The first of our errors in a chain of causes, the error itself included.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
        causes(error).find_map(|link| link.downcast_ref())
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anybody doing anything.
    ///
    /// Do not repeat a [`login`](crate::Session::login) or [`logout`](crate::Session::logout) after such an error, and a
    /// [`replace`](crate::Session::replace) only where its docs say so: the change holds, and the session saves it by
    /// itself.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Store | ErrorKind::Panic)
    }

    /// Whether only a login helps.
    pub fn is_login_required(&self) -> bool {
        matches!(self.0.kind, ErrorKind::LoginRequired | ErrorKind::SessionEnded)
    }

    /// How long the authority or the source asked us to wait before the next try, capped at ten minutes. It is the whole
    /// wait from the failure on: an error that is remembered while the session cools down does not say how much of it is
    /// left.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message)
    }
}

impl fmt::Debug for Error {
    /// Prints the kind and the message. The cause is somebody else's text and may hold anything: ask `source()`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

/// An error and what is behind it.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&link| link.source())
}
