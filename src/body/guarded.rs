//! One attempt's view of a body that it shares.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    buffer::Frames,
    shared::{Attempt, Shared, State, Turn},
    source::{Item, Source},
};
use crate::{error::BoxError, sync::Arc};

/// A body that the response future can still pause, hand to the second attempt, or end.
pub(super) struct Guarded<B> {
    shared: Arc<Shared<B>>,
    /// What the first attempt had read: the second has one, however empty.
    backlog: Option<Box<Frames>>,
    /// The live body, while nobody else may come to read it, or until its last answer is settled.
    in_hand: Option<Pin<Box<Source<B>>>>,
    /// What that has answered last is not settled yet.
    is_unsettled: bool,
    /// How much data this attempt has yielded.
    passed: u64,
}

/// How its owner goes on after a poll.
pub(super) enum Next<B> {
    /// There is nothing left.
    End,
    /// Polls again: the body is in hand now.
    ReadOn,
    /// Polls this, which needs no guard any more.
    Own(Pin<Box<Source<B>>>),
}

impl<B> Guarded<B> {
    /// In a box, because every request moves a body and few have this.
    pub(super) fn new(shared: Arc<Shared<B>>, backlog: Option<Frames>) -> Box<Self> {
        Box::new(Guarded {
            shared,
            backlog: backlog.map(Box::new),
            in_hand: None,
            is_unsettled: false,
            passed: 0,
        })
    }

    fn attempt(&self) -> Attempt {
        if self.backlog.is_none() { Attempt::First } else { Attempt::Second }
    }

    pub(super) fn is_in_hand(&self) -> bool {
        self.in_hand.is_some()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let mut left = SizeHint::new();
        left.set_lower(self.shared.hint.lower().saturating_sub(self.passed));
        if let Some(upper) = self.shared.hint.upper() {
            left.set_upper(upper.saturating_sub(self.passed));
        }
        left
    }

    /// Takes note of what is about to be yielded.
    #[inline]
    fn count(&mut self, polled: &Poll<Item>, last: bool, next: &mut Option<Next<B>>) {
        if last {
            *next = Some(Next::End);
        } else if let Poll::Ready(Some(Ok(frame))) = polled {
            self.passed += length(frame);
        }
    }

    /// Leaves it to [`poll_frame`](Guarded::poll_frame) to settle what a poll of a lent body has brought.
    #[inline(never)]
    fn leave_unsettled(&mut self, mut source: Pin<Box<Source<B>>>, polled: Poll<Item>) {
        source.as_mut().put_back(polled);
        self.in_hand = Some(source);
        self.is_unsettled = true;
    }

    #[cold]
    fn give_back(&self, mut source: Pin<Box<Source<B>>>, polled: Poll<Item>) {
        source.as_mut().put_back(polled);
        self.shared.with(|state| state.give_back(self.attempt(), source)).clear();
    }
}

impl<B> Guarded<B>
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    /// Polls the body, if there is nothing else to see to: the short way of an upload. `None`: there is.
    // Always, because a frame is large to move: it is made where the reader wants it.
    #[inline(always)]
    pub(super) fn read_on(&mut self, cx: &mut Context<'_>) -> Option<Poll<Item>> {
        let mut source = self.shared.with(State::lend)?;
        let on_panic = LoseOnDrop(&self.shared);
        let polled = source.as_mut().poll_frame(cx);
        let goes_on = matches!(polled, Poll::Ready(Some(Ok(_)))) && !source.is_end_stream();
        mem::forget(on_panic);
        let source = match &polled {
            Poll::Ready(Some(Ok(frame))) if goes_on => {
                let length = length(frame);
                match self.shared.with(|state| state.keep(self.attempt(), source, frame)) {
                    Ok(()) => {
                        self.passed += length;
                        return Some(polled);
                    }
                    Err(source) => source,
                }
            }
            _ => source,
        };
        self.leave_unsettled(source, polled);
        None
    }

    /// The same for a body in hand.
    // Always, for the same reason.
    #[inline(always)]
    pub(super) fn read_in_hand(&mut self, cx: &mut Context<'_>) -> Option<Frame<Bytes>> {
        let attempt = self.attempt();
        let source = self.in_hand.as_mut().filter(|_| !self.shared.is_disturbed(attempt))?;
        match source.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if !source.is_end_stream() => {
                self.passed += length(&frame);
                Some(frame)
            }
            polled => {
                source.as_mut().put_back(polled);
                self.is_unsettled = true;
                None
            }
        }
    }

    /// Goes on where [`read_on`](Guarded::read_on) has stopped, with a frame or as `next` says.
    #[inline]
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, next: &mut Option<Next<B>>) -> Poll<Item> {
        let mut waker = None;
        loop {
            if let Some(mut source) = self.in_hand.take() {
                if mem::take(&mut self.is_unsettled) {
                    let polled = source.as_mut().take_back();
                    match self.settle(source, &polled, cx, next) {
                        None => return polled,
                        Some(source) => self.give_back(source, polled),
                    }
                } else {
                    self.give_back(source, Poll::Pending);
                }
            }
            let backlog = self.backlog.as_ref().map_or(0, |backlog| backlog.len());
            match self.shared.turn(self.attempt(), backlog, &mut waker) {
                Turn::Wait => waker = Some(cx.waker().clone()),
                Turn::Parked => return Poll::Pending,
                Turn::Replay { last } => {
                    let polled =
                        Poll::Ready(self.backlog.as_mut().and_then(|backlog| backlog.next()).map(Ok));
                    self.count(&polled, last, next);
                    return polled;
                }
                Turn::ReadOn(source) => {
                    self.in_hand = source;
                    *next = Some(Next::ReadOn);
                    return Poll::Pending;
                }
                Turn::Own(source) => {
                    *next = Some(Next::Own(source));
                    return Poll::Pending;
                }
                Turn::End => {
                    *next = Some(Next::End);
                    return Poll::Ready(None);
                }
                Turn::Stop(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Hands the live body back after a poll. Returns it if it is not this attempt's turn any more.
    #[inline]
    fn settle(
        &mut self,
        source: Pin<Box<Source<B>>>,
        polled: &Poll<Item>,
        cx: &mut Context<'_>,
        next: &mut Option<Next<B>>,
    ) -> Option<Pin<Box<Source<B>>>> {
        let mut waker = None;
        let last = match polled {
            Poll::Ready(Some(Ok(_))) => source.is_end_stream(),
            Poll::Ready(Some(Err(_))) => false,
            Poll::Ready(None) => true,
            Poll::Pending => {
                waker = Some(cx.waker().clone());
                false
            }
        };
        match self.shared.with(|state| state.settle(self.attempt(), source, polled, last, &mut waker)) {
            Err(source) => return Some(source),
            Ok(None) => {}
            Ok(Some(remains)) => remains.clear(),
        }
        self.count(polled, last, next);
        None
    }
}

#[inline]
fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, Bytes::len) as u64
}

/// A body that panics is gone: whoever waits for it must hear of it.
struct LoseOnDrop<'a, B>(&'a Shared<B>);

impl<B> Drop for LoseOnDrop<'_, B> {
    fn drop(&mut self) {
        self.0.with(State::lose).clear();
    }
}
