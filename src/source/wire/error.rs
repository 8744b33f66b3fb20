use std::{error::Error as StdError, fmt, sync::Arc};

use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::{
    answer::Answer,
    json::{Json, Pointer},
};
use crate::error::{BoxError, causes};

/// An authority's answer that brought no token, found by downcasting in the chain of causes.
///
/// ```
/// use tower_token_refresh::{Error, source::AuthorityError};
///
/// /// Where to send the user for the second factor.
/// fn second_factor(error: &Error) -> Option<&str> {
///     let answer = AuthorityError::find(error)?;
///     if answer.code() == Some("mfa_required") { answer.text("/mfa_token") } else { None }
/// }
/// # let _ = second_factor;
/// ```
///
/// What the authority said is for the program: an answer may repeat a credential, so `Display` and `Debug` show only
/// the status and a code that this crate knows by itself, or that is a number of at most ten digits; and what is wrong with
/// a body that could not be read.
pub struct AuthorityError {
    status: StatusCode,
    document: Option<Arc<Json>>,
    /// Why nothing could be read in it.
    unread: Option<&'static str>,
    code: Option<Zeroizing<String>>,
    /// The code was no text.
    is_number: bool,
    /// What the user makes of it, or else what the layer of another session in the client does.
    meaning: Option<BoxError>,
}

impl AuthorityError {
    pub(super) fn new(answer: &Answer, code: Option<Zeroizing<String>>, is_number: bool) -> Self {
        let meaning = answer.failure_of_layer.clone().map(BoxError::from);
        let (status, document, unread) = (answer.status, answer.document.clone(), answer.unread());
        AuthorityError { status, document, unread, code, is_number, meaning }
    }

    pub(in crate::source) fn with_meaning(self, meaning: BoxError) -> Self {
        AuthorityError { meaning: Some(meaning), ..self }
    }

    /// The first of these in a chain of causes, the error itself included.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a AuthorityError> {
        causes(error).find_map(|link| link.downcast_ref())
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error code: `error` of RFC 6749 §5.2, or what the source was told to use instead; if there is none, the
    /// business code. An integer is given by its digits.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref().map(String::as_str)
    }

    /// What happened, for developers: `error_description`.
    pub fn description(&self) -> Option<&str> {
        self.at(&Pointer::member("error_description"))
    }

    /// A page about it: `error_uri`.
    pub fn uri(&self) -> Option<&str> {
        self.at(&Pointer::member("error_uri"))
    }

    /// Any text in the answer, by a JSON pointer (RFC 6901). What is no pointer points at nothing.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(&Pointer::parse(pointer).ok()?)
    }

    fn at(&self, pointer: &Pointer) -> Option<&str> {
        self.document.as_ref()?.at(pointer)?.text()
    }

    /// A code that repeats no credential.
    fn harmless_code(&self) -> Option<&str> {
        let is_known = |code: &str| KNOWN.into_iter().flatten().any(|known| *known == code);
        let is_short = |code: &str| code.trim_start_matches('-').len() <= 10;
        self.code().filter(|code| is_known(code) || (self.is_number && is_short(code)))
    }
}

/// Codes by which an authority refuses a grant.
pub(super) const DEAD: &[&str] = &["invalid_grant"];
/// Codes that no other grant would change.
pub(super) const BLOCKED: &[&str] = &["access_denied"];
/// Codes that ask for a person (OpenID Connect Core §3.1.2.6, apart from the first).
pub(super) const INTERACTION: &[&str] = &[
    "mfa_required",
    "interaction_required",
    "login_required",
    "account_selection_required",
    "consent_required",
];
/// Codes that speak of the client or its request (RFC 6749 §5.2, RFC 8707, RFC 9396, RFC 9449).
pub(super) const CONFIGURATION: &[&str] = &[
    "invalid_client",
    "unauthorized_client",
    "invalid_scope",
    "invalid_request",
    "unsupported_grant_type",
    "invalid_target",
    // What Microsoft says for it.
    "invalid_resource",
    "invalid_authorization_details",
    "invalid_dpop_proof",
];
/// Codes for another time.
pub(super) const TRANSIENT: &[&str] = &["temporarily_unavailable", "server_error", "slow_down"];
/// Codes of an authority that has looked at nothing but the proof: it wants the same again, with its nonce (RFC 9449 §8).
pub(super) const UNPROCESSED: &[&str] = &["use_dpop_nonce"];

pub(super) const KNOWN: [&[&str]; 6] = [DEAD, BLOCKED, INTERACTION, CONFIGURATION, TRANSIENT, UNPROCESSED];

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no token in the authority's answer with status {}", self.status.as_u16())?;
        match (self.harmless_code(), self.unread) {
            (Some(code), _) => write!(f, " ({code})"),
            (None, Some(why)) => write!(f, ": {why}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityError")
            .field("status", &self.status)
            .field("code", &self.harmless_code())
            .finish_non_exhaustive()
    }
}

impl StdError for AuthorityError {
    /// The cause that a closure given to [`classify_failures`](super::AuthorityClient::classify_failures) has named; or
    /// else, if the client has the layer of another session in it, why that session has no other token for what was
    /// refused.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.meaning.as_deref().map(|meaning| meaning as _)
    }
}

/// What is known of a call that brought no token, for
/// [`AuthorityClient::classify_failures`](super::AuthorityClient::classify_failures).
pub struct FailedCall<'a> {
    pub(super) cause: &'a (dyn StdError + 'static),
    pub(super) answer: Option<&'a Answer>,
}

impl<'a> FailedCall<'a> {
    /// What went wrong: the client's own error, or the [`AuthorityError`] of an answer.
    pub fn cause(&self) -> &'a (dyn StdError + 'static) {
        self.cause
    }

    /// What the authority answered, if it did.
    pub fn answer(&self) -> Option<&'a AuthorityError> {
        self.cause.downcast_ref()
    }

    /// The headers of the answer.
    pub fn headers(&self) -> Option<&'a HeaderMap> {
        Some(&self.answer?.headers)
    }

    /// The body of the answer; empty if it was longer than the limit, or if it broke off at a 408, 425, 429 or 503.
    pub fn body(&self) -> Option<&'a [u8]> {
        Some(&self.answer?.body)
    }
}

impl fmt::Debug for FailedCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedCall").field("answer", &self.answer()).finish_non_exhaustive()
    }
}
