use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tower::{BoxError, Service};

use super::double_check::DoubleCheck;
use crate::{
    api::Api,
    authority::Authority,
    contest::{Client, Replace, send},
};

/// The layer as people write it: clone the request, format the header, box the future, and after a 401 get another token
/// from `T` and send the clone.
#[derive(Debug, Clone)]
pub struct HandWritten<T> {
    tokens: T,
    api: Api,
}

/// With the locks that go with it most often.
pub type WithDoubleCheck = HandWritten<DoubleCheck<String>>;

impl<T: Replace> Client for HandWritten<T> {
    const NAME: &'static str = T::NAME;

    fn new(authority: &Authority, api: &Api) -> Self {
        HandWritten { tokens: T::new(authority), api: api.clone() }
    }

    async fn send(&mut self, request: Request<Bytes>) -> Option<StatusCode> {
        send(self, request).await
    }
}

impl<T: Replace> Service<Request<Full<Bytes>>> for HandWritten<T> {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Request<Full<Bytes>>>::poll_ready(&mut self.api, cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let HandWritten { tokens, mut api } = self.clone();
        Box::pin(async move {
            let token = tokens.token().await?;
            let response = api.call(with(&token, request.clone())?).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let token = tokens.replace(&token).await?;
            api.call(with(&token, request)?).await
        })
    }
}

fn with(
    token: &impl AsRef<str>,
    mut request: Request<Full<Bytes>>,
) -> Result<Request<Full<Bytes>>, BoxError> {
    let value = HeaderValue::try_from(format!("Bearer {}", token.as_ref()))?;
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request)
}
