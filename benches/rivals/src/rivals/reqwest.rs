use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::Service;

use crate::{api::Api, authority::Authority, contest::Client};

/// reqwest-middleware with one middleware that sets the token, and a last one that answers in the place of a socket.
#[derive(Debug, Clone)]
pub struct ReqwestMiddleware(ClientWithMiddleware);

impl Client for ReqwestMiddleware {
    const NAME: &'static str = "reqwest-middleware";
    const BASELINE: Option<&'static str> = Some(ReqwestBare::NAME);

    fn new(_: &Authority, api: &Api) -> Self {
        let token = HeaderValue::from_static("Bearer access-1");
        let client =
            ClientBuilder::new(reqwest::Client::new()).with(Auth(token)).with(Answering(api.clone()));
        ReqwestMiddleware(client.build())
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        Some(self.0.execute(of_reqwest(request)).await.ok()?.status())
    }
}

/// What is left without middleware: reqwest's types around the same API.
#[derive(Debug, Clone)]
pub struct ReqwestBare(Api);

impl Client for ReqwestBare {
    const NAME: &'static str = "reqwest-bare";
    const BASELINE: Option<&'static str> = None;

    fn new(_: &Authority, api: &Api) -> Self {
        ReqwestBare(api.clone())
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        Some(answer(&self.0, of_reqwest(request)).await.status())
    }
}

struct Auth(HeaderValue);

#[async_trait::async_trait]
impl Middleware for Auth {
    async fn handle(
        &self,
        mut request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        request.headers_mut().insert(AUTHORIZATION, self.0.clone());
        next.run(request, extensions).await
    }
}

struct Answering(Api);

#[async_trait::async_trait]
impl Middleware for Answering {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        Ok(answer(&self.0, request).await)
    }
}

fn of_reqwest(request: Request<Bytes>) -> reqwest::Request {
    request.map(reqwest::Body::from).try_into().expect("a URI is a URL")
}

async fn answer(api: &Api, request: reqwest::Request) -> reqwest::Response {
    let request: Request<reqwest::Body> = request.try_into().expect("a URL is a URI");
    let response = api.clone().call(request).await.expect("the API does not fail");
    response.map(|()| reqwest::Body::default()).into()
}
