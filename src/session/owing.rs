//! Writes what is owed to the store, while its lease is kept.

use std::sync::{Arc, Weak};

use tokio::{runtime::Handle, time::sleep};

use super::{backoff::Backoff, storage::Storage};

/// Sees to it that what is owed is written, sooner than the next refresh.
pub(super) fn write_again(storage: &Arc<Storage>, runtime: &Handle) {
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
