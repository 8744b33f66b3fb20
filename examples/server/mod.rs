//! Authority and API of the test kit behind one port.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use tower::{Service, service_fn};
use tower_token_refresh::{
    BoxError,
    test_util::{ModelApi, ModelAuthority},
};

use crate::serve::serve;

pub(crate) struct Server {
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) base: String,
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
        let base = serve(TowerToHyperService::new(site)).await?;
        Ok(Server { authority, api, base })
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
