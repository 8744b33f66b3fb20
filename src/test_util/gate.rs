//! A place where calls wait until the test lets them go on.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// Holds whoever passes until the test opens it; clones are the same gate.
///
/// It takes the place of a sleep: the test *knows* that so many calls have come before it goes on. A gate that is
/// dropped stays as it is, and holds whoever waits at it for ever.
///
/// ```
/// use tower_token_refresh::test_util::Gate;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let gate = Gate::new();
/// let call = tokio::spawn({ let gate = gate.clone(); async move { gate.pass().await } });
/// gate.waiting(1).await;
/// assert!(!call.is_finished());
/// gate.open();
/// call.await.unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "what waits at a gate waits until it is opened"]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// One permit is one call that may go on; an open gate is a closed semaphore.
    permits: Semaphore,
    traffic: watch::Sender<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    arrived: usize,
    waiting: usize,
}

impl Gate {
    /// A gate that is shut.
    pub fn new() -> Self {
        Gate(Arc::new(Inner { permits: Semaphore::new(0), traffic: watch::Sender::default() }))
    }

    /// Waits until the test lets this call go on; first come, first served.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped here no longer waits, and takes nobody else's place.
    pub async fn pass(&self) {
        self.0.traffic.send_modify(|traffic| {
            traffic.arrived += 1;
            traffic.waiting += 1;
        });
        let _leaving = Leaving(&self.0.traffic);
        if let Ok(permit) = self.0.permits.acquire().await {
            permit.forget();
        }
    }

    /// Waits until `n` calls in all have come, whatever became of them.
    pub async fn arrived(&self, n: usize) {
        self.until(|traffic| traffic.arrived >= n).await;
    }

    /// Waits until exactly `n` calls wait at the gate. A call that was let through counts until it has gone on: after
    /// letting some through, use [`arrived`](Self::arrived) to wait for the next.
    pub async fn waiting(&self, n: usize) {
        self.until(|traffic| traffic.waiting == n).await;
    }

    /// Lets `n` calls through, those to come included.
    pub fn let_through(&self, n: usize) {
        // Half of what there may be: those that were let through, and have not gone on yet, may give theirs back.
        let room = (Semaphore::MAX_PERMITS / 2).saturating_sub(self.0.permits.available_permits());
        self.0.permits.add_permits(n.min(room));
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.0.permits.close();
    }

    async fn until(&self, condition: impl FnMut(&Traffic) -> bool) {
        let mut traffic = self.0.traffic.subscribe();
        traffic.wait_for(condition).await.expect("the sender lives in `self`");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

struct Leaving<'a>(&'a watch::Sender<Traffic>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|traffic| traffic.waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    #[test]
    fn lets_through_as_many_as_it_was_told_in_their_order() {
        let gate = Gate::new();
        let mut first = spawn(gate.pass());
        let mut second = spawn(gate.pass());
        assert_pending!(first.poll());
        assert_pending!(second.poll());
        gate.let_through(1);
        assert_ready!(first.poll());
        assert_pending!(second.poll());
        gate.let_through(1);
        assert_ready!(second.poll());
    }

    #[test]
    fn everybody_can_be_let_through_by_number() {
        let gate = Gate::new();
        let mut dropped = spawn(gate.pass());
        assert_pending!(dropped.poll());
        gate.let_through(1);
        gate.let_through(usize::MAX);
        gate.let_through(usize::MAX);
        drop(dropped);
        assert_ready!(spawn(gate.pass()).poll());
    }

    #[test]
    fn an_open_gate_holds_nobody() {
        let gate = Gate::new();
        let mut before = spawn(gate.pass());
        assert_pending!(before.poll());
        gate.open();
        assert_ready!(before.poll());
        assert_ready!(spawn(gate.pass()).poll());
    }

    #[test]
    fn a_dropped_call_leaves_the_gate_and_keeps_no_place() {
        let gate = Gate::new();
        let mut dropped = spawn(gate.pass());
        let mut kept = spawn(gate.pass());
        assert_pending!(dropped.poll());
        assert_pending!(kept.poll());
        gate.let_through(1);
        drop(dropped);
        assert_ready!(kept.poll());
        assert_ready!(spawn(gate.arrived(2)).poll());
        assert_ready!(spawn(gate.waiting(0)).poll());
    }
}
