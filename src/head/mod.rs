//! The head of a request, kept while its first attempt is under way.
//!
//! Nearly no request is sent again, so what counts is what keeping costs, not what giving back costs. A clone of a head
//! is at least three allocations and a large thing to move. Here it is written into one that was used before.

mod fields;
mod spare;

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

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
    #[inline]
    fn of<B>(request: &Request<B>, is_whole: bool) -> Box<Self> {
        let more = is_whole.then(|| (request.headers(), request.extensions()));
        Self::written(request.method(), request.uri(), request.version(), more)
    }

    fn written(
        method: &Method,
        uri: &Uri,
        version: Version,
        more: Option<(&HeaderMap, &Extensions)>,
    ) -> Box<Self> {
        let mut head = spare::take();
        // There is none, which an assignment would have to find out before it drops what was there.
        head.line.get_or_insert_with(|| Line { method: method.clone(), uri: uri.clone(), version });
        if let Some((fields, extensions)) = more {
            if !extensions.is_empty() {
                head.extensions = extensions.clone();
            }
            if !fields.is_empty() {
                head.fields.write(fields);
            }
        }
        head
    }

    pub(crate) fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// A request that has this head once more.
    pub(crate) fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        if let Some(Line { method, uri, version }) = self.line.clone() {
            (*request.method_mut(), *request.uri_mut(), *request.version_mut()) = (method, uri, version);
        }
        *request.headers_mut() = self.fields.read();
        *request.extensions_mut() = self.extensions.clone();
        request
    }

    /// Empties it and leaves it to the next request, unless it is large.
    fn put_back(mut self: Box<Self>) {
        if !self.fields.is_empty() {
            if self.fields.room() > spare::LARGEST {
                return;
            }
            self.fields.clear();
        }
        self.line = None;
        self.extensions.clear();
        spare::put_back(self);
    }
}

/// What is kept of one request, and left to the next one when it is dropped.
#[derive(Default)]
pub(crate) struct Kept(Option<Box<Head>>);

impl Kept {
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>, is_whole: bool) -> Self {
        Kept(Some(Head::of(request, is_whole)))
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&Head> {
        self.0.as_deref()
    }
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        if let Some(head) = self.0.take() {
            head.put_back();
        }
    }
}
