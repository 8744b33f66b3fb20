//! Whose turn it is.

use std::{
    mem,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{runtime::Builder, time::timeout};
use tower_token_refresh::store::{LeaseLost, TokenStore};
use tower_token_refresh_redis::RedisStore;

use crate::{records::record, server::Server};

const MOMENT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(10);

/// One whose leases last this long.
fn store(server: &Server, lifetime: Duration) -> RedisStore {
    server.stores().lease_lifetime(lifetime).unwrap().store("acme:token")
}

#[tokio::test]
async fn one_has_the_lease_until_it_is_dropped() {
    let server = Server::start();
    let (one, other) = (server.store(), server.store());
    let lease = one.lock().await.unwrap();
    assert!(timeout(MOMENT, other.lock()).await.is_err());
    assert!(timeout(MOMENT, one.lock()).await.is_err(), "nor a clone");
    let elsewhere = server.stores().store("another").lock().await.unwrap();
    let (fence, mut next) = (lease.fence(), pin!(other.lock()));
    assert!(timeout(4 * MOMENT, &mut next).await.is_err());
    drop(lease);
    // At once, and not at its next look.
    let next = timeout(MOMENT, next).await.unwrap().unwrap();
    assert!(next.fence() > fence && elsewhere.fence() == 1);
}

#[tokio::test]
async fn a_lease_lasts_for_as_long_as_it_is_held() {
    let server = Server::start();
    let brief = store(&server, Duration::from_millis(300));
    let lease = brief.lock().await.unwrap();
    assert!(timeout(Duration::from_secs(2), server.store().lock()).await.is_err());
    brief.save(&record(1, "one"), Some(lease.fence())).await.unwrap();
}

#[tokio::test]
async fn the_lease_of_a_process_that_has_died_ends_by_itself() {
    let server = Server::start();
    let dying = store(&server, Duration::from_millis(500));
    let of_dead = tokio::task::spawn_blocking(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lease = runtime.block_on(dying.lock()).unwrap();
        let fence = lease.fence();
        mem::forget(lease);
        runtime.shutdown_timeout(LONG);
        fence
    });
    let of_dead = of_dead.await.unwrap();
    let survivor = server.store();
    let lease = timeout(LONG, survivor.lock()).await.unwrap().unwrap();
    assert!(lease.fence() > of_dead);
    assert!(survivor.save(&record(9, "late"), Some(of_dead)).await.unwrap_err().is::<LeaseLost>());
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_nothing_locked() {
    let server = Server::start();
    let store = server.store();
    store.load().await.unwrap();
    for polls in 0..200 {
        let mut lock = pin!(store.lock());
        for _ in 0..polls % 20 {
            if lock.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let _lease = timeout(LONG, store.lock()).await.unwrap().unwrap();
}
