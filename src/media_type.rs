//! The content type of a message.

use http::{HeaderMap, header::CONTENT_TYPE};

/// Without its parameters, whatever bytes are in them, and in whatever case it was written.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(CONTENT_TYPE)?.as_bytes().split(|&byte| byte == b';').next()?;
    std::str::from_utf8(kind).ok().map(str::trim)
}
