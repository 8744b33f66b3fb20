//! The authority as an HTTP service.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use serde_json::{Value, json};
use tower_service::Service;

use super::{
    Endpoint, Failure, ModelAuthority, State,
    ledger::Grant,
    script::{json, oauth_error},
};
use crate::{
    error::BoxError,
    media_type::media_type,
    test_util::{body::ModelBody, form},
};

impl<B> Service<Request<B>> for ModelAuthority
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ModelBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let authority = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = authority.shared.log.receive(head.clone(), body).read().await?;
            match Ask::parse(&head, &body) {
                Ok(ask) => authority.serve(ask).await,
                Err(Malformed(status, code)) => Ok(oauth_error(status, code)),
            }
        })
    }
}

impl ModelAuthority {
    async fn serve(&self, ask: Ask) -> Result<Response<ModelBody>, BoxError> {
        let endpoint = ask.endpoint();
        let asks_for_a_token = matches!(endpoint, Endpoint::Login | Endpoint::Exchange | Endpoint::Refresh);
        let _inside = asks_for_a_token.then(|| self.shared.in_flight.enter());
        let gate = {
            let mut state = self.state();
            state.count(&ask);
            state.script.lane(endpoint).gate.clone()
        };
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let failure = self.state().script.lane(endpoint).next_failure();
        match failure {
            None => Ok(self.state().work(&ask)),
            Some(Failure::Hang) => pending().await,
            Some(Failure::LostAnswer) => {
                self.state().work(&ask);
                Err(connection_reset())
            }
            Some(failure) => failure.answer().ok_or_else(connection_reset),
        }
    }
}

impl State {
    fn count(&mut self, ask: &Ask) {
        let counts = &mut self.counts;
        match ask {
            Ask::Login { .. } | Ask::Client => counts.logins += 1,
            Ask::Code => counts.codes += 1,
            Ask::Exchange { .. } => counts.exchanges += 1,
            Ask::Verify { .. } => counts.verifies += 1,
            Ask::Refresh { token } => {
                counts.refreshes += 1;
                *counts.presented.entry(self.ledger.refresh_number(token)).or_default() += 1;
            }
        }
    }

    fn work(&mut self, ask: &Ask) -> Response<ModelBody> {
        let now = self.now();
        let ledger = &mut self.ledger;
        match ask {
            Ask::Login { account, password } => pair(ledger.login(account, password, now)),
            Ask::Client => pair(Some(ledger.login_client(now))),
            Ask::Refresh { token } => pair(ledger.refresh(token, now)),
            Ask::Code => json(StatusCode::OK, &json!({ "code": ledger.issue_code() })),
            Ask::Verify { token } => {
                json(StatusCode::OK, &json!({ "isValid": ledger.holder(token, now).is_some() }))
            }
            Ask::Exchange { code, is_oauth: true } => pair(ledger.exchange(code, true, now)),
            Ask::Exchange { code, is_oauth: false } => match ledger.exchange(code, false, now) {
                Some(grant) => json(StatusCode::OK, &json!({ "token": grant.access })),
                None => invalid_grant(),
            },
        }
    }
}

/// What a request asks for.
enum Ask {
    Login { account: String, password: String },
    Client,
    Code,
    Exchange { code: String, is_oauth: bool },
    Verify { token: String },
    Refresh { token: String },
}

/// Why a request is none of them: status and error code of the answer.
struct Malformed(StatusCode, &'static str);

const INVALID_REQUEST: Malformed = Malformed(StatusCode::BAD_REQUEST, "invalid_request");

impl Ask {
    fn endpoint(&self) -> Endpoint {
        match self {
            Ask::Login { .. } | Ask::Client => Endpoint::Login,
            Ask::Code => Endpoint::Code,
            Ask::Exchange { .. } => Endpoint::Exchange,
            Ask::Verify { .. } => Endpoint::Verify,
            Ask::Refresh { .. } => Endpoint::Refresh,
        }
    }

    fn parse(head: &Parts, body: &Bytes) -> Result<Ask, Malformed> {
        let path = head.uri.path();
        if !["/code", "/login", "/refresh", "/token", "/token/verify", "/oauth/token"].contains(&path) {
            return Err(Malformed(StatusCode::NOT_FOUND, "not_found"));
        }
        if head.method != Method::POST {
            return Err(Malformed(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
        }
        let content_type = media_type(&head.headers).unwrap_or_default();
        let is_of_type = |expected: &str| content_type.eq_ignore_ascii_case(expected);
        let ask = match path {
            "/code" => Some(Ask::Code),
            "/oauth/token" if is_of_type("application/x-www-form-urlencoded") => return Ask::oauth(body),
            _ if !is_of_type("application/json") => None,
            "/login" => Ask::login(body),
            "/refresh" => Ask::refresh(body),
            "/token" => Ask::exchange(body),
            "/token/verify" => Ask::verify(body),
            _ => None,
        };
        ask.ok_or(INVALID_REQUEST)
    }

    fn login(body: &[u8]) -> Option<Ask> {
        let body = object(body)?;
        Some(Ask::Login { account: string(&body, "account")?, password: string(&body, "password")? })
    }

    fn refresh(body: &[u8]) -> Option<Ask> {
        Some(Ask::Refresh { token: string(&object(body)?, "refresh_token")? })
    }

    fn exchange(body: &[u8]) -> Option<Ask> {
        let body = object(body)?;
        (body["type"] == 100).then_some(())?;
        Some(Ask::Exchange { code: string(&body, "account")?, is_oauth: false })
    }

    fn verify(body: &[u8]) -> Option<Ask> {
        Some(Ask::Verify { token: string(&object(body)?, "token")? })
    }

    fn oauth(body: &[u8]) -> Result<Ask, Malformed> {
        let body = String::from_utf8_lossy(body);
        // None may be there twice, and one without a value is not there (RFC 6749 §3.2).
        let field = |name| {
            let mut values = form::values(&body, name).filter(|value| !value.is_empty());
            values.next().filter(|_| values.next().is_none()).ok_or(INVALID_REQUEST)
        };
        match &*field("grant_type")? {
            "refresh_token" => Ok(Ask::Refresh { token: field("refresh_token")? }),
            "password" => Ok(Ask::Login { account: field("username")?, password: field("password")? }),
            "client_credentials" => Ok(Ask::Client),
            "authorization_code" => Ok(Ask::Exchange { code: field("code")?, is_oauth: true }),
            _ => Err(Malformed(StatusCode::BAD_REQUEST, "unsupported_grant_type")),
        }
    }
}

/// The answer to a login or a refresh (RFC 6749 §5.1).
fn pair(grant: Option<Grant>) -> Response<ModelBody> {
    let Some(grant) = grant else { return invalid_grant() };
    let mut answer = json!({ "access_token": grant.access, "token_type": "Bearer" });
    if let Some(lifetime) = grant.expires_in {
        answer["expires_in"] = lifetime.as_secs().into();
    }
    if let Some(refresh) = grant.refresh {
        answer["refresh_token"] = refresh.into();
    }
    json(StatusCode::OK, &answer)
}

fn invalid_grant() -> Response<ModelBody> {
    oauth_error(StatusCode::BAD_REQUEST, "invalid_grant")
}

fn object(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

fn string(object: &Value, name: &str) -> Option<String> {
    object[name].as_str().map(str::to_owned)
}

fn connection_reset() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}
