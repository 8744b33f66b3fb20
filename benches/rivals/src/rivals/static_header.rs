use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use tower_http::set_header::SetRequestHeader;

use crate::{
    api::Api,
    authority::Authority,
    contest::{Client, send},
};

/// tower-http's `SetRequestHeader`: a token that never changes.
#[derive(Debug, Clone)]
pub struct StaticHeader(SetRequestHeader<Api, HeaderValue>);

impl Client for StaticHeader {
    const NAME: &'static str = "static-header";

    fn new(_: &Authority, api: &Api) -> Self {
        StaticHeader(fixed(api))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}

pub fn fixed(api: &Api) -> SetRequestHeader<Api, HeaderValue> {
    SetRequestHeader::overriding(api.clone(), AUTHORIZATION, HeaderValue::from_static("Bearer access-1"))
}
