use std::task::{Context, Poll};

use http::{HeaderValue, Request, header::CONTENT_TYPE};
use tower_layer::Layer;
use tower_service::Service;

/// Sets `content-type: application/json` on requests that have no content type.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct JsonByDefaultLayer;

impl JsonByDefaultLayer {
    /// A layer that leaves requests with a content type alone.
    pub fn new() -> Self {
        JsonByDefaultLayer
    }
}

impl<S> Layer<S> for JsonByDefaultLayer {
    type Service = JsonByDefault<S>;

    fn layer(&self, inner: S) -> JsonByDefault<S> {
        JsonByDefault { inner }
    }
}

/// The service made by [`JsonByDefaultLayer`].
#[derive(Clone, Debug)]
pub struct JsonByDefault<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for JsonByDefault<S>
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
        let headers = request.headers_mut();
        if !headers.contains_key(CONTENT_TYPE) {
            // A head that has no room for it goes out as it is.
            let _ = headers.try_insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.inner.call(request)
    }
}
