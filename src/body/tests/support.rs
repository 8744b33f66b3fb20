//! A body fed by hand, and short words for what a client sees of one.

use std::{
    collections::VecDeque,
    marker::PhantomPinned,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio_test::task::Spawn;

use super::super::{Replay, ReplayBody};
use crate::error::BoxError;

/// The far end of a [`Fed`] body.
#[derive(Clone, Default)]
pub(super) struct Feed(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    frames: VecDeque<Result<Frame<Bytes>, Broken>>,
    closed: bool,
    /// Whether `is_end_stream` says so as soon as it can be known.
    announces_end: bool,
    hint: SizeHint,
    waker: Option<Waker>,
    on_poll: Option<Box<dyn FnOnce() + Send>>,
    on_look: Option<Box<dyn FnOnce() + Send>>,
    polls: usize,
    dropped: bool,
}

/// Not `Unpin`.
pub(super) struct Fed(Feed, PhantomPinned);

#[derive(Debug, PartialEq)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

impl Feed {
    pub(super) fn new() -> (Self, Fed) {
        let feed = Feed::default();
        (feed.clone(), Fed(feed, PhantomPinned))
    }

    pub(super) fn sized(hint: SizeHint) -> (Self, Fed) {
        let (feed, body) = Feed::new();
        feed.with(|queue| queue.hint = hint);
        (feed, body)
    }

    pub(super) fn exact(length: u64) -> (Self, Fed) {
        Feed::sized(SizeHint::with_exact(length))
    }

    /// Everything at once, and the end.
    pub(super) fn whole(frames: impl IntoIterator<Item = Frame<Bytes>>) -> (Self, Fed) {
        let (feed, body) = Feed::new();
        for frame in frames {
            feed.frame(frame);
        }
        feed.close();
        (feed, body)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Queue) -> T) -> T {
        f(&mut self.0.lock().expect("no test panics here"))
    }

    fn change(&self, f: impl FnOnce(&mut Queue)) {
        let waker = self.with(|queue| {
            f(queue);
            queue.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn frame(&self, frame: Frame<Bytes>) {
        self.change(|queue| queue.frames.push_back(Ok(frame)));
    }

    pub(super) fn data(&self, data: impl Into<Bytes>) {
        self.frame(Frame::data(data.into()));
    }

    pub(super) fn trailers(&self) {
        self.frame(Frame::trailers(trailers()));
    }

    pub(super) fn fail(&self) {
        self.change(|queue| queue.frames.push_back(Err(Broken)));
    }

    pub(super) fn close(&self) {
        self.change(|queue| queue.closed = true);
    }

    pub(super) fn announce_end(&self) {
        self.with(|queue| queue.announces_end = true);
    }

    /// Runs when it is asked next whether it has ended.
    pub(super) fn on_look(&self, hook: impl FnOnce() + Send + 'static) {
        self.with(|queue| queue.on_look = Some(Box::new(hook)));
    }

    /// Runs in the middle of the next poll.
    pub(super) fn on_poll(&self, hook: impl FnOnce() + Send + 'static) {
        self.with(|queue| queue.on_poll = Some(Box::new(hook)));
    }

    pub(super) fn polls(&self) -> usize {
        self.with(|queue| queue.polls)
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.with(|queue| queue.dropped)
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let hook = self.0.with(|queue| queue.on_poll.take());
        if let Some(hook) = hook {
            hook();
        }
        self.0.with(|queue| {
            queue.polls += 1;
            match queue.frames.pop_front() {
                Some(frame) => {
                    if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                        queue.hint = shrunk(queue.hint, data.len() as u64);
                    }
                    Poll::Ready(Some(frame))
                }
                None if queue.closed => Poll::Ready(None),
                None => {
                    queue.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let hook = self.0.with(|queue| queue.on_look.take());
        if let Some(hook) = hook {
            hook();
        }
        self.0.with(|queue| queue.announces_end && queue.closed && queue.frames.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.with(|queue| queue.hint)
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.0.with(|queue| queue.dropped = true);
    }
}

fn shrunk(hint: SizeHint, passed: u64) -> SizeHint {
    let mut left = SizeHint::new();
    left.set_lower(hint.lower().saturating_sub(passed));
    if let Some(upper) = hint.upper() {
        left.set_upper(upper.saturating_sub(passed));
    }
    left
}

/// What a poll has shown.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Data(Bytes),
    Trailers(HeaderMap),
    Error(String),
    End,
    Wait,
}

pub(super) fn data(text: &'static str) -> Seen {
    Seen::Data(text.into())
}

pub(super) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"1\""))])
}

pub(super) fn cut_off() -> Seen {
    Seen::Error("the upload was cut off: the request was sent again or given up".to_owned())
}

pub(super) fn lost() -> Seen {
    Seen::Error("the upload was cut off: the body has failed before".to_owned())
}

/// A client that sends a body.
pub(super) type Client<B> = Spawn<ReplayBody<B>>;

pub(super) fn record<B>(body: B, limit: usize) -> (Client<B>, Replay<B>)
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    let (body, replay) = ReplayBody::recording(body, limit, None);
    (tokio_test::task::spawn(body), replay)
}

pub(super) fn take_over<B>(replay: &mut Replay<B>) -> Client<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    tokio_test::task::spawn(replay.take_over())
}

pub(super) fn poll<B>(client: &mut Client<B>) -> Seen
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    match client.enter(|cx, body| body.poll_frame(cx)) {
        Poll::Pending => Seen::Wait,
        Poll::Ready(None) => Seen::End,
        Poll::Ready(Some(Err(error))) => Seen::Error(error.to_string()),
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => Seen::Data(data),
            Err(frame) => Seen::Trailers(frame.into_trailers().expect("there are two kinds")),
        },
    }
}

/// The bytes up to the end or the next wait, and the trailers if there were any.
pub(super) fn read<B>(client: &mut Client<B>) -> (Vec<u8>, Option<HeaderMap>)
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    let (mut bytes, mut trailers) = (Vec::new(), None);
    loop {
        match poll(client) {
            Seen::Data(data) => bytes.extend_from_slice(&data),
            Seen::Trailers(map) => trailers = Some(map),
            Seen::Wait | Seen::End => return (bytes, trailers),
            Seen::Error(error) => panic!("{error}"),
        }
    }
}

/// Counts the bytes of its buffers that are alive.
#[derive(Clone, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub(super) fn alive(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn bytes(&self, length: usize) -> Bytes {
        struct Owner(Vec<u8>, Gauge);

        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl Drop for Owner {
            fn drop(&mut self) {
                self.1.0.fetch_sub(self.0.len(), Ordering::SeqCst);
            }
        }

        self.0.fetch_add(length, Ordering::SeqCst);
        Bytes::from_owner(Owner(vec![b'x'; length], self.clone()))
    }
}
