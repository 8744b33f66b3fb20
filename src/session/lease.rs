//! The store's lease, which a refresh holds; and as long as what it fetched is owed to the store, nobody else gets it.

use std::sync::{Arc, Weak};

use tokio::{runtime::Handle, time::sleep};

use super::{backoff::Backoff, flight::Flight, storage::Storage};
use crate::store::Lease;

/// The lease, in a flight's keeping until this is dropped or the flight has lost.
pub(super) struct Held {
    flight: Flight,
    fence: u64,
    storage: Arc<Storage>,
}

impl Held {
    pub(super) fn by(flight: &Flight, lease: Lease, storage: &Arc<Storage>) -> Self {
        let held = Held { flight: flight.clone(), fence: lease.fence(), storage: storage.clone() };
        flight.keep_lease(lease);
        held
    }

    pub(super) fn fence(&self) -> u64 {
        self.fence
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(lease) = self.flight.take_lease() else { return };
        self.storage.give_back(lease);
        if let (true, Ok(runtime)) = (self.storage.keeps_a_lease().is_some(), Handle::try_current()) {
            write_again(&self.storage, &runtime);
        }
    }
}

/// Sees to it that what is owed is written, sooner than the next refresh.
fn write_again(storage: &Arc<Storage>, runtime: &Handle) {
    storage.owing.run(runtime, until_written(Arc::downgrade(storage), runtime.clone()));
}

/// Ends when the lease is kept no longer: everything is written, or a refresh has taken it over.
async fn until_written(storage: Weak<Storage>, runtime: Handle) {
    for failures in 1.. {
        sleep(Backoff::DEFAULT.wait(failures, None)).await;
        let Some(storage) = storage.upgrade() else { return };
        let Some(lease) = storage.keeps_a_lease() else { return };
        if let Some(owed) = storage.enqueue_owed(Some(lease)) {
            storage.drain(&runtime);
            // Whoever saved first has reported it.
            let _ = owed.end().await;
        }
    }
}
