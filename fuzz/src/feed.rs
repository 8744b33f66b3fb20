//! A request body that is fed by hand, and wakers that remember.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::steps::Broken;

/// The far end of a [`Fed`] body.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    frames: VecDeque<Result<Frame<Bytes>, Broken>>,
    is_closed: bool,
    /// Of all its data; `None` is not told.
    length: Option<u64>,
    announces_end: bool,
    waker: Option<Waker>,
}

pub(crate) struct Fed(Feed);

impl Feed {
    pub(crate) fn new(length: Option<u64>, announces_end: bool) -> (Self, Fed) {
        let feed = Feed::default();
        feed.queue().length = length;
        feed.queue().announces_end = announces_end;
        (feed.clone(), Fed(feed))
    }

    /// The next frame; `None` is the end.
    pub(crate) fn give(&self, frame: Option<Result<Frame<Bytes>, Broken>>) {
        let waker = {
            let mut queue = self.queue();
            match frame {
                Some(frame) => queue.frames.push_back(frame),
                None => queue.is_closed = true,
            }
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap()
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut queue = self.0.queue();
        match queue.frames.pop_front() {
            Some(frame) => {
                if let (Some(length), Ok(Some(data))) =
                    (&mut queue.length, frame.as_ref().map(Frame::data_ref))
                {
                    *length -= data.len() as u64;
                }
                Poll::Ready(Some(frame))
            }
            None if queue.is_closed => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.queue();
        queue.announces_end && queue.is_closed && queue.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.queue().length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Polls somebody, and knows whether they were told to come again.
#[derive(Default)]
pub(crate) struct Poller {
    woken: Arc<Woken>,
    waits: bool,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Poller {
    pub(crate) fn poll<T>(&mut self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let was_woken = self.woken.0.swap(false, Ordering::Relaxed);
        let polled = poll(&mut Context::from_waker(&Waker::from(self.woken.clone())));
        assert!(!self.waits || was_woken || polled.is_pending(), "who can go on is woken");
        self.waits = polled.is_pending();
        polled
    }
}
