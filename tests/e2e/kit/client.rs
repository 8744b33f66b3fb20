//! Clients without the layer, and the requests that go through them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tower::Service;
use tower_token_refresh::{BoxError, FetchContext, FetchError, ReplayBody, Token, TokenSource, source_fn};

use super::server::{Http, Server};

/// The body of the tests' requests.
pub(crate) type Payload = UnsyncBoxBody<Bytes, BoxError>;

/// hyper-util's client with its connection pool.
pub(crate) type Pool<B = ReplayBody<Payload>> = Client<HttpConnector, B>;

pub(crate) fn pool<B>(http: Http) -> Pool<B>
where
    B: Body<Data: Send> + Send,
{
    let mut connector = HttpConnector::new();
    // Else some frames wait for an acknowledgement that the other side is in no hurry to send.
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).http2_only(http == Http::Two).build(connector)
}

pub(crate) fn empty() -> Payload {
    Payload::default()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Payload {
    Full::new(bytes.into()).map_err(Into::into).boxed_unsync()
}

pub(crate) fn get(url: String) -> Request<Payload> {
    request(Method::GET, url, empty())
}

pub(crate) fn head(url: String) -> Request<Payload> {
    request(Method::HEAD, url, empty())
}

pub(crate) fn delete(url: String) -> Request<Payload> {
    request(Method::DELETE, url, empty())
}

pub(crate) fn post<B>(url: String, body: B) -> Request<Payload>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    request(Method::POST, url, body.map_err(Into::into).boxed_unsync())
}

fn request(method: Method, url: String, body: Payload) -> Request<Payload> {
    Request::builder().method(method).uri(url).body(body).expect("a request")
}

/// One connection and nothing around it.
pub(crate) enum Sender {
    One(http1::SendRequest<ReplayBody<Payload>>),
    Two(http2::SendRequest<ReplayBody<Payload>>),
}

impl Sender {
    pub(crate) async fn connect(http: Http, server: &Server) -> Self {
        let io = TokioIo::new(TcpStream::connect(server.address()).await.expect("the server listens"));
        match http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await.expect("nothing is sent yet");
                tokio::spawn(connection);
                Sender::One(sender)
            }
            Http::Two => {
                let handshake = http2::handshake(TokioExecutor::new(), io);
                let (sender, connection) = handshake.await.expect("the server speaks HTTP/2");
                tokio::spawn(connection);
                Sender::Two(sender)
            }
        }
    }
}

impl Service<Request<ReplayBody<Payload>>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Sender::One(sender) => sender.poll_ready(cx),
            Sender::Two(sender) => sender.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<ReplayBody<Payload>>) -> Self::Future {
        match self {
            Sender::One(sender) => Box::pin(sender.send_request(request)),
            Sender::Two(sender) => Box::pin(sender.send_request(request)),
        }
    }
}

/// Asks the model authority at this address: with the refresh token if there is one, else with the password.
pub(super) fn token_source(url: String) -> impl TokenSource {
    let client: Pool<Full<Bytes>> = pool(Http::One);
    source_fn(move |cx: FetchContext| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let (path, content_type, body) = match cx.refresh_token() {
                Some(token) => (
                    "/oauth/token",
                    "application/x-www-form-urlencoded",
                    format!("grant_type=refresh_token&refresh_token={}", token.expose()),
                ),
                None => {
                    let credentials = r#"{"account":"alice","password":"wonderland"}"#;
                    ("/login", "application/json", credentials.to_owned())
                }
            };
            let request = Request::post(format!("{url}{path}"))
                .header(header::CONTENT_TYPE, content_type)
                .body(Full::from(body))?;
            let answer = client.request(request).await?.into_body().collect().await?.to_bytes();
            let answer: Value = serde_json::from_slice(&answer)?;
            if answer["error"] == "invalid_grant" {
                return Err(FetchError::login_required("invalid_grant"));
            }
            let (Some(access), Some(refresh)) =
                (answer["access_token"].as_str(), answer["refresh_token"].as_str())
            else {
                return Err(FetchError::transient("no token"));
            };
            Ok(Token::new(access).refresh_token(refresh))
        }
    })
}
