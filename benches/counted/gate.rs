//! A place where calls wait until they are let through.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// Knows how many have come; clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate {
    /// One permit lets one call through; an open gate is a closed semaphore.
    permits: Arc<Semaphore>,
    arrivals: watch::Sender<usize>,
}

impl Gate {
    /// A gate that is shut.
    pub(crate) fn new() -> Self {
        Gate { permits: Arc::new(Semaphore::new(0)), arrivals: watch::Sender::default() }
    }

    pub(crate) async fn pass(&self) {
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }

    pub(crate) fn arrivals(&self) -> usize {
        *self.arrivals.borrow()
    }

    /// Waits until so many have come.
    pub(crate) async fn reached(&self, arrivals: usize) {
        let mut seen = self.arrivals.subscribe();
        seen.wait_for(|seen| *seen >= arrivals).await.expect("the gate is there");
    }

    pub(crate) fn let_one_through(&self) {
        self.permits.add_permits(1);
    }

    /// Lets everybody through from now on.
    pub(crate) fn open(&self) {
        self.permits.close();
    }
}
