//! Hostile neighbours: stores that lie, sources and observers at their worst, runtimes that die at the wrong moment.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    ErrorKind, Token,
    store::{Record, SessionId, StoredToken, TokenStore},
    test_util::{Gate, ModelAuthority},
};

use crate::{
    storage::{Fault, Watched},
    world::World,
};

async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(3600), future).await.expect("an answer within the virtual hour")
}

fn record(session: u128, revision: u64, access: &str) -> Record {
    let token = StoredToken { access: access.into(), refresh: None, expires_at: None };
    Record { session: SessionId(session), revision, token: Some(token) }
}

fn world(store: impl TokenStore) -> World {
    World::with(ModelAuthority::new(), |session| session.store(store), |layer| layer)
}

fn access(token: &Token) -> &str {
    token.access().expose()
}

// Stores that lie or fail.

#[tokio::test(start_paused = true)]
async fn a_logout_that_is_not_saved_stays_owed_although_a_refresh_was_being_saved() {
    let store = Watched::default();
    let world = world(store.clone());
    world.session.token().await.unwrap();
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    store.set(|store| (store.hold_save, store.save) = (None, Fault::Error));
    let mut logout = task::spawn(world.session.logout());
    assert_pending!(logout.poll());
    gate.open();
    assert_eq!(in_time(logout).await.unwrap_err().kind(), ErrorKind::Store);
    assert!(store.access().await.is_some(), "the refresh has reached the store");
    store.set(|store| store.save = Fault::None);
    world.session.settle().await.unwrap();
    assert_eq!(store.access().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_to_the_store_is_not_written_over_something_newer() {
    for settles in [false, true] {
        let store = Watched::default();
        let world = world(store.clone());
        world.session.token().await.unwrap();
        store.set(|store| store.save = Fault::Error);
        world.session.refresh().await.unwrap();
        store.set(|store| store.save = Fault::None);
        store.save(&record(7, 1 << 62, "of-bob"), None).await.unwrap();
        if settles {
            world.session.settle().await.unwrap();
        } else {
            assert_eq!(access(&world.session.refresh().await.unwrap()), "of-bob");
        }
        world.session.settle().await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some("of-bob"));
    }
}
