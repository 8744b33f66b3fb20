use std::{
    convert::Infallible,
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use zeroize::Zeroizing;

/// The body of a source's request.
///
/// It holds credentials: `Debug` tells its length only, and the bytes are overwritten with zeros when the last handle
/// on them is dropped. A client with a body type of its own takes the bytes: `Full::from(Bytes::from(content))`.
#[derive(Clone)]
pub struct Content {
    bytes: Bytes,
    read: Arc<AtomicBool>,
}

/// Tells whether a client has begun to read a [`Content`]. As long as it has not, the authority cannot have acted on
/// the request, whatever else went wrong.
pub(super) struct ReadMark(Arc<AtomicBool>);

impl Content {
    pub(in crate::source) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Content { bytes: Bytes::from_owner(bytes), read: Arc::default() }
    }

    pub(super) fn read_mark(&self) -> ReadMark {
        ReadMark(self.read.clone())
    }

    fn take(&mut self) -> Bytes {
        self.read.store(true, Ordering::Relaxed);
        mem::take(&mut self.bytes)
    }
}

impl ReadMark {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<Content> for Bytes {
    fn from(mut content: Content) -> Self {
        content.take()
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.take();
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.bytes.len())
    }
}
