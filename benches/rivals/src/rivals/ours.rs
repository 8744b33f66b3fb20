use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use tower::Layer;
use tower_token_refresh::{
    FetchContext, FetchError, Origin, Session, Token, TokenRefresh, TokenRefreshLayer, source_fn,
};

use crate::{
    api::{Api, ORDERS, Shape},
    authority::{Authority, Failure},
    contest::{Client, Tokens, send},
};

/// This crate's layer.
#[derive(Debug, Clone)]
pub struct Ours(TokenRefresh<Api>);

/// The same, keeping nothing for a resend of requests with a body.
#[derive(Debug, Clone)]
pub struct OursWithoutReplay(TokenRefresh<Api>);

/// The same as something to wait for: a whole request each.
#[derive(Debug, Clone)]
pub struct OursInFull(Ours);

impl Client for Ours {
    const NAME: &'static str = "tower-token-refresh";

    fn new(authority: &Authority, api: &Api) -> Self {
        Ours(layer(authority).layer(api.clone()))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}

impl Client for OursWithoutReplay {
    const NAME: &'static str = "tower-token-refresh-without-replay";

    fn new(authority: &Authority, api: &Api) -> Self {
        OursWithoutReplay(layer(authority).without_replay().layer(api.clone()))
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(&mut self.0, request).await
    }
}

impl Tokens for Session {
    const NAME: &'static str = "tower-token-refresh";

    type Token = Token;

    fn new(authority: &Authority) -> Self {
        session(authority)
    }

    async fn token(&self) -> Result<Token, Failure> {
        Session::token(self).await.map_err(|_| Failure)
    }
}

impl Tokens for OursInFull {
    const NAME: &'static str = "tower-token-refresh-layer";

    type Token = StatusCode;

    fn new(authority: &Authority) -> Self {
        OursInFull(Ours::new(authority, &Api::open()))
    }

    async fn token(&self) -> Result<StatusCode, Failure> {
        self.0.clone().send(Shape::Get.request(ORDERS)).await.ok_or(Failure)
    }
}

fn layer(authority: &Authority) -> TokenRefreshLayer {
    let origin: Origin = "https://api.test".parse().expect("an origin");
    TokenRefreshLayer::new(session(authority), origin)
}

fn session(authority: &Authority) -> Session {
    let authority = authority.clone();
    let source = source_fn(move |cx: FetchContext| {
        let authority = authority.clone();
        async move {
            let grant = authority.fetch(cx.refresh_token().map(|token| token.expose())).await?;
            let token = Token::new(grant.access).expires_in(Duration::from_secs(7200));
            Ok::<_, FetchError>(token.refresh_token(grant.refresh))
        }
    });
    Session::builder(source).build()
}
