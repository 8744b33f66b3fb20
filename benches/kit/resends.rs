//! A policy for tower's `Retry`, which keeps each request but refreshes nothing.

use std::future::{Ready, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{BoxError, retry::Policy};

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
