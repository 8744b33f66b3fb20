use std::{
    fmt::Debug,
    future::{Ready, ready},
    marker::PhantomData,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::future::{BoxFuture, Either, FutureExt};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
    request::Parts,
};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, Service};

use crate::{authority::Authority, gate::Gate};

/// Where requests go.
pub const ORDERS: &str = "https://api.test/orders";

/// Where the one request goes that is held longer than the others.
pub const LATE: &str = "https://api.test/late";

/// The service that everybody wraps: always ready, and it reads each request's body to its end, as a client does.
///
/// `E` is the error that it never returns; some layers want one of their own.
#[derive(Debug)]
pub struct Api<E = BoxError> {
    guard: Option<Arc<Guard>>,
    error: PhantomData<fn() -> E>,
}

/// What stands before an API that looks at tokens: requests come in, are held, and then judged.
#[derive(Debug)]
pub struct Guard {
    pub authority: Authority,
    pub gate: Gate,
    pub late_gate: Gate,
}

impl<E> Api<E> {
    /// Answers 200 to everything, at once and without allocating.
    pub fn open() -> Self {
        Api { guard: None, error: PhantomData }
    }

    /// Answers 401 to tokens that the authority does not accept by then, and 400 to an incomplete body.
    pub fn guarded(guard: Arc<Guard>) -> Self {
        Api { guard: Some(guard), error: PhantomData }
    }

    pub fn with_error<F>(&self) -> Api<F> {
        Api { guard: self.guard.clone(), error: PhantomData }
    }
}

impl<E> Clone for Api<E> {
    fn clone(&self) -> Self {
        self.with_error()
    }
}

impl<E, B> Service<Request<B>> for Api<E>
where
    E: Send + 'static,
    B: Body<Data: Buf, Error: Debug>,
{
    type Response = Response<()>;
    type Error = E;
    type Future = Either<Ready<Result<Response<()>, E>>, BoxFuture<'static, Result<Response<()>, E>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let length = read(body);
        match self.guard.clone() {
            None => Either::Left(ready(Ok(answer(StatusCode::OK)))),
            Some(guard) => Either::Right(async move { Ok(answer(guard.judge(&head, length).await)) }.boxed()),
        }
    }
}

impl Guard {
    async fn judge(&self, request: &Parts, length: usize) -> StatusCode {
        let gate = if request.uri == *LATE { &self.late_gate } else { &self.gate };
        gate.pass().await;
        let value = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer "));
        if !token.is_some_and(|token| self.authority.accepts(token)) {
            StatusCode::UNAUTHORIZED
        } else if length != Shape::Post.body().len() {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::OK
        }
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

fn read<B: Body<Data: Buf, Error: Debug>>(body: B) -> usize {
    let mut body = pin!(body);
    let all = async {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("a body in memory does not fail");
            length += frame.data_ref().map_or(0, Buf::remaining);
        }
        length
    };
    all.now_or_never().expect("a body in memory does not wait")
}

/// The requests that are measured.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// No headers, no body.
    Get,
    /// Four headers and 1 KiB.
    Post,
}

impl Shape {
    pub const ALL: [Shape; 2] = [Shape::Get, Shape::Post];

    pub fn name(self) -> &'static str {
        match self {
            Shape::Get => "get",
            Shape::Post => "post",
        }
    }

    pub fn request(self, uri: &'static str) -> Request<Bytes> {
        let request = Request::builder().uri(Uri::from_static(uri));
        let request = match self {
            Shape::Get => request,
            Shape::Post => request
                .method(Method::POST)
                .header(ACCEPT, HeaderValue::from_static("application/json"))
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .header(USER_AGENT, HeaderValue::from_static("rivals"))
                // One that is different in each request.
                .header(HeaderName::from_static("x-request-id"), "7f3c2d"),
        };
        request.body(self.body()).expect("a valid request")
    }

    fn body(self) -> Bytes {
        match self {
            Shape::Get => Bytes::new(),
            Shape::Post => Bytes::from_static(&[b'x'; 1024]),
        }
    }
}
