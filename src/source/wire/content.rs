use std::{
    convert::Infallible,
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use zeroize::Zeroizing;

/// The body of a source's request.
///
/// It holds credentials: `Debug` tells its length only, and the bytes are overwritten with zeros when the last handle on
/// them is dropped, including the one in the extensions of the request. A client with a body type of its own takes the
/// bytes: `Full::from(Bytes::from(content))`.
pub struct Content {
    bytes: Bytes,
    state: Arc<State>,
}

struct State {
    /// How far a client has come; only ever grows, unless it is made once [more](Content::again).
    step: AtomicU8,
    is_copied: AtomicBool,
    /// How many attempts have got the bytes.
    attempts: AtomicUsize,
}

/// How far a client has come with a [`Content`].
pub(super) struct Progress(Arc<State>);

/// Nobody has the bytes: the authority cannot have acted on the request, whatever else went wrong.
pub(super) const UNREAD: u8 = 0;
/// The client has them, for a body of its own, maybe before there was a connection.
pub(super) const TAKEN: u8 = 1;
/// They were asked for as those of a body, which clients do to send them.
pub(super) const POLLED: u8 = 2;
/// Nobody gets them any more.
const REVOKED: u8 = 3;

impl Content {
    pub(in crate::source) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        // An empty one is sent without anybody reading it.
        let step = if bytes.is_empty() { TAKEN } else { UNREAD };
        let state =
            State { step: AtomicU8::new(step), is_copied: Default::default(), attempts: Default::default() };
        Content { bytes: Bytes::from_owner(bytes), state: Arc::new(state) }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress(self.state.clone())
    }

    /// The same one. To [clone](Content::clone) it is to copy it.
    pub(super) fn handle(&self) -> Self {
        Content { bytes: self.bytes.clone(), state: self.state.clone() }
    }

    /// The same for another attempt. The one before was refused, so nobody has acted on that.
    pub(super) fn again(&self) -> Self {
        let is_copied = self.state.is_copied.load(Ordering::Relaxed);
        // What was revoked meanwhile stays so. An empty one is sent without anybody reading it.
        let unread = |step| (step != REVOKED && !is_copied && !self.bytes.is_empty()).then_some(UNREAD);
        if self.state.step.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unread).is_ok() {
            self.state.attempts.store(0, Ordering::Relaxed);
        }
        self.handle()
    }

    /// Empty if they were revoked: a connection that has the request in its queue ends it without them.
    fn take(&mut self, step: u8) -> Bytes {
        let bytes = mem::take(&mut self.bytes);
        // First: whoever ends it is to know of each attempt that was not revoked.
        self.state.attempts.fetch_add(usize::from(!bytes.is_empty()), Ordering::Relaxed);
        if self.state.step.fetch_max(step, Ordering::Release) == REVOKED { Bytes::new() } else { bytes }
    }
}

impl Progress {
    /// Whether copies of the request were sent, too: what becomes of the last attempt says nothing of those before.
    pub(super) fn is_repeated(&self) -> bool {
        self.0.attempts.load(Ordering::Relaxed) > 1
    }

    /// Whether nobody has the bytes so far.
    pub(super) fn is_unread(&self) -> bool {
        self.0.step.load(Ordering::Relaxed) == UNREAD
    }

    /// How far the client has come, and for good: what is unread stays so.
    pub(super) fn end(&self) -> u8 {
        self.0.step.fetch_max(REVOKED, Ordering::Acquire)
    }
}

/// Whoever copies it may send it more often: a refusal then says nothing of what was sent before.
impl Clone for Content {
    fn clone(&self) -> Self {
        self.state.is_copied.store(true, Ordering::Relaxed);
        self.handle()
    }
}

impl From<Content> for Bytes {
    fn from(mut content: Content) -> Self {
        content.take(TAKEN)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.take(POLLED);
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
