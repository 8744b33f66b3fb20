use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{Lease, Record, TokenStore};
use crate::error::BoxError;

/// Keeps the record in this process. Clones are one store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    record: Mutex<Option<Record>>,
    leases: AtomicU64,
    refresh: Arc<tokio::sync::Mutex<()>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl TokenStore for MemoryStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        Ok(self.0.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone())
    }

    async fn save(&self, record: &Record, _fence: Option<u64>) -> Result<(), BoxError> {
        *self.0.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(record.clone());
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        let guard = self.0.refresh.clone().lock_owned().await;
        Ok(Lease::new(self.0.leases.fetch_add(1, Ordering::Relaxed) + 1, guard))
    }
}
