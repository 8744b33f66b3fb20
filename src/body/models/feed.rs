//! A body that another thread feeds.

use std::{
    collections::VecDeque,
    error::Error as StdError,
    fmt,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::sync::{Arc, Mutex};

/// The far end of a [`Fed`] body.
#[derive(Clone, Default)]
pub(super) struct Feed(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    steps: VecDeque<Step>,
    waker: Option<Waker>,
    is_dropped: bool,
}

/// What a poll of the body comes to.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Data(&'static str),
    Fail,
    Panic,
    End,
}

pub(super) struct Fed(Feed);

impl Feed {
    /// A body that has these steps ready.
    pub(super) fn ready(steps: impl IntoIterator<Item = Step>) -> (Self, Fed) {
        let queue = Queue { steps: steps.into_iter().collect(), ..Queue::default() };
        let feed = Feed(Arc::new(Mutex::new(queue)));
        (feed.clone(), Fed(feed))
    }

    pub(super) fn push(&self, step: Step) {
        let waker = self.with(|queue| {
            queue.steps.push_back(step);
            queue.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.with(|queue| queue.is_dropped)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Queue) -> T) -> T {
        f(&mut self.0.lock().expect("nothing panics under it"))
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let step = self.0.with(|queue| {
            let step = queue.steps.pop_front();
            if step.is_none() {
                queue.waker = Some(cx.waker().clone());
            }
            step
        });
        match step {
            None => Poll::Pending,
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data.as_bytes()))))),
            Some(Step::Fail) => Poll::Ready(Some(Err(Broken))),
            Some(Step::Panic) => resume_unwind(Box::new("the body's own affair")),
            Some(Step::End) => Poll::Ready(None),
        }
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        let waker = self.0.with(|queue| {
            queue.is_dropped = true;
            queue.waker.take()
        });
        drop(waker);
    }
}

#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl StdError for Broken {}
