use std::io::Write;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use kube_client::{
    Config,
    client::{ConfigExt, middleware::AuthLayer},
};
use tempfile::NamedTempFile;
use tower::Layer;

use crate::{
    api::Api,
    authority::Authority,
    contest::{Client, send},
};

/// kube-client's own layer, with the token that a pod finds in a file.
#[derive(Debug, Clone)]
pub struct Kube(<AuthLayer as Layer<Api>>::Service);

impl Client for Kube {
    const NAME: &'static str = "kube-client";

    fn new(_: &Authority, api: &Api) -> Self {
        let mut file = NamedTempFile::new().expect("a file for the token");
        file.write_all(b"access-1").expect("the token is written");
        let mut config = Config::new(Uri::from_static("https://api.test"));
        config.auth_info.token_file = file.path().to_str().map(str::to_owned);
        // The layer has read the file by the time it is removed; a file that is gone means the same token to it.
        let layer = config.auth_layer().expect("a valid token").expect("a layer for the token");
        Kube(layer.layer(api.clone()))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}
