//! What to tell the user: error codes and their texts.
//!
//! [`Tips`] is a catalogue of texts by error code, with a text for code 1 that stands for every error it does not know.
//! [`Tips::explain`] looks at an outcome and says what to show, if anything. It looks at the head only: the code comes
//! from an [`ErrorCode`] that a layer below has found, and the body stays the caller's.
//!
//! 1. A response below 400 that has no code and was not refused → nothing. A refusal that was recovered from is silent.
//! 2. Any other response → its code. Without one, or with 0 or a text for a code → 1.
//! 3. An error instead of a response → 1.
//!
//! A code says what the server has said of the request, and not what has become of the refresh: beside a refusal whose
//! refresh has failed for the moment stands the code of an expired token, and a request that a logged-out session does not
//! send gets no response at all. Whoever asks the user to log in again should ask [`Error::of`](crate::Error::of) first
//! whether that [is required](crate::Error::is_login_required).
//!
//! ```
//! use tower_token_refresh::{BoxError, Tips, tips::Phase};
//!
//! # fn main() -> Result<(), BoxError> {
//! // The texts are data, from a file of the program's own, say.
//! let tips = Tips::new([(1, "Something went wrong."), (3000, "There is no such issue.")])?;
//!
//! let result: Result<http::Response<()>, BoxError> = Err("connection reset".into());
//! let tip = tips.explain(&result).expect("no response came");
//! assert_eq!((tip.code(), tip.text(), tip.phase()), (1, "Something went wrong.", Phase::Send));
//! # Ok(())
//! # }
//! ```
//!
//! A ready-made set, with texts of one's own:
//!
//! ```
//! use http::{Response, StatusCode};
//! use tower_token_refresh::{BoxError, ErrorCode, Tips};
//!
//! let tips = Tips::zh().with([(3000, "期刊不存在")]);
//!
//! let mut response = Response::new("the body is not looked at");
//! *response.status_mut() = StatusCode::NOT_FOUND;
//! response.extensions_mut().insert(ErrorCode::from(3000));
//! let result: Result<_, BoxError> = Ok(response);
//! assert_eq!(tips.explain(&result).map(|tip| tip.text()), Some("期刊不存在"));
//! ```

use std::{borrow::Cow, collections::BTreeMap, error::Error as StdError, fmt};

use http::{Extensions, Response, StatusCode};

use crate::{
    classify::ErrorCode,
    error::{BoxError, Error},
    extension::{Outcome, RefreshFailure},
};

/// The code of every error that has none.
const UNKNOWN: i64 = 1;

/// Texts by error code. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Tips {
    texts: BTreeMap<i64, Cow<'static, str>>,
}

impl Tips {
    /// A catalogue of these texts. Of two texts for one code, the last counts.
    ///
    /// # Errors
    ///
    /// `InvalidValue` if there is none for code 1.
    pub fn new<T>(texts: impl IntoIterator<Item = (i64, T)>) -> Result<Self, Error>
    where
        T: Into<Cow<'static, str>>,
    {
        let tips = Tips { texts: BTreeMap::new() }.with(texts);
        Error::require(tips.texts.contains_key(&UNKNOWN), "a catalogue of tips needs a text for code 1")?;
        Ok(tips)
    }

    /// A set in Chinese: code 1, and 10006 (the token has expired).
    #[must_use]
    pub fn zh() -> Self {
        Self::of("出了点问题，请稍后再试", "登录已过期，请重新登录")
    }

    /// A set in English: code 1, and 10006 (the token has expired).
    #[must_use]
    pub fn en() -> Self {
        Self::of(
            "Something went wrong. Please try again later.",
            "You are no longer logged in. Please log in again.",
        )
    }

    /// Adds these texts, and replaces those for the same codes.
    #[must_use]
    pub fn with<T>(mut self, texts: impl IntoIterator<Item = (i64, T)>) -> Self
    where
        T: Into<Cow<'static, str>>,
    {
        self.texts.extend(texts.into_iter().map(|(code, text)| (code, text.into())));
        self
    }

    /// The text for a code, or else the text for code 1.
    pub fn text(&self, code: i64) -> &str {
        let text = self.texts.get(&code).or_else(|| self.texts.get(&UNKNOWN));
        text.expect("no catalogue is without a text for code 1")
    }

    /// What to tell the user of this outcome; `None` if there is nothing to tell.
    pub fn explain<'a, R>(&'a self, result: &'a Result<Response<R>, BoxError>) -> Option<Tip<'a>> {
        match result {
            Ok(response) => self.explain_response(response.status(), response.extensions()),
            Err(error) => {
                let error: &(dyn StdError + 'static) = &**error;
                // Ours is about a token that could not be got or used; any other is the transport's.
                let phase = if Error::find(error).is_some() { Phase::Refresh } else { Phase::Send };
                Some(Tip { code: UNKNOWN, text: self.text(UNKNOWN), phase, status: None, cause: Some(error) })
            }
        }
    }

    fn explain_response<'a>(&'a self, status: StatusCode, extensions: &'a Extensions) -> Option<Tip<'a>> {
        let code = extensions.get::<ErrorCode>().filter(|code| code.as_i64() != Some(0));
        let outcome = extensions.get::<Outcome>();
        // Those beyond 599, too, which nobody has defined and some send.
        let is_error = status.as_u16() >= 400;
        if !is_error && code.is_none() && !outcome.is_some_and(Outcome::is_refused) {
            return None;
        }
        let failure = extensions.get::<RefreshFailure>();
        let phase = match outcome {
            _ if failure.is_some() => Phase::Refresh,
            Some(outcome) if outcome.attempts() > 1 => Phase::Resend,
            _ => Phase::Send,
        };
        let code = code.and_then(ErrorCode::as_i64).unwrap_or(UNKNOWN);
        let cause = failure.map(|failure| failure.error() as &(dyn StdError + 'static));
        Some(Tip { code, text: self.text(code), phase, status: Some(status), cause })
    }

    fn of(unknown: &'static str, expired: &'static str) -> Self {
        Tips { texts: [(UNKNOWN, unknown.into()), (10006, expired.into())].into() }
    }
}

/// What to tell the user of one outcome, and why; made by [`Tips::explain`].
#[derive(Clone, Copy)]
pub struct Tip<'a> {
    code: i64,
    text: &'a str,
    phase: Phase,
    status: Option<StatusCode>,
    cause: Option<&'a (dyn StdError + 'static)>,
}

impl<'a> Tip<'a> {
    /// The error code, known to the catalogue or not; 1 if there was none.
    pub fn code(&self) -> i64 {
        self.code
    }

    /// What to show.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// At which step the request failed.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The response's status, if a response came.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The error, if there was one: of the request, or of the refresh that a refused response waited for. Its `source()`
    /// tells the rest.
    pub fn cause(&self) -> Option<&'a (dyn StdError + 'static)> {
        self.cause
    }
}

impl fmt::Debug for Tip<'_> {
    /// Leaves out the cause, which may be somebody else's text and hold anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tip")
            .field("code", &self.code)
            .field("text", &self.text)
            .field("phase", &self.phase)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Tip<'_> {
    /// Writes the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// The step at which a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// It was sent, or was to be sent. A transport error does not tell which attempt it ended: an error of the second
    /// attempt counts here, too.
    Send,
    /// It had to wait for a token, which could not be got, or could not be put on the request.
    Refresh,
    /// It was sent again with a new token, and this is the second answer.
    Resend,
}
