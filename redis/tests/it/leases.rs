//! Whose turn it is.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{runtime::Builder, time::timeout};
use tower_token_refresh::store::{LeaseLost, TokenStore};
use tower_token_refresh_redis::RedisStore;

use crate::{line::Line, records::record, server::Server};

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
    assert!(next.fence() > fence && elsewhere.fence() > 0);
}

#[tokio::test]
async fn a_lease_lasts_for_as_long_as_it_is_held() {
    let server = Server::start();
    let brief = store(&server, Duration::from_secs(1));
    let lease = brief.lock().await.unwrap();
    assert!(timeout(Duration::from_secs(3), server.store().lock()).await.is_err());
    brief.save(&record(1, "one"), Some(lease.fence())).await.unwrap();
}

#[tokio::test]
async fn the_lease_of_a_process_that_has_died_ends_by_itself() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let dying = line.stores().lease_lifetime(Duration::from_secs(1)).unwrap();
    let of_dead = dying.store("acme:token").lock().await.unwrap();
    // Nothing comes from it any more.
    line.cut();
    let survivor = server.store();
    let lease = timeout(LONG, survivor.lock()).await.unwrap().unwrap();
    assert!(lease.fence() > of_dead.fence());
    assert!(survivor.save(&record(9, "late"), Some(of_dead.fence())).await.unwrap_err().is::<LeaseLost>());
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

#[tokio::test]
async fn a_lease_whose_answer_takes_long_is_not_lost() {
    let server = Server::start();
    let (one, other) = (server.store(), server.store());
    one.load().await.unwrap();
    let pause = redis::cmd("CLIENT").arg("PAUSE").arg(1500).arg("ALL").to_owned();
    pause.query_async::<()>(&mut server.raw().await).await.unwrap();
    drop(timeout(LONG, one.lock()).await.unwrap().unwrap());
    let _next = timeout(LONG, other.lock()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_holder_takes_its_lease_again_where_that_was_lost_and_nobody_else_has_had_one() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let _lease = store(&server, Duration::from_secs(1)).lock().await.unwrap();
    let key = "{acme:token}:lease";
    assert!(redis::cmd("DEL").arg(key).query_async::<bool>(&mut raw).await.unwrap());
    let is_there = redis::cmd("EXISTS").arg(key).to_owned();
    while !is_there.query_async::<bool>(&mut raw).await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(timeout(MOMENT, server.store().lock()).await.is_err());
}

#[tokio::test]
async fn no_number_comes_again_although_redis_has_lost_the_last_one() {
    let server = Server::start();
    let store = server.store();
    let first = store.lock().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut server.raw().await).await.unwrap();
    let second = timeout(LONG, server.store().lock()).await.unwrap().unwrap();
    assert!(second.fence() > first.fence());
    drop(first);
    assert!(timeout(MOMENT, store.lock()).await.is_err(), "the second one is another's");
}

#[test]
fn a_process_that_settles_leaves_no_lease() {
    let server = Server::start();
    let brief = Builder::new_current_thread().enable_all().build().unwrap();
    brief.block_on(async {
        let stores = server.stores();
        drop(stores.store("acme:token").lock().await.unwrap());
        stores.settle().await;
    });
    drop(brief);
    let next = Builder::new_current_thread().enable_all().build().unwrap();
    let _lease = next.block_on(async { timeout(MOMENT, server.store().lock()).await.unwrap().unwrap() });
}

#[tokio::test]
async fn a_holder_does_not_take_its_lease_again_where_somebody_else_has_had_one() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let _lost = store(&server, Duration::from_secs(2)).lock().await.unwrap();
    redis::cmd("DEL").arg("{acme:token}:lease").query_async::<bool>(&mut raw).await.unwrap();
    let stores = server.stores();
    drop(stores.store("acme:token").lock().await.unwrap());
    stores.settle().await;
    let comes_back = async {
        let is_there = redis::cmd("EXISTS").arg("{acme:token}:lease").to_owned();
        while !is_there.query_async::<bool>(&mut raw).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(3 * MOMENT, comes_back).await.is_err(), "it would have been prolonged by now");
}

#[tokio::test]
async fn what_is_prolonged_late_does_not_come_back() {
    let server = Server::start();
    let line = Line::to(&server).await;
    let stores = line.stores().lease_lifetime(Duration::from_secs(1)).unwrap();
    let lease = stores.store("acme:token").lock().await.unwrap();
    line.hold_scripts();
    line.has_one().await;
    // By another connection, as after one that has stalled.
    let mut raw = server.raw().await;
    let holder = redis::cmd("HGET").arg("{acme:token}").arg("holder").to_owned();
    let id: String = holder.query_async(&mut raw).await.unwrap();
    assert_eq!(id.len(), 32);
    redis::cmd("HDEL").arg("{acme:token}").arg("holder").query_async::<()>(&mut raw).await.unwrap();
    redis::cmd("DEL").arg("{acme:token}:lease").query_async::<()>(&mut raw).await.unwrap();
    drop(lease);
    line.let_scripts_pass();
    stores.settle().await;
    let _next = timeout(MOMENT, server.store().lock()).await.unwrap().unwrap();
}
