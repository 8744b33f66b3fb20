//! The head of a request, kept while its first attempt is under way.
//!
//! Nearly no request is sent again, so what counts is what keeping costs, not what giving back costs. A clone of a head
//! is at least three allocations and a large thing to move. Here it is written into one that was used before.

mod fields;
mod spare;

use http::{Extensions, HeaderMap, Method, Uri, Version, request::Parts};
use zeroize::Zeroize;

/// The head as the caller wrote it, so that each attempt gets the credential of its own moment.
pub(crate) struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    extensions: Extensions,
    /// The header fields as [text](fields); wiped when it is not needed any more.
    text: Vec<u8>,
    /// The header fields, if they are not written as text.
    fields: Option<HeaderMap>,
}

impl Head {
    /// Without the header fields and extensions if the request is not sent again: a classifier sees the rest only.
    pub(crate) fn of(parts: &Parts, is_whole: bool) -> Box<Self> {
        let mut head = spare::take();
        head.method = parts.method.clone();
        head.uri = parts.uri.clone();
        head.version = parts.version;
        if is_whole {
            head.extensions = parts.extensions.clone();
            if !fields::write(&parts.headers, &mut head.text) {
                head.fields = Some(parts.headers.clone());
            }
        }
        head
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The head once more.
    pub(crate) fn parts(&self) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = self.uri.clone();
        parts.version = self.version;
        parts.headers = self.fields.clone().unwrap_or_else(|| fields::read(&self.text));
        parts.extensions = self.extensions.clone();
        parts
    }

    /// Leaves it to the next request.
    pub(crate) fn put_back(self: Box<Self>) {
        spare::put_back(self);
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}
