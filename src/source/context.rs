use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::Request;

#[cfg(feature = "json")]
use super::{FetchError, OwnWords};
use crate::{
    reentry::Mark,
    secret::Secret,
    token::{OptionalSecret, given},
};

/// What a source may want to know about the fetch.
#[derive(Clone, Debug)]
pub struct FetchContext {
    pub(crate) refresh_token: Option<Secret>,
    /// How often it was read: whoever has done so is taken to have presented it.
    pub(crate) reads: Arc<AtomicUsize>,
    pub(crate) cause: Cause,
    pub(crate) fruitless: u32,
    pub(crate) mark: Mark,
    /// When somebody has last said that there are other credentials, for sources that remember which were refused: a
    /// number that grows with each time, in whichever session; 0 if nobody has.
    #[cfg(feature = "json")]
    pub(crate) last_change: u64,
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
    /// A context as it is made by a session that has no refresh token, to call a source without a session in a test:
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
            reads: Arc::default(),
            cause,
            fruitless: 0,
            mark: Mark::new(),
            #[cfg(feature = "json")]
            last_change: 0,
            has_asked: false,
        }
    }

    /// Sets the refresh token that [`refresh_token`](Self::refresh_token) returns. `None` or an empty text means that there
    /// is none.
    #[must_use]
    pub fn with_refresh_token(mut self, refresh: impl OptionalSecret) -> Self {
        self.refresh_token = given(refresh);
        self
    }

    /// Sets the number that [`fruitless`](Self::fruitless) returns.
    #[must_use]
    pub fn with_fruitless(mut self, refreshes: u32) -> Self {
        self.fruitless = refreshes;
        self
    }

    /// The refresh token of the session, if there is one that was not refused.
    ///
    /// A refresh token that has expired by our clock is left out at first. But the clock may be wrong: if the source then
    /// says that a [login is required](super::FetchError::login_required), it is asked once more in the same fetch, with
    /// the refresh token (not if it says so [finally](super::FetchError::without_fallback)). On that second call the login
    /// sources of this crate fail at once, instead of asking for credentials again. A source of your own can do the same:
    /// see [`has_asked`](Self::has_asked).
    ///
    /// Calling this counts as presenting the refresh token: if the fetch then says that a login is required, the session
    /// counts the refresh token as refused and does not offer it again, until another login. A log line may print the
    /// context, `{cx:?}`: that shows whether there is a refresh token, and counts as nothing.
    ///
    /// If a fetch has not called this, its token is not renewed early when its refresh token is about to end: a source that
    /// ever calls this should do so in each fetch.
    ///
    /// The session learns of a refusal only if the fetch ends with it. In a [chain](super::TokenSource::or_else) the next
    /// source may be asked after the refusal, and fail for the moment: so a source has to remember by itself which refresh
    /// tokens were refused, as those of this crate do.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.refresh_token.as_ref()
    }

    /// Whether the source was asked before in this fetch, without the [refresh token](Self::refresh_token), and has said
    /// that a login is required. A source that asks a person should say that again at once, instead of asking the person
    /// again.
    pub fn has_asked(&self) -> bool {
        self.has_asked
    }

    /// Goes on, unless this fetch has asked before: for a source that presents something else than the refresh token.
    #[cfg(feature = "json")]
    pub(crate) fn wants_credentials(&self) -> Result<(), FetchError> {
        if self.has_asked {
            return Err(
                FetchError::login_required(OwnWords("no other credentials were wanted")).not_processed()
            );
        }
        Ok(())
    }

    /// The refresh token, for a source that presents nothing else.
    #[cfg(feature = "json")]
    pub(super) fn wants_refresh_token(&self) -> Result<&Secret, FetchError> {
        self.refresh_token().ok_or_else(|| FetchError::login_required(OwnWords("there is no refresh token")))
    }

    /// Why the session asks.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Marks a request as sent by this fetch. If the request reaches the layer that this source serves, by whatever queue
    /// or task, it fails at once, instead of waiting for the very fetch that waits for its answer.
    pub fn mark<B>(&self, request: &mut Request<B>) {
        request.extensions_mut().insert(self.mark);
    }

    /// How many refreshes in a row brought a token that was refused again: at the resend of the request that asked for the
    /// refresh, or, if that request could not be sent again, at any other within half a minute.
    pub fn fruitless(&self) -> u32 {
        self.fruitless
    }
}
