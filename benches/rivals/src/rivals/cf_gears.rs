use std::{net::TcpListener, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use toolkit_auth::oauth2::{
    BearerAuthAutoRefreshLayer, BearerAuthAutoRefreshOpts, BearerAuthAutoRefreshService,
    DEFAULT_MIN_INVALIDATION_INTERVAL, OAuthClientConfig, SecretString, TokenProvider,
};
use toolkit_http::{HttpClientConfig, HttpError};
use tower::Layer;

use crate::{
    api::Api,
    authority::{Authority, Failure},
    contest::{Client, Tokens, send},
};

/// The refreshing layer of cf-gears-toolkit-auth: a refusal is followed by a fetch at most once in `SECONDS`.
#[derive(Debug, Clone)]
pub struct Throttled<const SECONDS: u64>(BearerAuthAutoRefreshService<Api<HttpError>>);

/// As it comes.
pub type CfGears = Throttled<{ DEFAULT_MIN_INVALIDATION_INTERVAL.as_secs() }>;

/// With its throttle turned off.
pub type CfGearsUnthrottled = Throttled<0>;

impl<const SECONDS: u64> Client for Throttled<SECONDS> {
    const NAME: &'static str =
        if SECONDS == 0 { "cf-gears-toolkit-auth-unthrottled" } else { "cf-gears-toolkit-auth" };

    fn new(authority: &Authority, api: &Api) -> Self {
        let options = BearerAuthAutoRefreshOpts {
            min_invalidation_interval: Duration::from_secs(SECONDS),
            ..BearerAuthAutoRefreshOpts::default()
        };
        let layer = BearerAuthAutoRefreshLayer::with_opts(provider(authority), options);
        Throttled(layer.layer(api.with_error()))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}

impl Tokens for TokenProvider {
    const NAME: &'static str = "cf-gears-toolkit-auth";

    type Token = SecretString;

    fn new(authority: &Authority) -> Self {
        provider(authority)
    }

    async fn token(&self) -> Result<SecretString, Failure> {
        self.get().await.map_err(|_| Failure)
    }
}

/// It fetches over HTTP only, so the authority gets a socket.
fn provider(authority: &Authority) -> TokenProvider {
    let mut http = HttpClientConfig::for_testing();
    http.request_timeout = Duration::from_secs(3600);
    let config = OAuthClientConfig {
        token_endpoint: Some(endpoint(authority.clone()).parse().expect("a URL")),
        client_id: "me".to_owned(),
        client_secret: SecretString::new("a secret"),
        http_config: Some(http),
        ..OAuthClientConfig::default()
    };
    TokenProvider::new(config).expect("a valid configuration")
}

/// The URL of a token endpoint that is there as long as the runtime.
fn endpoint(authority: Authority) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket for tokio");
    let address = listener.local_addr().expect("an address");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let authority = authority.clone();
            let answer = service_fn(move |_: Request<Incoming>| answer(authority.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    format!("http://{address}/token")
}

async fn answer(authority: Authority) -> Result<Response<Full<Bytes>>, http::Error> {
    match authority.fetch(None).await {
        Ok(grant) => {
            let body = format!(r#"{{"access_token":"{}","expires_in":7200}}"#, grant.access);
            Response::builder().header("content-type", "application/json").body(body.into())
        }
        Err(Failure) => Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Full::default()),
    }
}
