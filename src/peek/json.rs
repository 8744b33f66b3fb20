//! Error codes in JSON bodies.
//!
//! A [`JsonCodeLayer`] reads a response whole if it may be a JSON text within the limit, and puts the [`ErrorCode`] it
//! finds there in the response's extensions:
//!
//! 1. Nothing is read of an answer to a `HEAD`, of a 1xx, 204 or 304, at a status that was not asked for, without a JSON
//!    content type (`application/json`, `…+json` and the types added, with any parameters; never an event stream) or with
//!    a `Content-Encoding` other than `identity`: decompress below this layer.
//! 2. A body that is known to exceed the limit is not read either. One that turns out to do so, or fails, is handed on
//!    with what was read first: no evidence. So is one of more than 1,024 frames.
//! 3. The first of the JSON pointers at which there is an integer or a text that is no sign of success (0, in quotes or
//!    without, a blank text and the codes you name) gives the code. Of two members with one name, the last counts.
//! 4. A byte order mark is skipped. A damaged message must not hide the code beside it: bytes that are not UTF-8, half of a
//!    surrogate pair and raw control characters in quotes are replaced by U+FFFD. A text that still cannot be read may be
//!    in Shift_JIS, Big5 or GBK: then a backslash that is the second byte of a character escapes nothing.
//! 5. Anything else is no evidence: what is not JSON, other types, numbers with a fraction; nor is anything beside a number
//!    that no `f64` holds, or beside more than 127 levels.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{Layer, ServiceExt};
//! use tower_token_refresh::{BoxError, ErrorCode, JsonCodeLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let api = tower::service_fn(|_: Request<()>| async {
//!     let answer = Response::builder().header("content-type", "application/json; charset=utf-8");
//!     answer.body(r#"{"error_code":10006,"msg":"the token has expired"}"#.to_owned())
//! });
//! let response = JsonCodeLayer::new().layer(api).oneshot(Request::new(())).await?;
//! assert_eq!(response.extensions().get(), Some(&ErrorCode::from(10006)));
//! // The caller can still read the body.
//! # Ok(())
//! # }
//! ```
//!
//! With options, for a server whose errors are `{"code":"E42",…}` and whose other answers are `{"code":"OK",…}`:
//!
//! ```
//! use tower_token_refresh::JsonCodeLayer;
//!
//! let layer = JsonCodeLayer::new()
//!     .pointers(["/code", "/error/code"])?
//!     .success("OK")
//!     .content_type("text/plain")?
//!     .statuses([200, 400, 403])?
//!     .limit(4096)?;
//! # let _ = layer;
//! # Ok::<(), tower_token_refresh::Error>(())
//! ```
//!
//! # Answers that never end
//!
//! A server that *streams* under a JSON content type (a watch, a log) is waited for until the limit is reached. Leave
//! such a route out of the stack, or its status out of [`statuses`](JsonCodeLayer::statuses).

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_ENCODING};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::{LIMIT, PeekBody, body::poll_read};
use crate::{
    classify::{ErrorCode, is_token, status_set},
    error::Error,
    json,
    media_type::media_type,
};

/// Finds error codes in JSON bodies. See the [module docs](self).
#[derive(Clone, Debug)]
#[must_use]
pub struct JsonCodeLayer {
    rules: Arc<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    pointers: Vec<String>,
    success: Vec<ErrorCode>,
    /// Besides those of JSON.
    content_types: Vec<String>,
    /// `None`: any.
    statuses: Option<Vec<StatusCode>>,
    limit: u64,
}

impl JsonCodeLayer {
    /// A layer that looks at `/error_code` in bodies of up to 64 KiB, at any status.
    pub fn new() -> Self {
        JsonCodeLayer {
            rules: Arc::new(Rules {
                pointers: vec!["/error_code".to_owned()],
                success: vec![0.into()],
                content_types: Vec::new(),
                statuses: None,
                limit: LIMIT,
            }),
        }
    }

    /// Where the code may stand, as JSON pointers (RFC 6901), the first choice first. Replaces earlier pointers.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an empty list, and for what is no pointer: without a slash at its beginning, or with a tilde that
    /// neither `0` nor `1` follows.
    pub fn pointers<I>(mut self, pointers: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let pointers: Vec<String> = pointers.into_iter().map(Into::into).collect();
        let are_fit = !pointers.is_empty() && pointers.iter().all(|pointer| json::is_pointer(pointer));
        Error::require(
            are_fit,
            "at least one JSON pointer is needed, each beginning with `/`, and with a tilde written as `~0`",
        )?;
        self.rules().pointers = pointers;
        Ok(self)
    }

    /// One more code that says that nothing is wrong, besides 0, in quotes or without, and a blank text.
    pub fn success(mut self, code: impl Into<ErrorCode>) -> Self {
        self.rules().success.push(code.into());
        self
    }

    /// One more content type to read as JSON, besides `application/json` and `…+json`; `text/plain`, say.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for `text/event-stream`, whose end nobody can wait for, and for what is no `type/subtype`, a
    /// range such as `text/*` included.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Result<Self, Error> {
        let content_type = content_type.into();
        let is_one = content_type.split_once('/').is_some_and(|(kind, subtype)| {
            is_token(kind) && is_token(subtype) && !content_type.contains('*')
        });
        Error::require(
            is_one && !content_type.eq_ignore_ascii_case("text/event-stream"),
            "a content type must be `type/subtype`, without parameters and `*`, and no event stream",
        )?;
        self.rules().content_types.push(content_type);
        Ok(self)
    }

    /// At which statuses bodies are read; at every one, unless this is called. Replaces earlier ones.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an empty set and for a number that is no status.
    pub fn statuses<I>(mut self, statuses: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: TryInto<StatusCode>>,
    {
        self.rules().statuses = Some(status_set(statuses)?);
        Ok(self)
    }

    /// How many bytes of a body are read at most; 64 KiB by default.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for 0.
    pub fn limit(mut self, bytes: u64) -> Result<Self, Error> {
        Error::require(bytes > 0, "at least 1 byte of a body must be allowed to be read")?;
        self.rules().limit = bytes;
        Ok(self)
    }

    fn rules(&mut self) -> &mut Rules {
        Arc::make_mut(&mut self.rules)
    }
}

impl Default for JsonCodeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for JsonCodeLayer {
    type Service = JsonCode<S>;

    fn layer(&self, inner: S) -> JsonCode<S> {
        JsonCode { inner, rules: self.rules.clone() }
    }
}

impl Rules {
    fn is_worth_reading<R: Body>(&self, response: &Response<R>) -> bool {
        let status = response.status();
        let has_a_body = !(status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || response.body().is_end_stream());
        has_a_body
            && self.statuses.as_ref().is_none_or(|statuses| statuses.contains(&status))
            && response.headers().get_all(CONTENT_ENCODING).iter().all(is_identity)
            && media_type(response.headers()).is_some_and(|media_type| self.is_json(media_type))
    }

    fn is_json(&self, media_type: &str) -> bool {
        let suffix = media_type.rsplit_once('+').map(|(_, suffix)| suffix);
        media_type.eq_ignore_ascii_case("application/json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
            || self.content_types.iter().any(|other| media_type.eq_ignore_ascii_case(other))
    }

    fn code(&self, text: &[u8]) -> Option<ErrorCode> {
        let json: Value = json::read(text)?;
        let mut codes = self.pointers.iter().filter_map(|pointer| match json.pointer(pointer)? {
            Value::Number(code) => code.as_i64().map(ErrorCode::from),
            // A sign of success.
            Value::String(code) if json::is_no_code(code) => None,
            Value::String(code) => Some(code.as_str().into()),
            _ => None,
        });
        codes.find(|code| !self.success.contains(code))
    }
}

/// The service made by [`JsonCodeLayer`].
#[derive(Clone, Debug)]
pub struct JsonCode<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S, B, R> Service<Request<B>> for JsonCode<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<PeekBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_head = request.method() == Method::HEAD;
        let future = self.inner.call(request);
        ResponseFuture { state: State::Send { future, is_head }, rules: self.rules.clone() }
    }
}

pin_project! {
    /// The response future of [`JsonCode`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the request, or the response and what was read of its body.
    #[must_use = "futures do nothing unless they are polled"]
    pub struct ResponseFuture<F, R>
    where
        R: Body,
    {
        #[pin]
        state: State<F, R>,
        rules: Arc<Rules>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R>
    where
        R: Body,
    {
        // For the head.
        Send { #[pin] future: F, is_head: bool },
        // For the body.
        Read { response: Option<Response<PeekBody<R>>> },
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<PeekBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Send { future, is_head } => {
                    let response = ready!(future.poll(cx))?.map(PeekBody::new);
                    if *is_head || !this.rules.is_worth_reading(&response) {
                        return Poll::Ready(Ok(response));
                    }
                    // A permit that the future holds is free before the body is waited for.
                    this.state.set(State::Read { response: Some(response) });
                }
                StateProj::Read { response } => {
                    let (mut response, is_whole) = ready!(poll_read(response, cx, this.rules.limit));
                    let code = is_whole.then(|| this.rules.code(&data(response.body()))).flatten();
                    if let Some(code) = code {
                        response.extensions_mut().insert(code);
                    }
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

/// Whether these codings are none at all (RFC 9110 §8.4.1, §5.6.1.2).
fn is_identity(codings: &HeaderValue) -> bool {
    codings
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}

/// All that was read, in one piece.
fn data<R: Body>(body: &PeekBody<R>) -> Cow<'_, [u8]> {
    let pieces: Vec<&[u8]> = body.frames().filter_map(Frame::data_ref).map(|data| &data[..]).collect();
    match pieces[..] {
        [whole] => Cow::Borrowed(whole),
        _ => Cow::Owned(pieces.concat()),
    }
}

impl<F, R: Body> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
