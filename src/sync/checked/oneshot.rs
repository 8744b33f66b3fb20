//! Stands for the oneshot channel of tokio.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { value: None, is_over: false, waiting: None };
    let channel = Arc::new(Mutex::new(state));
    (Sender(channel.clone()), Receiver(channel))
}

struct State<T> {
    value: Option<T>,
    /// The sender is gone.
    is_over: bool,
    waiting: Option<Waker>,
}

impl<T> State<T> {
    fn end(&mut self, value: Option<T>) -> Option<Waker> {
        self.value = self.value.take().or(value);
        self.is_over = true;
        self.waiting.take()
    }
}

type Channel<T> = Arc<Mutex<State<T>>>;

fn with<T, O>(channel: &Channel<T>, f: impl FnOnce(&mut State<T>) -> O) -> O {
    f(&mut channel.lock().expect("nothing panics under it"))
}

fn wake(waiting: Option<Waker>) {
    if let Some(waker) = waiting {
        waker.wake();
    }
}

pub(crate) struct Sender<T>(Channel<T>);

impl<T> Sender<T> {
    /// Never fails: nobody asks.
    pub(crate) fn send(self, value: T) -> Result<(), T> {
        wake(with(&self.0, |state| state.end(Some(value))));
        Ok(())
    }

    /// Whether the receiver is gone.
    pub(crate) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        wake(with(&self.0, |state| state.end(None)));
    }
}

pub(crate) struct Receiver<T>(Channel<T>);

#[derive(Debug)]
pub(crate) struct Closed;

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        with(&self.0, |state| {
            if state.is_over {
                return Poll::Ready(state.value.take().ok_or(Closed));
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}
