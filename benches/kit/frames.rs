//! A body in frames of 16 KiB.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

pub(crate) const FRAME: usize = 16 * 1024;

/// So many bytes, in frames that `make` makes.
pub(crate) struct Frames<F> {
    left: usize,
    make: F,
}

impl<F: Fn(usize) -> Bytes + Unpin> Frames<F> {
    pub(crate) fn new(bytes: usize, make: F) -> Self {
        Frames { left: bytes, make }
    }
}

impl<F: Fn(usize) -> Bytes + Unpin> Body for Frames<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.min(FRAME);
        self.left -= length;
        Poll::Ready((length > 0).then(|| Ok(Frame::data((self.make)(length)))))
    }
}
