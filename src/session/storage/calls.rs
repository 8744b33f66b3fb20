//! The calls of a store: each ends in time, and a panic in it is an error like any other.

use std::{error::Error as StdError, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    error::{BoxError, Error, ErrorKind, causes},
    panics::discard,
    store::{DynTokenStore, Lease, Record},
    timer::within,
};

/// A store, and how long it may take.
pub(crate) struct Calls {
    pub(crate) store: Arc<dyn DynTokenStore>,
    /// For each call but that for the lease.
    pub(crate) timeout: Duration,
    pub(crate) lease_wait: Duration,
}

/// The store did not answer in time: nothing else is to be asked of it for the same end.
pub(super) struct Silent;

impl From<Silent> for Error {
    fn from(_: Silent) -> Self {
        failed("the token store did not answer in time")
    }
}

impl Calls {
    /// `None` when nobody gives the lease up in time.
    pub(super) async fn lock(&self) -> Result<Option<Lease>, Error> {
        within(self.lease_wait, guarded(async { self.store.lock().await })).await.transpose()
    }

    /// What is in the store, or how it failed.
    pub(super) async fn load(&self) -> Result<Result<Option<Record>, Error>, Silent> {
        self.bounded(async { self.store.load().await }).await
    }

    pub(super) async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), Error> {
        self.bounded(async { self.store.save(record, fence).await }).await?
    }

    /// Waits until the store holds a record of another revision. It keeps the store and nothing else of the session, whose
    /// lease ends with it on whatever runtime the task stands still.
    pub(super) fn changed(&self, seen: u64) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let store = self.store.clone();
        guarded(async move {
            store.changed(seen).await;
            Ok(())
        })
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<Result<T, Error>, Silent> {
        within(self.timeout, guarded(call)).await.ok_or(Silent)
    }
}

async fn guarded<T>(call: impl Future<Output = Result<T, BoxError>>) -> Result<T, Error> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(answer) => answer.map_err(failed_by),
        Err(thrown) => {
            discard(thrown);
            Err(failed("the token store panicked"))
        }
    }
}

pub(crate) fn is_caused_by<T: StdError + 'static>(error: &Error) -> bool {
    causes(error).any(|cause| cause.is::<T>())
}

pub(super) fn failed_by(cause: BoxError) -> Error {
    Error::with_cause(ErrorKind::Store, "the token store failed", cause)
}

pub(super) fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::Store, message)
}
