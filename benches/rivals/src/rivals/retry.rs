use std::future::{Ready, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{
    BoxError,
    retry::{Policy, Retry},
};
use tower_http::set_header::SetRequestHeader;

use super::static_header::fixed;
use crate::{
    api::Api,
    authority::Authority,
    contest::{Client, send},
};

/// tower's `Retry` around a token that never changes: it can send again, but has nothing new to send.
#[derive(Debug, Clone)]
pub struct RetryStatic(Retry<Again, SetRequestHeader<Api, HeaderValue>>);

#[derive(Debug, Clone)]
struct Again;

impl Client for RetryStatic {
    const NAME: &'static str = "retry";

    fn new(_: &Authority, api: &Api) -> Self {
        RetryStatic(Retry::new(Again, fixed(api)))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}

impl Policy<Request<Full<Bytes>>, Response<()>, BoxError> for Again {
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
