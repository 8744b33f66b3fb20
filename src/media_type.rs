//! The content type of a message.

use http::{HeaderMap, header::CONTENT_TYPE};

/// Without its parameters, and in whatever case it was written.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    content_type.split(';').next().map(str::trim)
}
