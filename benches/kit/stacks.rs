//! What others put around a client: a fixed header, with and without a retry. Neither refreshes anything.

use std::future::{Ready, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tower::{BoxError, retry::Policy};
use tower_http::set_header::SetRequestHeaderLayer;

pub(crate) fn static_header() -> SetRequestHeaderLayer<HeaderValue> {
    SetRequestHeaderLayer::overriding(AUTHORIZATION, HeaderValue::from_static("Bearer token"))
}

/// What `Retry` needs to be able to send a request again, and never does.
#[derive(Clone)]
pub(crate) struct Resends;

impl Policy<Request<Full<Bytes>>, Response<()>, BoxError> for Resends {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<()>, BoxError>,
    ) -> Option<Ready<()>> {
        let is_refused = result.as_ref().is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED);
        is_refused.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}
