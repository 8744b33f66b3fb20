//! Stands for the oneshot channel of tokio, and for what futures-util makes of one that several wait for.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { value: None, is_over: false, waiting: Vec::new() };
    let channel = Arc::new(Mutex::new(state));
    (Sender(channel.clone()), Receiver(channel))
}

struct State<T> {
    value: Option<T>,
    /// The sender is gone.
    is_over: bool,
    waiting: Vec<Waker>,
}

impl<T> State<T> {
    fn end(&mut self, value: Option<T>) -> Vec<Waker> {
        self.value = self.value.take().or(value);
        self.is_over = true;
        std::mem::take(&mut self.waiting)
    }

    fn poll<O>(
        &mut self,
        cx: &Context<'_>,
        take: impl FnOnce(&mut Option<T>) -> Option<O>,
    ) -> Poll<Result<O, Closed>> {
        if self.is_over {
            return Poll::Ready(take(&mut self.value).ok_or(Closed));
        }
        self.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

type Channel<T> = Arc<Mutex<State<T>>>;

fn with<T, O>(channel: &Channel<T>, f: impl FnOnce(&mut State<T>) -> O) -> O {
    f(&mut channel.lock().expect("nothing panics under it"))
}

pub(crate) struct Sender<T>(Channel<T>);

impl<T> Sender<T> {
    /// Never fails: nobody asks.
    pub(crate) fn send(self, value: T) -> Result<(), T> {
        with(&self.0, |state| state.end(Some(value))).into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        with(&self.0, |state| state.end(None)).into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Receiver<T>(Channel<T>);

#[derive(Debug)]
pub(crate) struct Closed;

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        with(&self.0, |state| state.poll(cx, Option::take))
    }
}

/// The one method that is used of the trait of this name.
pub(crate) trait FutureExt: Sized {
    fn shared(self) -> Shared<Self>;
}

impl<T: Clone> FutureExt for Receiver<T> {
    fn shared(self) -> Shared<Self> {
        Shared(self)
    }
}

pub(crate) struct Shared<F>(F);

impl<T> Clone for Shared<Receiver<T>> {
    fn clone(&self) -> Self {
        Shared(Receiver(self.0.0.clone()))
    }
}

impl<T: Clone> Future for Shared<Receiver<T>> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        with(&self.0.0, |state| state.poll(cx, |value| value.clone()))
    }
}
