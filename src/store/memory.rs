use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Lease, Numbers, Record, TokenStore};
use crate::error::BoxError;

/// Keeps the record in this process. Clones are one store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<Kept>,
    refresh: Arc<tokio::sync::Mutex<()>>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    record: Option<Record>,
    leases: u64,
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
        let guard = self.0.refresh.clone().lock_owned().await;
        let mut kept = self.kept();
        kept.leases += 1;
        Ok(Lease::new(kept.leases, guard))
    }

    async fn changed(&self, known: u64) {
        // The sender is ours, so this ends with a change.
        let _ = self.0.revision.subscribe().wait_for(|revision| *revision != known).await;
    }
}
