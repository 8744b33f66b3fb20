use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use super::{Lease, Numbers, Record, TokenStore};
use crate::error::BoxError;

/// Keeps the record in this process, and loses it with the last clone. Clones are one store, which tells of
/// [changes](TokenStore::changed): a session sees at once what another one has saved.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Kept>,
    /// Tells all who wait that a lease has ended. A queue would hand it to the next, whom nobody may be polling any more.
    freed: Notify,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    record: Option<Record>,
    leases: u64,
    is_leased: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenStore for MemoryStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        Ok(self.kept().record.clone())
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        let revision = {
            let mut kept = self.kept();
            let revision = kept.record.as_ref().map_or(0, |stored| stored.revision);
            let admitted = record.admit(fence, Numbers { lease: kept.leases, revision })?;
            kept.record.insert(admitted).revision
        };
        // Not under the lock: it wakes those who follow the store, and what they do then may bring them here.
        self.0.revision.send_modify(|last| *last = revision.max(*last));
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        loop {
            // Hears of every end from here on, before the look.
            let freed = self.0.freed.notified();
            {
                let mut kept = self.kept();
                if !mem::replace(&mut kept.is_leased, true) {
                    kept.leases += 1;
                    return Ok(Lease::new(kept.leases, Leased(self.clone())));
                }
            }
            freed.await;
        }
    }

    async fn changed(&self, known: u64) {
        // The sender is ours, so this ends with a change.
        let _ = self.0.revision.subscribe().wait_for(|revision| *revision != known).await;
    }
}

/// Ends the lease when it is dropped.
struct Leased(MemoryStore);

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.kept().is_leased = false;
        self.0.0.freed.notify_waiters();
    }
}
