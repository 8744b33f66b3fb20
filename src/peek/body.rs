use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};

/// How many frames are read ahead at most: a body of empty ones must come to an end too.
const FRAMES: usize = 1024;

type Item<E> = Result<Frame<Bytes>, E>;

/// A response body of which some frames may have been read ahead; it gives those first, and then the rest as it comes.
///
/// Frames, trailers, errors and size hint are those of `B`. It is `Unpin` whatever `B` is.
pub struct PeekBody<B: Body> {
    /// Each with the size hint that stood before it.
    ahead: VecDeque<(SizeHint, Item<B::Error>)>,
    /// Of the data in `ahead`.
    length: u64,
    rest: Pin<Box<B>>,
    has_ended: bool,
}

impl<B: Body> PeekBody<B> {
    pub(super) fn new(body: B) -> Self {
        PeekBody { ahead: VecDeque::new(), length: 0, rest: Box::pin(body), has_ended: false }
    }

    /// Reads ahead to the end of the body. `false`: it failed before, or is longer than this; if that is known
    /// beforehand, nothing is read.
    fn poll_to_end(&mut self, cx: &mut Context<'_>, limit: u64) -> Poll<bool> {
        while !self.has_ended {
            let length = self.length.saturating_add(self.rest.size_hint().lower());
            if length > limit || self.ahead.len() > FRAMES || ready!(self.poll_ahead(cx)) {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// Reads one frame ahead. `true`: the body failed instead.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let hint = self.rest.size_hint();
        let Some(item) = ready!(self.poll_rest(cx)) else { return Poll::Ready(false) };
        let failed = item.is_err();
        if let Some(data) = item.as_ref().ok().and_then(Frame::data_ref) {
            self.length += data.len() as u64;
        }
        self.ahead.push_back((hint, item));
        Poll::Ready(failed)
    }

    /// What has been read ahead.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Frame<Bytes>> {
        self.ahead.iter().filter_map(|(_, item)| item.as_ref().ok())
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item<B::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.rest.as_mut().poll_frame(cx));
        self.has_ended = item.is_none();
        let in_bytes =
            |frame: Frame<B::Data>| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        Poll::Ready(item.map(|item| item.map(in_bytes)))
    }
}

/// For layers that answer by themselves, as timeouts do.
impl<B: Body + Default> Default for PeekBody<B> {
    fn default() -> Self {
        PeekBody::new(B::default())
    }
}

/// Nothing in it is pinned but what is in the box.
impl<B: Body> Unpin for PeekBody<B> {}

impl<B: Body> Body for PeekBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item<B::Error>>> {
        match self.ahead.pop_front() {
            Some((_, item)) => Poll::Ready(Some(item)),
            None => self.poll_rest(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && (self.has_ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.ahead.front().map_or_else(|| self.rest.size_hint(), |(hint, _)| *hint)
    }
}

/// Reads the body of a response ahead, as [`PeekBody::poll_to_end`] does, and gives the response away.
pub(super) fn poll_read<B: Body>(
    slot: &mut Option<Response<PeekBody<B>>>,
    cx: &mut Context<'_>,
    limit: u64,
) -> Poll<(Response<PeekBody<B>>, bool)> {
    let mut response = slot.take().expect("a future is not polled after its end");
    match response.body_mut().poll_to_end(cx, limit) {
        Poll::Ready(is_whole) => Poll::Ready((response, is_whole)),
        Poll::Pending => {
            *slot = Some(response);
            Poll::Pending
        }
    }
}

impl<B: Body> fmt::Debug for PeekBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekBody").field("frames_ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}
