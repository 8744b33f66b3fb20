//! How an API says no.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::test_util::body::{JSON, ModelBody, answer};

/// The answer to a request without a good token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// 401 with `WWW-Authenticate: Bearer error="invalid_token"`; without that error to whoever brings no token at all
    /// (RFC 6750 §3.1). This is the default.
    Unauthorized,
    /// This status and nothing else: a bare 401 or 403, a 500 …
    Status(StatusCode),
    /// 403 with `{"error_code": …}`.
    ForbiddenCode(i64),
    /// **200** with `{"errcode": …}`.
    Errcode(i64),
    /// Any other answer.
    Custom(Response<Bytes>),
}

impl Refusal {
    /// What whoever brings no token is told.
    pub(super) fn of_nobody(self) -> Self {
        if !matches!(self, Refusal::Unauthorized) {
            return self;
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        let challenge = HeaderValue::from_static(r#"Bearer realm="model""#);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        Refusal::Custom(response)
    }

    pub(super) fn answer(&self) -> Response<ModelBody> {
        match *self {
            Refusal::Unauthorized => {
                let mut response = answer(StatusCode::UNAUTHORIZED, JSON, r#"{"error":"invalid_token"}"#);
                let challenge = HeaderValue::from_static(r#"Bearer realm="model", error="invalid_token""#);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            Refusal::Status(status) => {
                let mut response = Response::new(ModelBody::default());
                *response.status_mut() = status;
                response
            }
            Refusal::ForbiddenCode(code) => {
                answer(StatusCode::FORBIDDEN, JSON, format!(r#"{{"error_code":{code}}}"#))
            }
            Refusal::Errcode(code) => answer(StatusCode::OK, JSON, format!(r#"{{"errcode":{code}}}"#)),
            Refusal::Custom(ref response) => response.clone().map(ModelBody::from),
        }
    }
}
