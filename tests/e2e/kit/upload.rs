//! A request body that the test can watch.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tower_token_refresh::BoxError;

const FRAME: u64 = 16 * 1024;

/// A body that is produced as far as the test allows, in frames of 16 KiB at most.
pub(crate) struct Upload {
    control: UploadControl,
    length: u64,
    position: u64,
    announced: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// The test's side of an [`Upload`].
#[derive(Clone)]
pub(crate) struct UploadControl(Arc<Control>);

struct Control {
    throttle: Mutex<Throttle>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Throttle {
    allowed: u64,
    waker: Option<Waker>,
}

/// What has become of an [`Upload`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Bytes that the body has been asked for and has given.
    pub(crate) produced: u64,
    /// Those of them that somebody still holds.
    pub(crate) alive: u64,
    /// The most that were alive at once.
    pub(crate) peak: u64,
    /// The body itself is gone.
    pub(crate) dropped: bool,
}

impl Upload {
    /// A body of [`pattern`] whose length the client is told; nothing of it is allowed yet.
    pub(crate) fn new(length: u64) -> (Self, UploadControl) {
        let progress = watch::Sender::default();
        let control = UploadControl(Arc::new(Control { throttle: Mutex::default(), progress }));
        let upload = Upload {
            control: control.clone(),
            length,
            position: 0,
            announced: true,
            trailers: None,
            ended: false,
        };
        (upload, control)
    }

    /// The client is not told the length.
    pub(crate) fn unannounced(mut self) -> Self {
        self.announced = false;
        self
    }

    /// With a trailer after the last byte.
    pub(crate) fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().expect("a header value"));
        self.trailers = Some(trailers);
        self.unannounced()
    }
}

impl UploadControl {
    /// Allows the first so many bytes; more than there are, and the body may end.
    pub(crate) fn allow(&self, bytes: u64) {
        let waker = {
            let mut throttle = self.0.throttle.lock().expect(UNBROKEN);
            throttle.allowed = bytes;
            throttle.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn allow_all(&self) {
        self.allow(u64::MAX);
    }

    pub(crate) fn progress(&self) -> Progress {
        *self.0.progress.borrow()
    }

    pub(crate) async fn until(&self, condition: impl FnMut(&Progress) -> bool) {
        self.0.progress.subscribe().wait_for(condition).await.expect("the sender lives in `self`");
    }

    /// Waits until so many bytes have been asked for.
    pub(crate) async fn produced(&self, bytes: u64) {
        self.until(|progress| progress.produced >= bytes).await;
    }

    /// Waits until the body and all that it has given are gone.
    pub(crate) async fn gone(&self) {
        self.until(|progress| progress.dropped && progress.alive == 0).await;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let allowed = {
            let mut throttle = self.control.0.throttle.lock().expect(UNBROKEN);
            if throttle.allowed <= self.position && !self.ended {
                throttle.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            throttle.allowed
        };
        let size = FRAME.min(self.length - self.position).min(allowed - self.position);
        if size == 0 {
            self.ended = true;
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let data = pattern(self.position, size);
        self.position += size;
        self.control.0.progress.send_modify(|progress| {
            progress.produced += size;
            progress.alive += size;
            progress.peak = progress.peak.max(progress.alive);
        });
        let counted = Counted { data, control: self.control.clone() };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(counted)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced { SizeHint::with_exact(self.length - self.position) } else { SizeHint::new() }
    }
}

/// Bytes that are missed when they are gone.
struct Counted {
    data: Vec<u8>,
    control: UploadControl,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let size = self.data.len() as u64;
        self.control.0.progress.send_modify(|progress| progress.alive -= size);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.control.0.progress.send_modify(|progress| progress.dropped = true);
    }
}

/// Bytes that tell where they belong: none of them can be left out, doubled or moved unnoticed.
pub(crate) fn pattern(position: u64, size: u64) -> Vec<u8> {
    (position..position + size).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

const UNBROKEN: &str = "nothing panics while it holds the throttle";
