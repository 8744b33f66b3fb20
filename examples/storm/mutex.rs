//! The usual first repair: a mutex around the refresh.
//!
//! One token call at a time, but as many as before: each waiter gets the lock and refreshes, although the token that
//! was refused is not the present one any more.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Mutex;
use tower::service_fn;
use tower_token_refresh::BoxError;

use crate::phone::{Client, Phone, with_token};

pub(crate) fn client(phone: Phone) -> Client {
    let token = Arc::new(Mutex::new(String::new()));
    Client::new(service_fn(move |request| send(phone.clone(), token.clone(), request)))
}

async fn send(
    phone: Phone,
    token: Arc<Mutex<String>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, BoxError> {
    let flight = request.extensions().get().copied();
    let first = {
        let mut token = token.lock().await;
        if token.is_empty() {
            *token = phone.new_token(flight).await?;
        }
        with_token(&request, &token)?
    };
    let response = phone.send(first).await?;
    if response.status() != StatusCode::FORBIDDEN {
        return Ok(response);
    }
    let _ = response.into_body().collect().await;
    let again = {
        let mut token = token.lock().await;
        *token = phone.new_token(flight).await?;
        with_token(&request, &token)?
    };
    phone.send(again).await
}
