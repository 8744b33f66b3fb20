use bytes::Bytes;
use http::{Request, StatusCode};

use crate::{
    api::Api,
    authority::Authority,
    contest::{Client, send},
};

/// No token at all.
#[derive(Debug, Clone)]
pub struct Bare(Api);

impl Client for Bare {
    const NAME: &'static str = "bare";
    const BASELINE: Option<&'static str> = None;

    fn new(_: &Authority, api: &Api) -> Self {
        Bare(api.clone())
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}
