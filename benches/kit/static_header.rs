//! A fixed credential, as clients have it that refresh nothing.

use http::{HeaderValue, header::AUTHORIZATION};
use tower_http::set_header::SetRequestHeaderLayer;

pub(crate) fn static_header() -> SetRequestHeaderLayer<HeaderValue> {
    SetRequestHeaderLayer::overriding(AUTHORIZATION, HeaderValue::from_static("Bearer token"))
}
