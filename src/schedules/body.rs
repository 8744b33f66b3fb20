//! A body that comes in pieces, now and then.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::sync::turns::below;

#[derive(Default)]
pub(super) struct Trickle {
    passed: usize,
}

impl Trickle {
    pub(super) const WHOLE: &str = "abc";
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if below(3) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = Self::WHOLE.get(self.passed..=self.passed);
        self.passed += 1;
        Poll::Ready(next.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}
