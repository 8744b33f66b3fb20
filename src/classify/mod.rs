//! Which answers mean that the token was not accepted.
//!
//! A classifier looks once at the head of every answer to a request that was sent with our credential, and gives a
//! [`Verdict`]. If the request is marked [`SkipRefresh`](crate::SkipRefresh), nobody asks it: the answer is the caller's,
//! whatever it is. A classifier never sees a body, so a stack that decides by status and headers buffers nothing. Evidence
//! in a body or a trailer comes as a response extension, which a layer below has put there.
//!
//! | classifier | refuses |
//! |---|---|
//! | [`Standard`] | what the RFCs call a refused token; the default |
//! | [`Statuses`] | exactly the statuses given |
//! | [`Challenged`] | only what a challenge of the given scheme (and realm) speaks of |
//! | [`Codes`] | exactly the error codes given, as a layer below has read them from the body |
//! | a closure | anything a head can show |
//!
//! A server with a code of its own, next to the standard rules:
//!
//! ```
//! use http::{Method, Response, StatusCode, Uri};
//! use tower_token_refresh::classify::{Answer, Classify, Standard, Verdict};
//!
//! let classifier = Standard.or(|answer: &Answer<'_>| match answer.headers().get("x-auth-error") {
//!     Some(code) if code == "session-gone" => Verdict::Reject,
//!     _ => Verdict::Accept,
//! });
//!
//! // A classifier is a pure function of the head, so its test needs no server.
//! let (method, uri) = (Method::GET, Uri::from_static("https://api.example.com/orders"));
//! let response = Response::builder().status(StatusCode::BAD_REQUEST).header("x-auth-error", "session-gone").body(())?;
//! assert_eq!(classifier.classify(&Answer::new(&method, &uri, 1, &response)), Verdict::Reject);
//! # Ok::<(), http::Error>(())
//! ```
//!
//! A rule that replaces the default instead of adding to it:
//!
//! ```
//! use tower_token_refresh::classify::{Classify, Statuses};
//!
//! let on_the_login_page = Statuses::suspect([302])?;
//! let classifier = Statuses::reject([403, 419])?.or(on_the_login_page);
//! # let _ = classifier;
//! # Ok::<(), tower_token_refresh::Error>(())
//! ```

mod challenge;
mod challenged;
mod codes;
pub(crate) mod standard;
mod statuses;

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, Method, Response, StatusCode, Uri, Version};

#[cfg(feature = "json")]
pub(crate) use self::{challenge::is_token, codes::status_set};
pub use self::{
    challenge::{Challenge, Challenges},
    challenged::Challenged,
    codes::{Codes, ErrorCode},
    standard::Standard,
    statuses::Statuses,
};

/// Decides what an answer says about the token that was sent.
///
/// Implemented for closures `Fn(&Answer<'_>) -> Verdict`; write the argument's type, so that the compiler accepts
/// the closure for every lifetime. See the [module docs](self).
pub trait Classify: Send + Sync + 'static {
    /// The verdict on one answer. Asked once for each answer, and only if our credential was sent and the request is not
    /// marked [`SkipRefresh`](crate::SkipRefresh).
    fn classify(&self, answer: &Answer<'_>) -> Verdict;

    /// The stronger of both verdicts: refused if one of the two says so.
    #[must_use]
    fn or<C: Classify>(self, other: C) -> Or<Self, C>
    where
        Self: Sized,
    {
        Or(self, other)
    }

    /// The weaker of both verdicts: refused only if the two agree.
    #[must_use]
    fn and<C: Classify>(self, other: C) -> And<Self, C>
    where
        Self: Sized,
    {
        And(self, other)
    }
}

impl<F> Classify for F
where
    F: Fn(&Answer<'_>) -> Verdict + Send + Sync + 'static,
{
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        self(answer)
    }
}

impl<C: Classify + ?Sized> Classify for Arc<C> {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        (**self).classify(answer)
    }
}

impl Classify for Box<dyn Classify> {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        (**self).classify(answer)
    }
}

/// What an answer says about the token, in order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing against it: the answer is the caller's, whatever its status.
    Accept,
    /// The token may be the reason, as with a bare 403. The token is refreshed and the request sent again, while other
    /// requests go on with the old token.
    Suspect,
    /// The server said that the token is bad. Requests that were not sent yet wait for the next token.
    Reject,
}

/// The head of an answer, and of the request that it answers.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    method: &'a Method,
    uri: &'a Uri,
    attempt: u8,
    status: StatusCode,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> Answer<'a> {
    /// The answer to attempt 1 or 2 of a request. Public, so that a classifier can be tested by itself.
    pub fn new<R>(method: &'a Method, uri: &'a Uri, attempt: u8, response: &'a Response<R>) -> Self {
        Answer {
            method,
            uri,
            attempt,
            status: response.status(),
            version: response.version(),
            headers: response.headers(),
            extensions: response.extensions(),
        }
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response's HTTP version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The response's headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The readable challenges of the response's `WWW-Authenticate` headers.
    pub fn challenges(&self) -> Challenges<'a> {
        Challenges::of(self.headers)
    }

    /// The response's extensions, where layers below leave what they found in a body or a trailer.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// The request's method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The request's URI as the caller wrote it, without our credential.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// 1 for the first answer, 2 for the answer to the resend.
    pub fn attempt(&self) -> u8 {
        self.attempt
    }
}

impl fmt::Debug for Answer<'_> {
    /// Leaves out the URI and the headers, which may hold what a log must not show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("method", &self.method)
            .field("attempt", &self.attempt)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The stronger of two verdicts; made by [`Classify::or`].
#[derive(Clone, Copy, Debug)]
pub struct Or<A, B>(A, B);

impl<A: Classify, B: Classify> Classify for Or<A, B> {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        self.0.classify(answer).max(self.1.classify(answer))
    }
}

/// The weaker of two verdicts; made by [`Classify::and`].
#[derive(Clone, Copy, Debug)]
pub struct And<A, B>(A, B);

impl<A: Classify, B: Classify> Classify for And<A, B> {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        self.0.classify(answer).min(self.1.classify(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a status with these `WWW-Authenticate` lines.
    pub(super) fn verdict(classifier: &dyn Classify, status: u16, challenges: &[&str]) -> Verdict {
        let (method, uri) = (Method::GET, Uri::from_static("https://api.example.com/"));
        let mut response = Response::builder().status(status);
        for line in challenges {
            response = response.header("www-authenticate", *line);
        }
        let response = response.body(()).unwrap();
        classifier.classify(&Answer::new(&method, &uri, 1, &response))
    }

    fn always(verdict: Verdict) -> impl Classify {
        move |_: &Answer<'_>| verdict
    }

    #[test]
    fn or_is_the_stronger_and_and_is_the_weaker_verdict() {
        use Verdict::{Accept, Reject, Suspect};

        for (one, other, stronger, weaker) in [
            (Accept, Accept, Accept, Accept),
            (Accept, Suspect, Suspect, Accept),
            (Accept, Reject, Reject, Accept),
            (Suspect, Suspect, Suspect, Suspect),
            (Suspect, Reject, Reject, Suspect),
            (Reject, Reject, Reject, Reject),
        ] {
            for (left, right) in [(one, other), (other, one)] {
                assert_eq!(
                    verdict(&always(left).or(always(right)), 200, &[]),
                    stronger,
                    "{left:?} or {right:?}"
                );
                assert_eq!(
                    verdict(&always(left).and(always(right)), 200, &[]),
                    weaker,
                    "{left:?} and {right:?}"
                );
            }
        }
    }

    #[test]
    fn a_custom_predicate_makes_a_status_a_refusal_and_replaces_the_default() {
        let teapot = |answer: &Answer<'_>| match answer.status() {
            StatusCode::IM_A_TEAPOT => Verdict::Reject,
            _ => Verdict::Accept,
        };
        assert_eq!(verdict(&teapot, 418, &[]), Verdict::Reject);
        assert_eq!(verdict(&teapot, 401, &[]), Verdict::Accept);
    }

    #[test]
    fn a_shared_or_boxed_classifier_classifies_like_itself() {
        let shared: Arc<dyn Classify> = Arc::new(Standard);
        let boxed: Box<dyn Classify> = Box::new(Standard);
        for (status, expected) in [(200, Verdict::Accept), (403, Verdict::Suspect), (401, Verdict::Reject)] {
            assert_eq!(verdict(&shared, status, &[]), expected);
            assert_eq!(verdict(&boxed, status, &[]), expected);
            assert_eq!(verdict(&shared.clone().or(Standard), status, &[]), expected);
        }
    }

    #[test]
    fn an_answer_shows_the_request_and_the_extensions_of_the_response() {
        #[derive(Clone)]
        struct Code(u32);

        let (method, uri) = (Method::PUT, Uri::from_static("/orders?page=2"));
        let mut response = Response::new("a body of any type");
        *response.version_mut() = Version::HTTP_2;
        response.extensions_mut().insert(Code(42001));
        let classifier = |answer: &Answer<'_>| {
            assert_eq!((answer.method(), answer.attempt()), (&Method::PUT, 2));
            assert_eq!((answer.uri().path(), answer.version()), ("/orders", Version::HTTP_2));
            match answer.extensions().get() {
                Some(Code(42001)) => Verdict::Reject,
                _ => Verdict::Accept,
            }
        };
        assert_eq!(classifier.classify(&Answer::new(&method, &uri, 2, &response)), Verdict::Reject);
    }

    #[test]
    fn debug_of_an_answer_shows_neither_uri_nor_headers() {
        let (method, uri) = (Method::GET, Uri::from_static("/?key=canary"));
        let response = Response::builder().header("set-cookie", "canary").body(()).unwrap();
        assert!(!format!("{:?}", Answer::new(&method, &uri, 1, &response)).contains("canary"));
    }
}
