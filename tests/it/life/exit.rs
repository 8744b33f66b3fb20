//! A process that ends while its token is being renewed.

use std::{path::PathBuf, time::Duration};

use http::StatusCode;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, Error,
    session::SessionBuilder,
    store::{FileStore, Lease, Record, TokenStore},
    test_util::{Endpoint, Gate, ModelAuthority, TestClock},
};

use crate::{script::within, world::World};

/// What is there before, between and after processes.
struct Machine {
    clock: TestClock,
    authority: ModelAuthority,
    directory: TempDir,
}

/// One process: its end is that of its runtime, in the middle of whatever is on, and of its memory.
struct Process {
    runtime: Runtime,
    world: World,
}

impl Machine {
    fn new(grace: Duration) -> Self {
        let clock = TestClock::new();
        let authority = ModelAuthority::new().clock(clock.clone()).grace(grace);
        Machine { clock, authority, directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("token.json")
    }

    fn process(&self, store: impl TokenStore) -> Process {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let session = |builder: SessionBuilder| builder.store(store).clock(self.clock.clone());
        Process { runtime, world: World::with(self.authority.clone(), session, |layer| layer) }
    }

    /// A process whose token is due, and is being renewed in the background, as far as the gate.
    fn renewing(&self, store: impl TokenStore, gate: &Gate) -> Process {
        let process = self.process(store);
        process.runtime.block_on(async {
            process.world.session.token().await.unwrap();
            self.clock.advance(Duration::from_secs(7150));
            assert_eq!(process.world.get("/").await.unwrap().status(), StatusCode::OK, "nobody waits for it");
            within(gate.waiting(1)).await;
        });
        process
    }

    /// The next process finds a token of Alice's and uses it, as long as it lives.
    fn next(&self) -> Process {
        let next = self.process(FileStore::new(self.file()));
        next.runtime.block_on(async {
            let token = within(next.world.session.token()).await.unwrap();
            assert_eq!(self.authority.holder(token.access().expose()).as_deref(), Some("alice"));
            assert_eq!(next.world.get("/").await.unwrap().status(), StatusCode::OK);
        });
        next
    }

    /// Logins, refreshes that were asked for, refresh tokens that were presented twice, families that were ended.
    fn counts(&self) -> [usize; 4] {
        let counts = self.authority.counts();
        [counts.logins, counts.refreshes, counts.presented_again(), counts.family_deaths]
    }
}

impl Process {
    /// Asks for something, so many seconds later.
    fn get_after(&self, seconds: u64, machine: &Machine) -> Result<StatusCode, BoxError> {
        machine.clock.advance(Duration::from_secs(seconds));
        self.runtime.block_on(async { Ok(within(self.world.get("/")).await?.status()) })
    }
}

#[test]
fn a_process_that_settles_before_its_end_saves_the_renewal_that_is_on() {
    let machine = Machine::new(Duration::ZERO);
    let gate = machine.authority.hold(Endpoint::Refresh);
    let process = machine.renewing(FileStore::new(machine.file()), &gate);
    process.runtime.block_on(async {
        let mut settled = task::spawn(process.world.session.settle());
        assert_pending!(settled.poll());
        gate.open();
        within(settled).await.unwrap();
    });
    drop(process);
    let next = machine.next();
    assert_eq!(machine.counts(), [1, 1, 0, 0], "the renewed token is there, and none is asked for");
    assert_eq!(next.get_after(7200, &machine).unwrap(), StatusCode::OK);
    assert_eq!(machine.counts(), [1, 2, 0, 0]);
    println!("ended after settling: 1 login, 2 refreshes, 0 families ended");
}

/// Nothing was spent: the refresh token is as good as before.
#[test]
fn a_process_that_ends_before_the_authority_has_renewed_leaves_a_refresh_token_that_is_good() {
    let machine = Machine::new(Duration::ZERO);
    let gate = machine.authority.hold(Endpoint::Refresh);
    drop(machine.renewing(FileStore::new(machine.file()), &gate));
    gate.open();
    let next = machine.next();
    assert_eq!(next.get_after(100, &machine).unwrap(), StatusCode::OK);
    assert_eq!(machine.counts(), [1, 2, 1, 0], "asked for twice, answered once");
    println!("ended before the authority did anything: 1 login, 0 families ended");
}

/// The one loss that nobody can prevent: the refresh token in the store is spent, and its successor went with the
/// process. The access token in the store is used to its end; then an authority with grace repeats its answer, and one
/// without asks for a login.
#[test]
fn a_process_that_ends_between_the_renewal_and_its_save_costs_the_next_a_login_unless_the_authority_has_grace()
 {
    for grace in [Duration::ZERO, Duration::from_secs(300)] {
        let machine = Machine::new(grace);
        let store = Slow { file: FileStore::new(machine.file()), gate: Gate::new() };
        let gate = store.gate.clone();
        // The login's.
        gate.let_through(1);
        drop(machine.renewing(store, &gate));
        assert_eq!(machine.counts(), [1, 1, 0, 0]);
        let next = machine.next();
        let answer = next.get_after(100, &machine);
        if grace.is_zero() {
            assert!(Error::find(&*answer.unwrap_err()).unwrap().is_login_required());
            assert_eq!(machine.counts(), [1, 2, 1, 1]);
            next.runtime.block_on(async {
                next.world.session.login(machine.authority.login().await.unwrap()).await.unwrap();
            });
            assert_eq!(next.get_after(7200, &machine).unwrap(), StatusCode::OK);
        } else {
            assert_eq!(answer.unwrap(), StatusCode::OK);
            assert_eq!(machine.counts(), [1, 2, 1, 0]);
        }
        let [logins, _, _, deaths] = machine.counts();
        println!(
            "ended between renewal and save, grace of {} s: logins: {logins}, families ended: {deaths}",
            grace.as_secs()
        );
    }
}

/// A file whose saves wait at a gate.
struct Slow {
    file: FileStore,
    gate: Gate,
}

impl TokenStore for Slow {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.file.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.gate.pass().await;
        self.file.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.file.lock().await
    }
}
