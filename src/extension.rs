//! What callers can say on a request, and what they are told on a response.

use std::fmt;

use http::Response;

use crate::{
    body::NotReplayable,
    error::{BoxError, Error},
    generation::Generation,
};

/// Request extension: send with the token, and return a refusal at once.
///
/// ```
/// use http::Request;
/// use tower_token_refresh::SkipRefresh;
///
/// let request = Request::get("https://api.example.com/me").extension(SkipRefresh).body(())?;
/// # let _ = request;
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkipRefresh;

/// Request extension: send as it is, without a token (a login endpoint, say).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoToken;

/// Response extension: what the layer did, or else one below it. Absent on a first answer that was accepted, and wherever
/// the layer does not look at the answer: for a request that is marked [`SkipRefresh`] or [`NoToken`], goes outside of the
/// scope, or brings a credential of its own.
///
/// ```
/// use http::Response;
/// use tower_token_refresh::Outcome;
///
/// fn report<B>(response: &Response<B>) {
///     let Some(outcome) = response.extensions().get::<Outcome>() else { return };
///     if let Some(why) = outcome.not_resent() {
///         eprintln!("refused, and not sent again: {why}");
///     } else if outcome.is_refused() {
///         eprintln!("refused {} times", outcome.attempts());
///     }
/// }
/// # report(&Response::new(()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub(crate) generation: Generation,
    pub(crate) attempts: u8,
    pub(crate) refused: bool,
    pub(crate) not_resent: Option<NotResent>,
}

impl Outcome {
    /// The token that the answered request was sent with.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How often the request was sent: 1 or 2.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// Whether this response is a refusal.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Why a refused request was not sent again.
    pub fn not_resent(&self) -> Option<NotResent> {
        self.not_resent
    }
}

/// Why a refused request was not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotResent {
    /// Its body could not be sent a second time. A refresh is started for the next request, unless there is a newer token
    /// already. If it fails while the response waits for it, or none can be started (after a recent failure, or because
    /// the session is over), a [`RefreshFailure`] says why. If refreshes are damped, none is started either, and there is
    /// no [`RefreshFailure`].
    ///
    /// After a [`Reject`](crate::Verdict::Reject) the response comes at once, because the next request waits for the refresh.
    /// After a [`Suspect`](crate::Verdict::Suspect), such as a bare 403, the next request would go out with the same token:
    /// so the response comes when the refresh has ended, unless [`max_held`](crate::TokenRefreshLayer::max_held) keeps its
    /// places for those that are sent again.
    Body(NotReplayable),
    /// [`resend_if`](crate::TokenRefreshLayer::resend_if) forbids it. A refresh is started, as for [`Body`](Self::Body).
    Forbidden,
    /// [`max_held`](crate::TokenRefreshLayer::max_held) refused requests wait already. A refresh is started, as for
    /// [`Body`](Self::Body).
    TooManyWaiting,
    /// The refresh failed; the reason is in [`RefreshFailure`].
    RefreshFailed,
    /// The latest refreshes brought tokens that were refused at once for this method and path, or for eight others, so this
    /// refusal starts none. Requests of which [nothing is kept](crate::TokenRefreshLayer::without_replay) count as one path.
    Damped,
}

impl fmt::Display for NotResent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotResent::Body(why) => why.fmt(f),
            NotResent::Forbidden => f.write_str("the layer may not send this request twice"),
            NotResent::TooManyWaiting => f.write_str("too many refused requests wait already"),
            NotResent::RefreshFailed => f.write_str("the refresh failed"),
            NotResent::Damped => f.write_str("the latest tokens were refused at once"),
        }
    }
}

/// Response extension: why no new token follows this refusal. Either the refresh that the response waited for has failed,
/// or no refresh could be started: an earlier one has failed and the session is cooling down, or the session has ended or
/// changed.
#[derive(Clone, Debug)]
pub struct RefreshFailure(pub(crate) Error);

impl RefreshFailure {
    /// Why there is no new token.
    pub fn error(&self) -> &Error {
        &self.0
    }

    /// Turns a refusal that has a `RefreshFailure` into its error; the response is dropped. For callers to whom it is all one
    /// whether the request was sent or not. Refusals without one (damped, refused again) stay `Ok`.
    ///
    /// ```
    /// use http::Response;
    /// use tower_token_refresh::{BoxError, RefreshFailure};
    ///
    /// fn user_of(result: Result<Response<String>, BoxError>) -> Result<String, BoxError> {
    ///     Ok(RefreshFailure::into_err(result)?.into_body())
    /// }
    /// # assert_eq!(user_of(Ok(Response::new("alice".into()))).unwrap(), "alice");
    /// ```
    ///
    /// # Errors
    ///
    /// The error that was there, or the [`error`](Self::error) of the failure.
    pub fn into_err<B>(result: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
        let mut response = result?;
        match response.extensions_mut().remove() {
            Some(RefreshFailure(error)) => Err(error.into()),
            None => Ok(response),
        }
    }
}

impl Error {
    /// Why a call got no token, or no new one: the error of ours in an `Err`, or the [`RefreshFailure`] beside a refused
    /// response.
    ///
    /// `None` does not mean that the token was accepted: if the request was refused again, or was not sent again for
    /// another reason than a failed refresh, only the [`Outcome`] says so.
    ///
    /// ```
    /// use http::Response;
    /// use tower_token_refresh::{BoxError, Error};
    ///
    /// fn advise<B>(result: &Result<Response<B>, BoxError>) -> &'static str {
    ///     match Error::of(result) {
    ///         Some(error) if error.is_login_required() => "run `acme login`",
    ///         Some(error) if error.is_transient() => "try again later",
    ///         Some(_) => "ask whoever set this up",
    ///         None => "no refresh has failed: look at the answer",
    ///     }
    /// }
    /// # assert_eq!(advise(&Ok(Response::new(()))), "no refresh has failed: look at the answer");
    /// ```
    pub fn of<B>(result: &Result<Response<B>, BoxError>) -> Option<&Error> {
        match result {
            Ok(response) => response.extensions().get::<RefreshFailure>().map(RefreshFailure::error),
            Err(error) => Error::find(&**error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_why_a_request_was_not_sent_again_has_words_of_its_own() {
        use NotResent::{Body, Damped, Forbidden, RefreshFailed, TooManyWaiting};

        let body = NotReplayable::TooLarge;
        let reasons = HashSet::from([Body(body), Forbidden, TooManyWaiting, RefreshFailed, Damped]);
        let words: HashSet<_> = reasons.iter().map(NotResent::to_string).collect();
        assert_eq!(words.len(), 5);
        assert!(words.contains(&body.to_string()) && !words.contains(""));
    }
}
