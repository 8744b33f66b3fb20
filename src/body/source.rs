//! The caller's body, seen as frames of `Bytes`.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use crate::error::BoxError;

/// All of a body of the most common type. Any other has to be boxed before it can be polled.
///
/// # Errors
///
/// The body, if it is of another type.
pub(super) fn take_whole<B: 'static>(body: B) -> Result<Bytes, B> {
    let mut body = Some(body);
    if let Some(full) = (&mut body as &mut dyn Any).downcast_mut::<Option<Full<Bytes>>>() {
        let mut cx = Context::from_waker(Waker::noop());
        let frame = full.as_mut().map(|full| Pin::new(full).poll_frame(&mut cx));
        if let Some(Poll::Ready(Some(Ok(frame)))) = frame {
            return Ok(frame.into_data().unwrap_or_default());
        }
    }
    Err(body.expect("nothing has taken it"))
}

/// Data of the most common type is handed on as it is: `copy_to_bytes` would not copy `Bytes` either, but costs a split.
#[inline]
fn into_bytes<D: Buf + 'static>(data: D) -> Bytes {
    let mut data = Some(data);
    if let Some(data) = (&mut data as &mut dyn Any).downcast_mut::<Option<Bytes>>() {
        return data.take().unwrap_or_default();
    }
    data.map_or_else(Bytes::new, |mut data| data.copy_to_bytes(data.remaining()))
}

/// What a body answers when it is ready.
pub(super) type Item = Option<Result<Frame<Bytes>, BoxError>>;

pin_project! {
    /// A body from which the last item read can be put back.
    pub(super) struct Source<B> {
        unread: Option<Item>,
        #[pin]
        body: B,
    }
}

impl<B> Source<B> {
    pub(super) fn new(body: B) -> Pin<Box<Self>> {
        Box::pin(Source { unread: None, body })
    }

    /// Puts back what the last poll has brought, if anything.
    pub(super) fn put_back(self: Pin<&mut Self>, polled: Poll<Item>) {
        if let Poll::Ready(item) = polled {
            *self.project().unread = Some(item);
        }
    }

    /// Takes that again.
    pub(super) fn take_back(self: Pin<&mut Self>) -> Poll<Item> {
        self.project().unread.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<B> Source<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    /// Everything there is, if it is ready as one frame of the length that the body has announced.
    pub(super) fn read_whole(mut self: Pin<&mut Self>, length: u64) -> Option<Bytes> {
        let Poll::Ready(item) = self.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        let item = match item {
            Some(Ok(frame)) if self.is_end_stream() => match frame.into_data() {
                Ok(data) if data.len() as u64 == length => return Some(data),
                Ok(data) => Some(Ok(Frame::data(data))),
                Err(frame) => Some(Ok(frame)),
            },
            item => item,
        };
        self.put_back(Poll::Ready(item));
        None
    }

    #[inline]
    pub(super) fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Item> {
        let this = self.project();
        if this.unread.is_some() {
            return Poll::Ready(this.unread.take().flatten());
        }
        this.body.poll_frame(cx).map(|item| match item {
            Some(Ok(frame)) => Some(Ok(frame.map_data(into_bytes))),
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.body.is_end_stream()
    }

    /// What is left of the body, apart from an item that was put back.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
