//! What the models have received.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, request::Parts};
use http_body::Body;

use crate::{error::BoxError, session::Session};

/// A request as a model received it. `Debug` shows names and lengths, no value that may hold a credential.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// Method, URI, version, headers and extensions. A [`Session`] is not kept: it would live as long as the model.
    pub head: Parts,
    /// The bytes of the body that have come by its end; none while it is [`Open`](Upload::Open).
    pub body: Bytes,
    /// The trailers, if there were any, as of the body.
    pub trailers: Option<HeaderMap>,
    /// What became of the body.
    pub upload: Upload,
}

/// What became of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upload {
    /// It has not come to its end yet.
    Open,
    /// It was read to its end.
    Complete,
    /// The client gave it up, or it failed.
    Broken,
    /// The model let go of it before its end, by itself or because the call was dropped.
    Dropped,
}

impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRequest")
            .field("method", &self.head.method)
            .field("path", &self.head.uri.path())
            .field("headers", &self.head.headers.keys().collect::<Vec<_>>())
            .field("body", &self.body.len())
            .field("trailers", &self.trailers.is_some())
            .field("upload", &self.upload)
            .finish_non_exhaustive()
    }
}

/// All requests of a model in the order of their arrival.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<ReceivedRequest>>>);

impl Log {
    /// Records the head now and the body as soon as its fate is known.
    pub(super) fn receive<B>(&self, mut head: Parts, body: B) -> Incoming<B> {
        head.extensions.remove::<Session>();
        let mut log = self.0.lock().expect(UNBROKEN);
        log.push(ReceivedRequest { head, body: Bytes::new(), trailers: None, upload: Upload::Open });
        let entry = Entry {
            log: self.clone(),
            index: log.len() - 1,
            body: BytesMut::new(),
            trailers: None,
            upload: Upload::Dropped,
        };
        Incoming { entry, body }
    }

    pub(super) fn requests(&self) -> Vec<ReceivedRequest> {
        self.0.lock().expect(UNBROKEN).clone()
    }
}

/// A body that has not been read, and its place in the log.
pub(super) struct Incoming<B> {
    entry: Entry,
    body: B,
}

impl<B> Incoming<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Reads the body to its end.
    pub(super) async fn read(self) -> Result<Bytes, BoxError> {
        let Incoming { mut entry, body } = self;
        let mut body = pin!(body);
        // A body that says it is over is not asked again: behind the last byte hyper's server reports that the
        // connection ended, if the answer was given before and the client hangs up now.
        while !body.is_end_stream() {
            let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else { break };
            let frame = frame.map_err(|error| {
                entry.upload = Upload::Broken;
                error.into()
            })?;
            match frame.into_data() {
                Ok(data) => entry.body.put(data),
                Err(frame) => entry.trailers = frame.into_trailers().ok(),
            }
        }
        entry.upload = Upload::Complete;
        Ok(entry.body.clone().freeze())
    }
}

/// Writes what has been read into the log when it is dropped, so that a call given up halfway is seen too.
struct Entry {
    log: Log,
    index: usize,
    body: BytesMut,
    trailers: Option<HeaderMap>,
    upload: Upload,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Never a second panic while one unwinds.
        if let Ok(mut log) = self.log.0.lock() {
            let received = &mut log[self.index];
            received.body = self.body.split().freeze();
            received.trailers = self.trailers.take();
            received.upload = self.upload;
        }
    }
}

/// How many calls are inside, and how many were at most.
#[derive(Default)]
pub(super) struct InFlight {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl InFlight {
    pub(super) fn enter(&self) -> Inside<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.max.fetch_max(now, Ordering::SeqCst);
        Inside(self)
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::SeqCst)
    }
}

pub(super) struct Inside<'a>(&'a InFlight);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

const UNBROKEN: &str = "nothing panics while it writes the log";
