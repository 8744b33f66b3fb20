//! The head of a request, kept while its first attempt is under way.
//!
//! Nearly no request is sent again, so what counts is what keeping costs, not what giving back costs. A clone of a head
//! is at least three allocations and a large thing to move. Here it is written into one that was used before.

mod fields;
mod spare;

use http::{Extensions, Method, Uri, Version, request::Parts};

use self::fields::Fields;

/// The head as the caller wrote it, so that each attempt gets the credential of its own moment.
#[derive(Default)]
pub(crate) struct Head {
    line: Option<Line>,
    extensions: Extensions,
    fields: Fields,
}

/// What a classifier sees of it.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    version: Version,
}

impl Head {
    /// Without the header fields and extensions if the request is not sent again.
    pub(crate) fn of(parts: &Parts, is_whole: bool) -> Box<Self> {
        let mut head = spare::take();
        head.line =
            Some(Line { method: parts.method.clone(), uri: parts.uri.clone(), version: parts.version });
        if is_whole {
            head.extensions.clone_from(&parts.extensions);
            head.fields.write(&parts.headers);
        }
        head
    }

    pub(crate) fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// The head once more.
    pub(crate) fn parts(&self) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        if let Some(Line { method, uri, version }) = self.line.clone() {
            (parts.method, parts.uri, parts.version) = (method, uri, version);
        }
        parts.headers = self.fields.read();
        parts.extensions = self.extensions.clone();
        parts
    }

    /// Leaves it to the next request.
    pub(crate) fn put_back(self: Box<Self>) {
        spare::put_back(self);
    }
}
