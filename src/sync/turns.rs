//! Puts the polls of tasks into an order of a test's own.
//!
//! Tokio polls the tasks that are ready in the order in which they were woken. A task that is made by [`task`] may give its
//! turn to the others instead, again and again: any of those that are ready may thus be the next.

use std::{
    cell::RefCell,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::random;

thread_local! {
    static DICE: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

/// Decides on this thread from now on, and follows from its seed.
pub(crate) struct Dice {
    state: u64,
    /// Of 100 turns, how many are given away.
    gives_way: u64,
    /// Of 1000 turns of a task of the library, how many panic.
    panics: u64,
}

impl Dice {
    /// Half of the turns are given away, or fewer or more, by the seed.
    pub(crate) fn cast(seed: u64) {
        let mut dice = Dice { state: seed, gives_way: 0, panics: 0 };
        dice.gives_way = 10 + dice.below(80);
        DICE.set(Some(dice));
    }

    pub(crate) fn make_tasks_panic(of_1000: u64) {
        DICE.with_borrow_mut(|dice| dice.as_mut().expect("they are cast").panics = of_1000);
    }

    fn below(&mut self, limit: u64) -> u64 {
        random::following(&mut self.state) % limit
    }
}

/// A number below `limit`; 0 where nothing was cast.
pub(crate) fn below(limit: u64) -> u64 {
    DICE.with_borrow_mut(|dice| dice.as_mut().map_or(0, |dice| dice.below(limit)))
}

fn gives_way() -> bool {
    DICE.with_borrow_mut(|dice| dice.as_mut().is_some_and(|dice| dice.below(100) < dice.gives_way))
}

fn panics() -> bool {
    DICE.with_borrow_mut(|dice| dice.as_mut().is_some_and(|dice| dice.below(1000) < dice.panics))
}

/// A task of the library.
pub(crate) fn task<F: Future>(future: F) -> InTurn<F> {
    InTurn { future, is_ours: true }
}

/// A task of a test, which the dice spare.
pub(crate) fn in_turn<F: Future>(future: F) -> InTurn<F> {
    InTurn { future, is_ours: false }
}

pin_project! {
    pub(crate) struct InTurn<F> {
        #[pin]
        future: F,
        is_ours: bool,
    }
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if gives_way() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.is_ours && panics() {
            resume_unwind(Box::new("a panic that a test has thrown in"));
        }
        self.project().future.poll(cx)
    }
}
