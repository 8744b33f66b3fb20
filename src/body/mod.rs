//! Request bodies that can be sent twice.
//!
//! The layer hands every request on with a [`ReplayBody`] around its body. It forwards frames as they come and keeps
//! a copy of the first `replay_limit` bytes until the response is accepted:
//!
//! 1. A body that is known to be empty costs nothing. One whose length is known and within the limit is asked for its
//!    first frame at once; if that frame is all of it, the second attempt is a clone of those [`Bytes`](bytes::Bytes)
//!    (trailers are never dropped: a body that may have some takes the next way).
//! 2. Any other body is left alone until the client reads it, and is recorded as it passes. If the server refuses
//!    the token before the upload has ended, the upload waits. The second attempt replays what was recorded and
//!    then reads on from the same body; the first one is cut off with an error.
//! 3. Once more than the limit has passed, nothing is kept and the request is sent just once: the caller gets the
//!    refused response, and [`NotReplayable`] as the reason.
//!
//! What counts against the limit is the data and the trailers: 32 bytes for each block of trailers, and for each field its
//! name, its value and 32 bytes. A body of exactly the limit can be sent again however it is chunked: frames under 1 KiB
//! are copied together, so the bookkeeping stays small beside the payload. Longer frames are kept as they are: a slice of a
//! larger buffer keeps all of that buffer.
//!
//! Both attempts give the same size hint at the start, and so get the same `content-length`.
//!
//! # Uploads that outrun the limit
//!
//! Against a source that is faster than the round trip, sockets swallow megabytes before a refusal can be read. Raise the
//! limit, or tell the layer how to make the body once more. Then nothing is kept:
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower_token_refresh::body::Rebuild;
//!
//! let video = Bytes::from_static(&[0; 1 << 20]);
//! let mut request = http::Request::post("https://api.example.com/videos").body(Full::new(video.clone()))?;
//! request.extensions_mut().insert(Rebuild::new(move || Full::new(video.clone())));
//! # Ok::<(), http::Error>(())
//! ```

mod buffer;
mod guarded;
#[cfg(all(test, token_refresh_loom))]
mod models;
mod replay;
mod shared;
mod source;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub(crate) use self::replay::Replay;
pub use self::replay::ReplayBody;

/// Makes the body of a request once more: a request extension. See the [module docs](self).
///
/// `B` must be the body type of the request itself, otherwise the extension is not found.
pub struct Rebuild<B>(Arc<dyn Fn() -> B + Send + Sync>);

impl<B> Rebuild<B> {
    /// A closure that makes a body equal to the one the request has.
    ///
    /// It is called at most once, and only when there is a new token to send the request again with: before the
    /// service is asked for readiness, because the first body is dropped then.
    pub fn new(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Rebuild(Arc::new(make))
    }

    fn make(&self) -> B {
        (self.0)()
    }
}

impl<B> Clone for Rebuild<B> {
    fn clone(&self) -> Self {
        Rebuild(Arc::clone(&self.0))
    }
}

impl<B> fmt::Debug for Rebuild<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rebuild(..)")
    }
}

/// Why a body cannot be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotReplayable {
    /// More than `replay_limit` bytes of it had been sent when the refusal came; or nothing of it is kept at all,
    /// [`without_replay`](crate::TokenRefreshLayer::without_replay).
    TooLarge,
    /// The body itself failed while it was sent for the first time.
    Failed,
    /// It had a frame that is neither data nor trailers.
    UnknownFrame,
}

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotReplayable::TooLarge => "more of the body had been sent than is kept",
            NotReplayable::Failed => "the body failed while it was sent",
            NotReplayable::UnknownFrame => "the body had a frame of unknown kind",
        })
    }
}
