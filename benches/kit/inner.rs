//! The service at the bottom of every stack.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

/// Always ready; reads the request's body to its end, as a client does, and allocates nothing.
#[derive(Clone, Copy)]
pub(crate) struct Reads;

impl<B> Service<Request<B>> for Reads
where
    B: Body<Error: Into<BoxError>>,
{
    type Response = Response<()>;
    type Error = BoxError;
    type Future = Reading<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Reading<B> {
        Reading { body: request.into_body() }
    }
}

pin_project! {
    /// Answers when the body has ended.
    pub(crate) struct Reading<B> {
        #[pin]
        body: B,
    }
}

impl<B> Future for Reading<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Output = Result<Response<()>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(frame) = ready!(self.as_mut().project().body.poll_frame(cx)) {
            frame.map_err(Into::into)?;
        }
        Poll::Ready(Ok(Response::new(())))
    }
}
