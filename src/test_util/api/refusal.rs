//! How an API says no.

use bytes::Bytes;
use http::{Response, StatusCode, header};

use crate::test_util::body::ModelBody;

/// The answer to a request without a good token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// 401 with `WWW-Authenticate: Bearer error="invalid_token"` (RFC 6750 §3.1). This is the default.
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
    pub(super) fn answer(&self) -> Response<ModelBody> {
        match *self {
            Refusal::Unauthorized => {
                let mut response = json(StatusCode::UNAUTHORIZED, r#"{"error":"invalid_token"}"#.to_owned());
                let challenge =
                    http::HeaderValue::from_static(r#"Bearer realm="model", error="invalid_token""#);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            Refusal::Status(status) => {
                let mut response = Response::new(ModelBody::default());
                *response.status_mut() = status;
                response
            }
            Refusal::ForbiddenCode(code) => {
                json(StatusCode::FORBIDDEN, format!(r#"{{"error_code":{code}}}"#))
            }
            Refusal::Errcode(code) => json(StatusCode::OK, format!(r#"{{"errcode":{code}}}"#)),
            Refusal::Custom(ref response) => response.clone().map(ModelBody::from),
        }
    }
}

pub(super) fn json(status: StatusCode, text: String) -> Response<ModelBody> {
    let mut response = Response::new(ModelBody::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
