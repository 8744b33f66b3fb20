//! A store that processes share, and that fails each of them as it is told.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex},
};

use tower_token_refresh::{
    BoxError,
    store::{Lease, MemoryStore, Record, Superseded, TokenStore},
    test_util::Gate,
};

use crate::{
    checks::{Book, Pid, WithoutLease},
    steps::{Call, Fault},
};

/// What all processes share.
#[derive(Clone, Default)]
pub(super) struct Shelf {
    memory: MemoryStore,
    /// By process; what hangs goes on when its gate is opened.
    faults: Arc<Mutex<Faults>>,
    /// Held leases, to be ended with their process.
    leases: Arc<Mutex<Vec<(Pid, Lease)>>>,
}

type Faults = BTreeMap<(Pid, Call), (Fault, Gate)>;

impl Shelf {
    pub(super) fn fail(&self, pid: Pid, call: Call, fault: Fault) {
        let before = self.faults.lock().unwrap().insert((pid, call), (fault, Gate::new()));
        if let Some((_, gate)) = before {
            gate.open();
        }
    }

    pub(super) fn heal(&self, pid: Pid) {
        self.faults.lock().unwrap().retain(|&(other, _), (_, gate)| {
            if other == pid {
                gate.open();
            }
            other != pid
        });
    }

    /// Whoever held a lease is gone.
    pub(super) fn process_killed(&self, pid: Pid) {
        let mut leases = self.leases.lock().unwrap();
        let (his, others) = leases.drain(..).partition::<Vec<_>, _>(|&(other, _)| other == pid);
        *leases = others;
        drop(leases);
        drop(his);
    }
}

/// The store as one process sees it.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) pid: Pid,
    pub(super) shelf: Shelf,
    pub(super) book: Book,
    /// Whether it tells of changes.
    pub(super) tells: bool,
}

impl Handle {
    /// Does the work, and fails as it is told.
    async fn call<T>(
        &self,
        fault: Option<(Fault, Gate)>,
        work: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        self.while_alive().await;
        let (before, after) = match fault {
            Some((fault @ (Fault::Fails | Fault::Hangs), gate)) => (Some((fault, gate)), None),
            after => (None, after),
        };
        strike(before).await?;
        self.while_alive().await;
        let done = work.await?;
        strike(after).await?;
        if !self.book.is_alive(self.pid) {
            // A lease, say, that came when nobody was there to take it.
            drop(done);
            return pending().await;
        }
        Ok(done)
    }

    fn fault(&self, call: Call) -> Option<(Fault, Gate)> {
        self.shelf.faults.lock().unwrap().get(&(self.pid, call)).cloned()
    }

    /// A process that was killed does nothing any more.
    async fn while_alive(&self) {
        if !self.book.is_alive(self.pid) {
            pending::<()>().await;
        }
    }
}

async fn strike(fault: Option<(Fault, Gate)>) -> Result<(), BoxError> {
    match fault {
        None => {}
        Some((Fault::Fails | Fault::FailsAfterwards, _)) => return Err("the disk is full".into()),
        Some((Fault::Hangs | Fault::HangsAfterwards, gate)) => gate.pass().await,
    }
    Ok(())
}

impl TokenStore for Handle {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let saves = self.book.load_begins(self.pid);
        let _ended = Ending(|| self.book.load_ended(self.pid));
        let unread = Ending(|| self.book.load_failed(self.pid));
        let work = async { Ok((self.shelf.memory.load().await?, self.book.stored_so_far())) };
        let (found, stored) = self.call(self.fault(Call::Load), work).await?;
        unread.did_not_come();
        self.book.loaded(self.pid, stored, saves);
        Ok(found)
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.book.save_begins(self.pid, record);
        let seen = self.book.seen(self.pid);
        let _ended = Ending(|| self.book.save_ended(self.pid, record));
        let work = async {
            let saved = self.shelf.memory.save(record, fence).await;
            if saved.as_ref().is_err_and(|error| error.is::<Superseded>()) {
                self.book.save_refused(self.pid);
            }
            saved?;
            self.book.stored(self.pid, record, seen);
            Ok(())
        };
        // A replacement that is there although the store says that it is not cannot be told from what others have made
        // of it.
        let at_once = fence.is_none() && !self.book.is_login(record);
        let fault =
            self.fault(Call::Save).map(|(fault, gate)| (if at_once { fault.at_once() } else { fault }, gate));
        self.call(fault, work).await?;
        self.book.save_succeeded(self.pid, record);
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.book.lease_asked_for(self.pid);
        let given_up = Ending(|| self.book.lease_not_taken(self.pid, WithoutLease::GivenUp));
        let lease = self.call(self.fault(Call::Lock), self.shelf.memory.lock()).await;
        given_up.did_not_come();
        let lease = lease.inspect_err(|_| self.book.lease_not_taken(self.pid, WithoutLease::Failed))?;
        let fence = lease.fence();
        self.shelf.leases.lock().unwrap().push((self.pid, lease));
        self.book.lease_taken(self.pid);
        let (shelf, book, pid) = (self.shelf.clone(), self.book.clone(), self.pid);
        Ok(Lease::new(fence, Ending(move || shelf.give_back(&book, pid, fence))))
    }

    async fn changed(&self, known: u64) {
        if !self.tells {
            pending::<()>().await;
        }
        self.shelf.memory.changed(known).await;
        self.while_alive().await;
    }
}

impl Shelf {
    fn give_back(&self, book: &Book, pid: Pid, fence: u64) {
        let mut leases = self.leases.lock().unwrap();
        let place = leases.iter().position(|(other, lease)| *other == pid && lease.fence() == fence);
        if let Some(place) = place {
            let lease = leases.remove(place);
            drop(leases);
            book.lease_returned(pid);
            drop(lease);
        }
    }
}

/// What is to happen when a call ends, in whatever way.
struct Ending<F: FnMut()>(F);

impl<F: FnMut()> Ending<F> {
    fn did_not_come(self) {
        std::mem::forget(self);
    }
}

impl<F: FnMut()> Drop for Ending<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
