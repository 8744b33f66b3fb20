//! How the authority misbehaves on request.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use http::{HeaderValue, Response, StatusCode, header};

use crate::test_util::{
    body::{JSON, ModelBody, answer},
    gate::Gate,
};

/// What the authority can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /login`, and `POST /oauth/token` with `grant_type=password` or `client_credentials`.
    Login,
    /// `POST /code`.
    Code,
    /// A code for a token: `POST /token`, and `POST /oauth/token` with `grant_type=authorization_code`.
    Exchange,
    /// `POST /token/verify`.
    Verify,
    /// `POST /refresh`, and `POST /oauth/token` with `grant_type=refresh_token`.
    Refresh,
}

/// What the authority does in place of its work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// This status and text, as JSON if it begins with a brace.
    Status(StatusCode, &'static str),
    /// This status with a `Retry-After` in seconds.
    RetryAfter(StatusCode, Duration),
    /// 400 with this OAuth error code (RFC 6749 §5.2).
    OAuth(&'static str),
    /// This status with a web page, as a proxy on the way answers.
    Html(StatusCode),
    /// 200 with half a JSON object.
    Garbage,
    /// 200 `{}`.
    EmptyObject,
    /// 200 with a token that is `null`.
    NullToken,
    /// No answer, ever.
    Hang,
    /// The service fails, so a server around it drops the connection. Nothing has been done.
    Reset,
    /// As `Reset`, but the work is done: the refresh token is spent and nobody has its successor.
    LostAnswer,
}

impl Failure {
    /// The answer, for the failures that have one.
    pub(super) fn answer(&self) -> Option<Response<ModelBody>> {
        Some(match *self {
            Failure::Status(status, text) => {
                answer(status, if text.starts_with('{') { JSON } else { "text/plain" }, text)
            }
            Failure::RetryAfter(status, wait) => {
                let mut response = answer(status, "text/plain", "");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
                response
            }
            Failure::OAuth(code) => oauth_error(StatusCode::BAD_REQUEST, code),
            Failure::Html(status) => answer(status, "text/html", "<!doctype html><title>Sign in</title>"),
            Failure::Garbage => answer(StatusCode::OK, JSON, r#"{"access_token":"#),
            Failure::EmptyObject => answer(StatusCode::OK, JSON, "{}"),
            Failure::NullToken => answer(StatusCode::OK, JSON, r#"{"access_token":null,"token":null}"#),
            Failure::Hang | Failure::Reset | Failure::LostAnswer => return None,
        })
    }
}

pub(super) fn oauth_error(status: StatusCode, code: &str) -> Response<ModelBody> {
    json(status, &serde_json::json!({ "error": code }))
}

pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<ModelBody> {
    answer(status, JSON, value.to_string())
}

/// The gates and failures of every endpoint.
#[derive(Default)]
pub(super) struct Script(HashMap<Endpoint, Lane>);

#[derive(Default)]
pub(super) struct Lane {
    pub(super) gate: Option<Gate>,
    pub(super) next: VecDeque<Failure>,
    pub(super) always: Option<Failure>,
}

impl Script {
    pub(super) fn lane(&mut self, endpoint: Endpoint) -> &mut Lane {
        self.0.entry(endpoint).or_default()
    }
}

impl Lane {
    pub(super) fn next_failure(&mut self) -> Option<Failure> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}
