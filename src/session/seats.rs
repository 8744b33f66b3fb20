//! Who waits for the end of a flight, and how it ended.
//!
//! Waiting is what most requests do while a token is fetched, so a waiter costs a place in a list and nothing else. A flight
//! that has lost releases its waiters and goes on: those who come later wait in the next round.

use std::{mem, task::Waker};

use slab::Slab;

use crate::{error::Error, panics::isolated};

/// How a wait ended.
#[derive(Clone, Debug)]
pub(crate) enum Landed {
    /// The session has changed (a new token, a login, a logout): decide again.
    Changed,
    /// Nothing has come of it for this wait: decide again.
    Nothing,
    /// The refresh failed.
    Failed(Error),
    /// The runtime of the refresh went away: decide again, on another one.
    Interrupted,
}

/// Its methods run under a lock, so that what they take out is returned.
#[derive(Default)]
pub(super) struct Seats {
    round: Round,
    /// Of the current round.
    ended: Option<Landed>,
    wakers: Slab<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Round(u32);

/// A place in the list, or none: in one word, because everybody who waits moves it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat(usize);

impl Seat {
    /// No list is that long.
    pub(super) const NONE: Self = Seat(usize::MAX);
}

/// Those who are to go on, and what an earlier round left: its error is somebody else's, and may do anything when it is
/// dropped.
#[must_use]
pub(super) struct Released {
    wakers: Slab<Waker>,
    _left: Option<Landed>,
}

impl Released {
    pub(super) fn wake(self) {
        for (_, waker) in self.wakers {
            // A panic in one is its own affair: the others are to go on.
            isolated(|| waker.wake());
        }
    }
}

impl Seats {
    pub(super) fn round(&self) -> Round {
        self.round
    }

    /// Ends the round; only the first call does anything.
    pub(super) fn end(&mut self, landed: &Landed) -> Released {
        self.ended.get_or_insert_with(|| landed.clone());
        Released { wakers: mem::take(&mut self.wakers), _left: None }
    }

    /// Ends the round with a change, and begins another.
    pub(super) fn next_round(&mut self) -> Released {
        self.round = Round(self.round.0.wrapping_add(1));
        Released { wakers: mem::take(&mut self.wakers), _left: self.ended.take() }
    }

    /// How that round ended.
    pub(super) fn ended(&self, round: Round) -> Option<Landed> {
        if round == self.round { self.ended.clone() } else { Some(Landed::Changed) }
    }

    pub(super) fn will_wake(&self, seat: Seat, waker: &Waker) -> bool {
        self.wakers.get(seat.0).is_some_and(|seated| seated.will_wake(waker))
    }

    /// Takes a seat in the current round, or puts another waker into the one that is taken; returns the one before.
    #[inline]
    pub(super) fn sit(&mut self, seat: &mut Seat, waker: Waker) -> Option<Waker> {
        if let Some(seated) = self.wakers.get_mut(seat.0) {
            return Some(mem::replace(seated, waker));
        }
        *seat = Seat(self.wakers.insert(waker));
        None
    }

    /// Gives a seat back. After the end of its round it may be somebody else's.
    pub(super) fn leave(&mut self, round: Round, seat: Seat) -> Option<Waker> {
        if round == self.round { self.wakers.try_remove(seat.0) } else { None }
    }

    pub(super) fn taken(&self) -> usize {
        self.wakers.len()
    }
}
