//! The status of gRPC calls.
//!
//! gRPC says `UNAUTHENTICATED` at HTTP 200, in the header `grpc-status` or in a trailer of that name. A
//! [`GrpcStatusLayer`] puts what it finds in the response's extensions, as a [`GrpcStatus`]:
//!
//! 1. A header is always seen. A server that refuses a call before it begins sends no more than that.
//! 2. The body of any other gRPC answer is asked for one frame, without waiting. If there are only trailers, and they have
//!    come already, they are seen. Otherwise the body is handed on untouched, so a stream is never delayed.
//! 3. A call marked [`Unary`] is waited for: its body is read ahead, up to 64 KiB, and its trailers are seen. A longer
//!    message is handed on at once; a server that refuses a call sends none.
//!
//! [`GrpcUnauthenticated`] is the classifier. For a client of a service that is bound to one origin, as tonic's `Channel`
//! is:
//!
//! ```
//! use http::Request;
//! use tower::ServiceBuilder;
//! use tower_token_refresh::{
//!     Classify, GrpcStatusLayer, GrpcUnauthenticated, Origin, ReplayBody, Session, Standard, Token,
//!     TokenRefreshLayer, peek::grpc::Unary, source_fn,
//! };
//!
//! # mod tonic {
//! #     pub mod body {
//! #         pub struct Body;
//! #         impl Body {
//! #             pub fn new(_: tower_token_refresh::ReplayBody<Body>) -> Self {
//! #                 Body
//! #             }
//! #         }
//! #     }
//! # }
//! # fn main() -> Result<(), tower_token_refresh::BoxError> {
//! # let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
//! # let channel = ();
//! let origin: Origin = "https://grpc.example.com".parse()?;
//! let client = ServiceBuilder::new()
//!     .layer(
//!         TokenRefreshLayer::new(session, origin.clone())
//!             .assume_origin(origin)
//!             .classifier(Standard.or(GrpcUnauthenticated)),
//!     )
//!     .layer(GrpcStatusLayer::new())
//!     .map_request(|request: Request<ReplayBody<_>>| request.map(tonic::body::Body::new))
//!     .service(channel);
//!
//! // A call with one answer: worth waiting for its trailers.
//! let call = Request::post("/orders.Orders/Get").extension(Unary).body(())?;
//! # let _ = (client, call);
//! # Ok(())
//! # }
//! ```
//!
//! A deadline of tonic's (`set_timeout`, `Endpoint::timeout`) begins anew with each attempt, because the `Channel` below
//! counts it, and the wait for a token comes on top. A `Timeout` outside bounds the whole call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{LIMIT, PeekBody, body::poll_read};
use crate::{
    classify::{Answer, Classify, Verdict},
    media_type::media_type,
};

/// Request extension: the call has one answer, so waiting for its trailers delays nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unary;

/// Response extension: the status of a gRPC call, where it is known before the answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u32);

impl GrpcStatus {
    /// The call does not have valid credentials: 16.
    pub const UNAUTHENTICATED: GrpcStatus = GrpcStatus(16);

    /// The status of headers or trailers, if they name one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get("grpc-status")?.to_str().ok()?.parse().ok().map(GrpcStatus)
    }

    /// The number; 0 is success.
    pub fn code(self) -> u32 {
        self.0
    }
}

/// `UNAUTHENTICATED` → [`Reject`](Verdict::Reject), any other status or none → [`Accept`](Verdict::Accept).
///
/// It sees headers by itself, and trailers with a [`GrpcStatusLayer`] below.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcUnauthenticated;

impl Classify for GrpcUnauthenticated {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        let status = answer.extensions().get().copied().or_else(|| GrpcStatus::of(answer.headers()));
        match status {
            Some(GrpcStatus::UNAUTHENTICATED) => Verdict::Reject,
            _ => Verdict::Accept,
        }
    }
}

/// Finds the status of gRPC calls. See the [module docs](self).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct GrpcStatusLayer;

impl GrpcStatusLayer {
    /// A layer for gRPC answers; any others pass.
    pub fn new() -> Self {
        GrpcStatusLayer
    }
}

impl<S> Layer<S> for GrpcStatusLayer {
    type Service = WithGrpcStatus<S>;

    fn layer(&self, inner: S) -> WithGrpcStatus<S> {
        WithGrpcStatus { inner }
    }
}

/// The service made by [`GrpcStatusLayer`].
#[derive(Clone, Debug)]
pub struct WithGrpcStatus<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for WithGrpcStatus<S>
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
        let is_unary = request.extensions().get::<Unary>().is_some();
        ResponseFuture { state: State::Send { future: self.inner.call(request), is_unary } }
    }
}

pin_project! {
    /// The response future of [`WithGrpcStatus`].
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
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R>
    where
        R: Body,
    {
        // For the head.
        Send { #[pin] future: F, is_unary: bool },
        // For the trailers.
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
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Send { future, is_unary } => {
                    let mut response = ready!(future.poll(cx))?.map(PeekBody::new);
                    if let Some(status) = GrpcStatus::of(response.headers()) {
                        response.extensions_mut().insert(status);
                    } else if is_worth_reading(&response) {
                        if *is_unary {
                            // A permit that the future holds is free before the body is waited for.
                            state.set(State::Read { response: Some(response) });
                            continue;
                        }
                        let _ = response.body_mut().poll_ahead(cx);
                        note_trailers(&mut response);
                    }
                    return Poll::Ready(Ok(response));
                }
                StateProj::Read { response } => {
                    let (mut response, _) = ready!(poll_read(response, cx, LIMIT));
                    note_trailers(&mut response);
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

/// Whether it is gRPC, in whatever format, and has a body. (gRPC-Web has its trailers inside of the body.)
fn is_worth_reading<R: Body>(response: &Response<R>) -> bool {
    let is_grpc = media_type(response.headers()).is_some_and(|media_type| {
        let kind = media_type.split_once('+').map_or(media_type, |(kind, _format)| kind);
        kind.eq_ignore_ascii_case("application/grpc")
    });
    is_grpc && !response.body().is_end_stream()
}

fn note_trailers<R: Body>(response: &mut Response<PeekBody<R>>) {
    let trailers = response.body().frames().find_map(Frame::trailers_ref);
    if let Some(status) = trailers.and_then(GrpcStatus::of) {
        response.extensions_mut().insert(status);
    }
}

impl<F, R: Body> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
