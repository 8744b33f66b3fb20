//! Authority and API of the test kit behind one port.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Service, service_fn};
use tower_token_refresh::{
    BoxError,
    test_util::{ModelApi, ModelAuthority},
};

pub(crate) struct Server {
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) base: String,
    _running: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(authority: ModelAuthority, api: ModelApi) -> Result<Self, BoxError> {
        let site = service_fn({
            let (authority, api) = (authority.clone(), api.clone());
            move |request: Request<Incoming>| match request.uri().path() {
                "/code" | "/login" | "/token" | "/token/verify" | "/oauth/token" => {
                    authority.clone().call(request)
                }
                _ => api.clone().call(request),
            }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let mut running = JoinSet::new();
        running.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(site.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Server { authority, api, base, _running: running })
    }
}

pub(crate) fn request(
    base: &str,
    method: Method,
    path: &str,
    body: &'static str,
) -> Result<Request<Full<Bytes>>, BoxError> {
    Ok(Request::builder().method(method).uri(format!("{base}{path}")).body(Full::from(body))?)
}
