//! Runs a model: every schedule of a few threads.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
};

use loom::{
    model::Builder,
    sync::{Condvar, Mutex},
};

/// Runs `model` once for every schedule with no more preemptions than `LOOM_MAX_PREEMPTIONS` says. Loom ends a schedule in
/// which nobody can go on with a panic: a lost wake is found.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    run(&Builder::new(), model);
}

/// The same for every schedule that there is. Few threads have few enough.
pub(crate) fn check_all(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = None;
    run(&builder, model);
}

fn run(builder: &Builder, model: impl Fn() + Send + Sync + 'static) {
    let schedules = Arc::new(AtomicUsize::new(0));
    let counted = schedules.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let name = thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {} schedules", schedules.load(Ordering::Relaxed));
}

/// Polls a future as an executor does: again when it was woken, and never without.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => parker.park(),
        }
    }
}

#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    wakes: Condvar,
}

impl Parker {
    fn park(&self) {
        let mut woken = self.woken.lock().expect("nothing panics under it");
        while !*woken {
            woken = self.wakes.wait(woken).expect("nothing panics under it");
        }
        *woken = false;
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().expect("nothing panics under it") = true;
        self.wakes.notify_one();
    }
}
