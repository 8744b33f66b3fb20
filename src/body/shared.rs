//! Whose turn it is to read the live body.
//!
//! The two attempts of a request and its response future share one [`State`]. Its methods are transitions: they run
//! under the lock, and neither poll, wake nor drop anything that is not ours. The body is lent to the attempt that
//! polls it, and what a transition leaves over goes out in [`Remains`].

use std::{
    error::Error as StdError,
    fmt, mem,
    pin::Pin,
    task::{Poll, Waker},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{
    NotReplayable, Rebuild,
    buffer::Recording,
    source::{Item, Source},
};
use crate::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub(super) struct Shared<B> {
    /// Of the body before it was read: both attempts begin with it.
    pub(super) hint: SizeHint,
    /// Whether there could be a second attempt when it was made.
    pub(super) is_kept: bool,
    /// The response future has said something since the attempt looked last, which may learn of it a frame late. One for
    /// each attempt.
    is_disturbed: [AtomicBool; 2],
    state: Mutex<State<B>>,
}

impl<B> Shared<B> {
    pub(super) fn new(source: Pin<Box<Source<B>>>, hint: SizeHint, second: Second<B>) -> Self {
        let is_kept = !matches!(second, Second::Impossible(_));
        let state = State {
            reader: Attempt::First,
            standing: Standing::Guarded,
            live: Live::Here(source),
            second,
            waker: None,
        };
        Shared { hint, is_kept, is_disturbed: Default::default(), state: Mutex::new(state) }
    }

    /// Runs a transition of the response future's, and lets both attempts know: before what remains of it is
    /// [cleared](Remains::clear).
    pub(super) fn disturb<T>(&self, transition: impl FnOnce(&mut State<B>) -> T) -> T {
        let outcome = self.with(transition);
        self.is_disturbed.iter().for_each(|it| it.store(true, Ordering::Relaxed));
        outcome
    }

    /// Whether the reader has to ask for its [`turn`](State::turn).
    #[inline]
    pub(super) fn is_disturbed(&self, attempt: Attempt) -> bool {
        self.is_disturbed[attempt as usize].load(Ordering::Relaxed)
    }

    /// Asks for a [`turn`](State::turn).
    #[inline]
    pub(super) fn turn(&self, attempt: Attempt, backlog: usize, waker: &mut Option<Waker>) -> Turn<B> {
        // Before the look: what is said after it must not be forgotten.
        self.is_disturbed[attempt as usize].store(false, Ordering::Relaxed);
        self.with(|state| state.turn(attempt, backlog, waker))
    }

    /// Runs a transition; the lock is free again when it returns.
    #[inline]
    pub(super) fn with<T>(&self, transition: impl FnOnce(&mut State<B>) -> T) -> T {
        transition(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Second,
}

pub(super) struct State<B> {
    /// The attempt that may read.
    reader: Attempt,
    standing: Standing,
    live: Live<B>,
    second: Second<B>,
    /// Of the reader, while it waits.
    waker: Option<Waker>,
}

/// How the response future stands to the reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It would end the reader if it was dropped.
    Guarded,
    /// It would end the reader, which waits, if it was dropped.
    Paused,
    /// The response was delivered: the reader is on its own.
    Released,
    /// It was dropped: the reader ends.
    Abandoned,
}

/// Where the live body is.
enum Live<B> {
    Here(Pin<Box<Source<B>>>),
    /// Being polled, or given away for good.
    Lent,
    Ended,
    /// It failed, panicked or was dropped.
    Lost,
}

/// Where the body of a second attempt would come from.
pub(super) enum Second<B> {
    Recorded(Recording),
    Rebuild(Rebuild<B>),
    Impossible(NotReplayable),
}

/// What an attempt may do now.
pub(super) enum Turn<B> {
    /// Come back with a waker: it is cloned where no lock is held.
    Wait,
    /// The waker was left here.
    Parked,
    /// Yield a frame of the backlog, which is the last of the body or not.
    Replay {
        last: bool,
    },
    /// Poll the body, which is [lent](State::lend) for that; or keep this one, because nobody else will come to read it:
    /// settle when it waits or ends, or when [disturbed](Shared::is_disturbed).
    ReadOn(Option<Pin<Box<Source<B>>>>),
    /// Keep the body: nobody will ask for it any more.
    Own(Pin<Box<Source<B>>>),
    End,
    Stop(CutOff),
}

impl<B> State<B> {
    /// What `attempt` may do, with `backlog` recorded frames still to replay.
    #[inline]
    pub(super) fn turn(&mut self, attempt: Attempt, backlog: usize, waker: &mut Option<Waker>) -> Turn<B> {
        if self.reader != attempt || self.standing == Standing::Abandoned {
            return Turn::Stop(CutOff::Withdrawn);
        }
        if self.standing == Standing::Paused {
            return self.park(waker);
        }
        if backlog > 0 {
            return Turn::Replay { last: backlog == 1 && matches!(self.live, Live::Ended) };
        }
        match mem::replace(&mut self.live, Live::Lent) {
            Live::Here(source) if self.standing == Standing::Released => Turn::Own(source),
            Live::Here(source) if matches!(self.second, Second::Impossible(_)) => Turn::ReadOn(Some(source)),
            here @ Live::Here(_) => {
                self.live = here;
                Turn::ReadOn(None)
            }
            Live::Lent => self.park(waker),
            Live::Ended => {
                self.live = Live::Ended;
                Turn::End
            }
            Live::Lost => {
                self.live = Live::Lost;
                Turn::Stop(CutOff::Lost)
            }
        }
    }

    /// The body for one poll, if the reader has nothing else to see to. There is only one attempt as long as there may be a
    /// second one.
    #[inline]
    pub(super) fn lend(&mut self) -> Option<Pin<Box<Source<B>>>> {
        if self.standing != Standing::Guarded || matches!(self.second, Second::Impossible(_)) {
            return None;
        }
        match mem::replace(&mut self.live, Live::Lent) {
            Live::Here(source) => Some(source),
            other => {
                self.live = other;
                None
            }
        }
    }

    /// Takes the lent body back, and a copy of a frame that is not the last.
    ///
    /// # Errors
    ///
    /// There is more to see to: what the poll has brought must be [settled](State::settle).
    #[inline]
    pub(super) fn keep(
        &mut self,
        attempt: Attempt,
        source: Pin<Box<Source<B>>>,
        frame: &Frame<Bytes>,
    ) -> Result<(), Pin<Box<Source<B>>>> {
        if self.reader != attempt || self.standing != Standing::Guarded {
            return Err(source);
        }
        if let Second::Recorded(recording) = &mut self.second {
            if recording.push(frame).is_err() {
                return Err(source);
            }
        }
        self.live = Live::Here(source);
        Ok(())
    }

    fn park(&mut self, waker: &mut Option<Waker>) -> Turn<B> {
        if waker.is_none() {
            return Turn::Wait;
        }
        mem::swap(&mut self.waker, waker);
        Turn::Parked
    }

    /// Takes the lent body back, with what a poll of it has brought and whether that was the last of it.
    ///
    /// # Errors
    ///
    /// The attempt has lost its turn: it must put back what it has read and [`give_back`](State::give_back) the body.
    #[inline]
    pub(super) fn settle(
        &mut self,
        attempt: Attempt,
        source: Pin<Box<Source<B>>>,
        polled: &Poll<Item>,
        last: bool,
        waker: &mut Option<Waker>,
    ) -> Result<Option<Remains<B>>, Pin<Box<Source<B>>>> {
        if self.reader != attempt || matches!(self.standing, Standing::Paused | Standing::Abandoned) {
            return Err(source);
        }
        self.live = Live::Here(source);
        Ok(match polled {
            Poll::Pending => {
                mem::swap(&mut self.waker, waker);
                None
            }
            Poll::Ready(Some(Err(_))) => Some(self.lose()),
            Poll::Ready(item) => {
                let second = item.as_ref().and_then(|frame| self.record(frame.as_ref().ok()?));
                if !last && second.is_none() {
                    return Ok(None);
                }
                let live = if last { mem::replace(&mut self.live, Live::Ended) } else { Live::Lost };
                Some(Remains { wake: None, live, second })
            }
        })
    }

    /// Takes back a body from which nothing was read.
    pub(super) fn give_back(&mut self, attempt: Attempt, source: Pin<Box<Source<B>>>) -> Remains<B> {
        self.live = Live::Here(source);
        if self.standing == Standing::Abandoned {
            return self.abandon();
        }
        // The other attempt may be waiting for it.
        let wake = if self.reader == attempt { None } else { self.waker.take() };
        Remains { wake, ..Remains::default() }
    }

    #[inline]
    fn record(&mut self, frame: &Frame<Bytes>) -> Option<Second<B>> {
        let Second::Recorded(recording) = &mut self.second else { return None };
        let why = recording.push(frame).err()?;
        Some(mem::replace(&mut self.second, Second::Impossible(why)))
    }

    /// The live body failed, or panicked while it was lent.
    pub(super) fn lose(&mut self) -> Remains<B> {
        let second = match self.second {
            Second::Recorded(_) => {
                Some(mem::replace(&mut self.second, Second::Impossible(NotReplayable::Failed)))
            }
            _ => None,
        };
        Remains { wake: self.waker.take(), live: mem::replace(&mut self.live, Live::Lost), second }
    }

    pub(super) fn pause(&mut self) -> Result<(), NotReplayable> {
        if let Second::Impossible(why) = self.second {
            return Err(why);
        }
        self.standing = Standing::Paused;
        Ok(())
    }

    pub(super) fn forget(&mut self) -> Remains<B> {
        Remains { second: Some(self.spend()), ..Remains::default() }
    }

    pub(super) fn release(&mut self) -> Remains<B> {
        let mut remains = self.forget();
        if mem::replace(&mut self.standing, Standing::Released) == Standing::Paused {
            remains.wake = self.waker.take();
        }
        remains
    }

    /// Puts the second attempt in the reader's place, if it is to go on with this body; else the reader ends.
    pub(super) fn take_over(&mut self) -> (Second<B>, Remains<B>) {
        let second = self.spend();
        if !matches!(second, Second::Recorded(_)) {
            return (second, self.abandon());
        }
        self.reader = Attempt::Second;
        self.standing = Standing::Guarded;
        (second, Remains { wake: self.waker.take(), ..Remains::default() })
    }

    /// Ends the reader, unless it is on its own.
    pub(super) fn abandon(&mut self) -> Remains<B> {
        if self.standing == Standing::Released {
            return Remains::default();
        }
        self.standing = Standing::Abandoned;
        // A body that is lent is dropped when it comes back.
        let live = mem::replace(&mut self.live, Live::Lost);
        Remains { wake: self.waker.take(), live, second: Some(self.spend()) }
    }

    fn spend(&mut self) -> Second<B> {
        // Nothing of it is kept from now on.
        mem::replace(&mut self.second, Second::Impossible(NotReplayable::TooLarge))
    }
}

/// What a transition leaves over. Waking and dropping run other people's code, so they wait until the lock is free.
#[must_use]
pub(super) struct Remains<B> {
    wake: Option<Waker>,
    live: Live<B>,
    second: Option<Second<B>>,
}

impl<B> Remains<B> {
    pub(super) fn clear(self) {
        let Remains { wake, live, second } = self;
        if let Some(waker) = wake {
            waker.wake();
        }
        drop((live, second));
    }
}

impl<B> Default for Remains<B> {
    fn default() -> Self {
        Remains { wake: None, live: Live::Lost, second: None }
    }
}

/// The error that an attempt gets which must not go on. Its client is to reset the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutOff {
    Withdrawn,
    Lost,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CutOff::Withdrawn => "the upload was cut off: the request was sent again or given up",
            CutOff::Lost => "the upload was cut off: the body has failed before",
        })
    }
}

impl StdError for CutOff {}
