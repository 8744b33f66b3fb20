//! The shapes of the requests that are measured.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

/// What a request consists of.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// A GET without headers or body.
    Get,
    /// A GET with four headers.
    GetHeaders,
    /// A POST with four headers and a body of 1 KiB.
    Post,
}

impl Shape {
    pub(crate) const ALL: [Shape; 3] = [Shape::Get, Shape::GetHeaders, Shape::Post];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Get => "get",
            Shape::GetHeaders => "get-4-headers",
            Shape::Post => "post",
        }
    }

    /// One header's value is made anew, as a request's number is; the URI and the rest are constants.
    pub(crate) fn request(self) -> Request<Full<Bytes>> {
        let method = match self {
            Shape::Get | Shape::GetHeaders => Method::GET,
            Shape::Post => Method::POST,
        };
        let body = match self {
            Shape::Get | Shape::GetHeaders => Full::default(),
            Shape::Post => Full::new(Bytes::from_static(&[b'x'; 1024])),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static("https://api.test/orders");
        if let Shape::GetHeaders | Shape::Post = self {
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::USER_AGENT, HeaderValue::from_static("bench"));
            let number = HeaderValue::from_str("a1b2c3d4e5f6").expect("a header value");
            headers.insert(HeaderName::from_static("x-request-id"), number);
        }
        request
    }
}
