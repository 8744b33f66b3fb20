//! The store's lease, which a refresh holds. If that has spent a refresh token, or may have, nobody else gets it as long as
//! what was fetched is owed to the store, or the change is being written that has made the refresh void.

use std::sync::Arc;

use super::{flight::Flight, storage::Storage};
use crate::store::Lease;

/// The lease, in a flight's keeping until this is dropped or the flight has lost.
pub(super) struct HeldLease {
    flight: Flight,
    fence: u64,
    storage: Arc<Storage>,
}

impl HeldLease {
    pub(super) fn by(flight: &Flight, lease: Lease, storage: &Arc<Storage>) -> Self {
        let held = HeldLease { flight: flight.clone(), fence: lease.fence(), storage: storage.clone() };
        flight.keep_lease(lease);
        // Whoever has made it lose may have come too early to end the lease.
        if flight.is_lost() {
            held.give_back();
        }
        held
    }

    pub(super) fn fence(&self) -> u64 {
        self.fence
    }

    fn give_back(&self) {
        self.storage.give_back(&self.flight);
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.give_back();
    }
}
