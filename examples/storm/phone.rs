//! What all three clients are built from.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tower::{Service, util::BoxCloneService};
use tower_token_refresh::{BoxError, test_util::ModelAuthority};

use crate::wire::{Flight, Wire};

/// A client as its callers see it: one call, one answer.
pub(crate) type Client = BoxCloneService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;

/// The wire, and the way to a new token.
#[derive(Clone)]
pub(crate) struct Phone {
    pub(crate) wire: Wire,
    pub(crate) base: String,
    /// Stands for the platform's login call, which hands out codes without asking this server.
    pub(crate) authority: ModelAuthority,
}

impl Phone {
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        self.wire.clone().call(request).await
    }

    /// One token call: a login code goes, whatever the server says comes back.
    pub(crate) async fn exchange_code(&self, flight: Option<Flight>) -> Result<Value, BoxError> {
        let body = json!({ "account": self.authority.issue_code(), "type": 100 }).to_string();
        let mut request = Request::post(format!("{}/token", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        if let Some(flight) = flight {
            request.extensions_mut().insert(flight);
        }
        let response = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() { Ok(serde_json::from_slice(&body)?) } else { Err(status.to_string().into()) }
    }

    /// The same for clients that look at the answer.
    pub(crate) async fn new_token(&self, flight: Option<Flight>) -> Result<String, BoxError> {
        match self.exchange_code(flight).await?["token"].as_str() {
            Some(token) if !token.is_empty() => Ok(token.to_owned()),
            _ => Err("an answer without a token".into()),
        }
    }
}

/// The request with this token, as the hand-written clients attach it.
pub(crate) fn with_token(
    request: &Request<Full<Bytes>>,
    token: &str,
) -> Result<Request<Full<Bytes>>, BoxError> {
    let mut request = request.clone();
    let credential = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{token}:"))))?;
    request.headers_mut().insert(header::AUTHORIZATION, credential);
    Ok(request)
}
