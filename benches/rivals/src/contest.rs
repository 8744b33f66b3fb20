use std::future::Future;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Service, ServiceExt};

use crate::{
    api::Api,
    authority::{Authority, Failure},
};

/// A client that puts a token on its requests.
pub trait Client: Clone + Send + 'static {
    const NAME: &'static str;

    /// The same client without a token, which its overhead is over.
    const BASELINE: Option<&'static str> = Some("bare");

    fn new(authority: &Authority, api: &Api) -> Self;

    /// The status of the answer; `None` is an error.
    fn send(&mut self, request: Request<Bytes>) -> impl Future<Output = Option<StatusCode>> + Send;
}

/// Gives the present token. Those who come during a fetch wait for it.
pub trait Tokens: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    type Token: Send;

    fn new(authority: &Authority) -> Self;

    fn token(&self) -> impl Future<Output = Result<Self::Token, Failure>> + Send;
}

/// Can be told that a server refused a token.
pub trait Replace: Tokens<Token: AsRef<str> + Sync> {
    /// Another token than the refused one.
    fn replace(&self, refused: &Self::Token) -> impl Future<Output = Result<Self::Token, Failure>> + Send;
}

/// How clients that are tower services send. `None` is an error.
#[expect(
    clippy::manual_async_fn,
    reason = "callers cannot see that the future of an `async fn` here is `Send`"
)]
pub fn send<S>(service: &mut S, request: Request<Bytes>) -> impl Future<Output = Option<StatusCode>> + Send
where
    S: Service<Request<Full<Bytes>>, Response = Response<()>, Error: Send, Future: Send> + Send,
{
    async {
        let response = service.ready().await.ok()?.call(request.map(Full::new)).await.ok()?;
        Some(response.status())
    }
}
