//! A response body that comes as an input says.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};

/// What one poll of the body brings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Fail,
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body broke")
    }
}

impl std::error::Error for Broken {}

/// Reads steps from bytes: 0 ends a frame, 1 waits, 2 is a block of trailers, 3 fails; all else is data.
pub(crate) fn steps(input: &[u8]) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    for (number, piece) in input.split_inclusive(|&byte| byte < 4).enumerate() {
        let (data, mark) = match piece.split_last() {
            Some((&mark, data)) if mark < 4 => (data, Some(mark)),
            _ => (piece, None),
        };
        if !data.is_empty() || mark == Some(0) {
            steps.push_back(Step::Data(Bytes::copy_from_slice(data)));
        }
        match mark {
            Some(1) => steps.push_back(Step::Wait),
            Some(2) => {
                let number = HeaderValue::from(number as u64);
                steps.push_back(Step::Trailers(HeaderMap::from_iter([("x-step".parse().unwrap(), number)])));
            }
            Some(3) => steps.push_back(Step::Fail),
            _ => {}
        }
    }
    steps
}

/// The body itself.
#[derive(Clone)]
pub(crate) struct Steps {
    pub(crate) left: VecDeque<Step>,
    /// Whether it tells its length and its end.
    pub(crate) tells: bool,
}

impl Body for Steps {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match self.left.pop_front() {
            None => None,
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Fail) => Some(Err(Broken)),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells && self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.tells {
            return SizeHint::default();
        }
        let length = |step: &Step| if let Step::Data(data) = step { data.len() as u64 } else { 0 };
        SizeHint::with_exact(self.left.iter().map(length).sum())
    }
}

/// Reads a body that was handed on and the one that was sent to their ends, step by step.
pub(crate) async fn compare(mut seen: impl Body<Data = Bytes, Error = Broken> + Unpin, mut sent: Steps) {
    loop {
        while sent.left.front() == Some(&Step::Wait) {
            sent.left.pop_front();
        }
        let (hint, expected) = (seen.size_hint(), sent.size_hint());
        assert_eq!((hint.lower(), hint.upper()), (expected.lower(), expected.upper()));
        assert!(!seen.is_end_stream() || sent.left.is_empty());
        let frame = poll_fn(|cx| Pin::new(&mut seen).poll_frame(cx)).await;
        let Some(step) = sent.left.pop_front() else {
            assert!(frame.is_none());
            return;
        };
        match (frame, step) {
            (Some(Ok(frame)), Step::Data(data)) => assert_eq!(frame.into_data().ok(), Some(data)),
            (Some(Ok(frame)), Step::Trailers(map)) => assert_eq!(frame.into_trailers().ok(), Some(map)),
            (Some(Err(Broken)), Step::Fail) => return,
            (_, step) => panic!("{step:?} is missing"),
        }
    }
}
