//! The body of both attempts, and the response future's hold on them.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    NotReplayable, Rebuild,
    buffer::{Frames, Recording},
    guarded::{Guarded, Next},
    shared::{Remains, Second, Shared, State},
    source::{self, Item, Source},
};
use crate::{error::BoxError, sync::Arc};

/// A request body that can be sent a second time, within limits. See the [module docs](super).
///
/// It is `Unpin` whatever `B` is, and not `Clone`: a retry layer *inside* the token refresh sees a body that it cannot
/// send again.
///
/// # Errors
///
/// Errors of `B` come through boxed, and downcast to themselves. An upload that has lost its purpose (the request was
/// sent again, or nobody waits for the response any more) ends with an error too, so that the client resets the stream
/// instead of keeping a connection open for it.
pub struct ReplayBody<B>(Kind<B>);

// In two steps, which makes it as small as `Bytes`: every request moves one.
enum Kind<B> {
    /// All that is left, without trailers. Empty: the end.
    Whole(Bytes),
    Streamed(Streamed<B>),
}

enum Streamed<B> {
    /// A body that belongs to this attempt alone.
    Own(Pin<Box<Source<B>>>),
    Guarded(Box<Guarded<B>>),
}

const END: Bytes = Bytes::new();

impl<B> ReplayBody<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    /// A body that is only handed through.
    #[inline(never)]
    pub(crate) fn passing(body: B) -> (Self, Replay<B>) {
        Self::recording(body, 0, None)
    }

    /// A body of which up to `limit` bytes are kept; nothing, if it can be rebuilt.
    // Always, because what it returns is large to move.
    #[inline(always)]
    pub(crate) fn recording(body: B, limit: usize, rebuild: Option<Rebuild<B>>) -> (Self, Replay<B>) {
        if let Some(rebuild) = rebuild {
            return Self::guarded(body, Second::Rebuild(rebuild));
        }
        if body.is_end_stream() {
            return Self::empty();
        }
        let fits = body.size_hint().exact().filter(|length| *length <= limit as u64);
        if fits.is_none() && limit > 0 {
            return Self::read(body, limit, fits);
        }
        match source::take_whole(body) {
            Ok(bytes) if limit == 0 => (ReplayBody(Kind::Whole(bytes)), Replay(Hold::Shared(None))),
            Ok(bytes) => Self::whole(bytes),
            Err(body) => Self::read(body, limit, fits),
        }
    }

    /// Takes over a body that has to be read. Out of line, so that the way of a whole body stays short.
    #[inline(never)]
    fn read(body: B, limit: usize, fits: Option<u64>) -> (Self, Replay<B>) {
        let hint = body.size_hint();
        let mut source = Source::new(body);
        if let Some(bytes) = fits.and_then(|length| source.as_mut().read_whole(length)) {
            return Self::whole(bytes);
        }
        let second = match limit {
            0 => Second::Impossible(NotReplayable::TooLarge),
            _ => Second::Recorded(Recording::new(limit)),
        };
        Self::shared(source, hint, second)
    }

    /// A body of which nothing is read yet, and that is not shared if it is empty.
    fn guarded(body: B, second: Second<B>) -> (Self, Replay<B>) {
        if body.is_end_stream() {
            return Self::empty();
        }
        let hint = body.size_hint();
        Self::shared(Source::new(body), hint, second)
    }

    /// `hint` is that of the body before it was read. Out of line, so that the way of a whole body stays short.
    #[inline(never)]
    fn shared(source: Pin<Box<Source<B>>>, hint: SizeHint, second: Second<B>) -> (Self, Replay<B>) {
        let shared = Arc::new(Shared::new(source, hint, second));
        let first = Guarded::new(Arc::clone(&shared), None);
        (Self::streamed(Streamed::Guarded(first)), Replay(Hold::Shared(Some(shared))))
    }

    /// Polls a body that is not whole. Out of line, so that the way of a whole one stays short.
    #[inline(never)]
    fn poll_streamed(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        match &mut self.0 {
            Kind::Streamed(Streamed::Own(source)) => return source.as_mut().poll_frame(cx),
            Kind::Streamed(Streamed::Guarded(guarded)) if guarded.is_in_hand() => {
                if let Some(frame) = guarded.read_in_hand(cx) {
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
            Kind::Streamed(Streamed::Guarded(guarded)) => {
                if let Some(polled) = guarded.read_on(cx) {
                    return polled;
                }
            }
            Kind::Whole(_) => {}
        }
        self.poll_on(cx)
    }

    /// Sees to what there is besides reading, and polls what it is followed by. Out of line, so that reading stays short.
    #[inline(never)]
    fn poll_on(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        if let Kind::Streamed(Streamed::Guarded(guarded)) = &mut self.0 {
            let mut next = None;
            let polled = guarded.poll_frame(cx, &mut next);
            match next {
                None => return polled,
                Some(Next::End) => {
                    *self = Self::default();
                    return polled;
                }
                Some(Next::Own(source)) => *self = Self::streamed(Streamed::Own(source)),
                Some(Next::ReadOn) => {}
            }
        }
        Pin::new(self).poll_frame(cx)
    }

    fn streamed(streamed: Streamed<B>) -> Self {
        ReplayBody(Kind::Streamed(streamed))
    }

    fn empty() -> (Self, Replay<B>) {
        (Self::default(), Replay(Hold::Whole(END)))
    }

    fn whole(bytes: Bytes) -> (Self, Replay<B>) {
        (ReplayBody(Kind::Whole(bytes.clone())), Replay(Hold::Whole(bytes)))
    }
}

impl<B> Default for ReplayBody<B> {
    /// An empty body.
    fn default() -> Self {
        ReplayBody(Kind::Whole(END))
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Item> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Kind::Streamed(_) => self.poll_streamed(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Streamed(Streamed::Own(source)) => source.is_end_stream(),
            Kind::Streamed(Streamed::Guarded(_)) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(Streamed::Own(source)) => source.size_hint(),
            Kind::Streamed(Streamed::Guarded(guarded)) => guarded.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Whole(_) => "Whole",
            Kind::Streamed(Streamed::Own(_)) => "Own",
            Kind::Streamed(Streamed::Guarded(_)) => "Guarded",
        };
        f.debug_tuple("ReplayBody").field(&format_args!("{kind}")).finish()
    }
}

/// The response future's hold on the body of its request.
///
/// Dropping it ends the upload that is under way, unless [`release`](Replay::release) was called.
pub(crate) struct Replay<B>(Hold<B>);

// In two steps, which makes it as small as `Bytes`.
enum Hold<B> {
    /// Nothing to pause or to end: the attempts have a clone each.
    Whole(Bytes),
    /// `None`: nothing is kept of a body that there is no need to end.
    Shared(Option<Arc<Shared<B>>>),
}

impl<B> Replay<B> {
    /// Whether there may be a second attempt.
    pub(crate) fn is_kept(&self) -> bool {
        match &self.0 {
            Hold::Whole(_) => true,
            Hold::Shared(shared) => shared.as_ref().is_some_and(|shared| shared.is_kept),
        }
    }

    /// At the refusal: makes the first attempt wait, and stops recording.
    ///
    /// # Errors
    ///
    /// The body cannot be sent again. The first attempt is not paused.
    pub(crate) fn pause(&self) -> Result<(), NotReplayable> {
        match &self.0 {
            Hold::Shared(None) => Err(NotReplayable::TooLarge),
            Hold::Whole(_) => Ok(()),
            Hold::Shared(Some(shared)) => shared.disturb(State::pause),
        }
    }

    /// There will be no second attempt: what was kept is freed. Dropping it still ends the upload.
    pub(crate) fn forget(&mut self) {
        match &self.0 {
            Hold::Shared(Some(shared)) => shared.disturb(State::forget).clear(),
            Hold::Whole(_) | Hold::Shared(None) => self.0 = Hold::Shared(None),
        }
    }

    /// The response is delivered: what was kept is freed, and the attempt goes on by itself.
    #[inline]
    pub(crate) fn release(&self) {
        if let Hold::Shared(Some(shared)) = &self.0 {
            end(shared, State::release);
        }
    }
}

impl<B> Replay<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    /// The body of the second attempt, which is guarded from now on. The first attempt is cut off. Only after
    /// [`pause`](Replay::pause) has said yes.
    pub(crate) fn take_over(&mut self) -> ReplayBody<B> {
        let shared = match &self.0 {
            Hold::Shared(None) => return ReplayBody::default(),
            Hold::Whole(bytes) => return ReplayBody(Kind::Whole(bytes.clone())),
            Hold::Shared(Some(shared)) => Arc::clone(shared),
        };
        let (second, remains) = shared.disturb(State::take_over);
        remains.clear();
        let backlog = match second {
            Second::Recorded(recording) => recording.into_frames(),
            Second::Rebuild(rebuild) => {
                let nothing = Second::Impossible(NotReplayable::TooLarge);
                let (body, replay) = ReplayBody::guarded(rebuild.make(), nothing);
                *self = replay;
                return body;
            }
            Second::Impossible(_) => Frames::default(),
        };
        ReplayBody::streamed(Streamed::Guarded(Guarded::new(shared, Some(backlog))))
    }
}

impl<B> Drop for Replay<B> {
    #[inline]
    fn drop(&mut self) {
        // Out of line with what it drops: the caller has no register to save for it.
        #[inline(never)]
        fn abandon<B>(shared: Arc<Shared<B>>) {
            end(&shared, State::abandon);
        }
        if let Hold::Shared(shared) = &mut self.0 {
            if let Some(shared) = shared.take() {
                abandon(shared);
            }
        }
    }
}

/// Out of line, so that the way of a whole body stays short.
#[inline(never)]
fn end<B>(shared: &Shared<B>, how: fn(&mut State<B>) -> Remains<B>) {
    shared.disturb(how).clear();
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay(..)")
    }
}
