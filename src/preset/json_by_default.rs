use std::task::{Context, Poll};

use http::{HeaderValue, Request, header::CONTENT_TYPE};
use tower_layer::Layer;
use tower_service::Service;

/// Says that a request is JSON unless it says what it is.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct JsonByDefault;

impl JsonByDefault {
    /// The layer.
    pub fn new() -> Self {
        JsonByDefault
    }
}

impl<S> Layer<S> for JsonByDefault {
    type Service = WithJsonByDefault<S>;

    fn layer(&self, inner: S) -> WithJsonByDefault<S> {
        WithJsonByDefault { inner }
    }
}

/// The service made by [`JsonByDefault`].
#[derive(Clone, Debug)]
pub struct WithJsonByDefault<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for WithJsonByDefault<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.headers_mut().entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        self.inner.call(request)
    }
}
