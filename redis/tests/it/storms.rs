//! While Redis refuses, little is sent.

use std::{net::Ipv4Addr, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tower_token_refresh::store::{Lease, TokenStore};
use tower_token_refresh_redis::RedisStores;

use crate::server::Server;

const WINDOW: Duration = Duration::from_secs(3);

/// One whose leases are prolonged often.
fn stores(server: &Server) -> RedisStores {
    server.stores().lease_lifetime(Duration::from_secs(1)).unwrap()
}

async fn leases(stores: &RedisStores) -> Vec<Lease> {
    let mut leases = Vec::new();
    for number in 0..20 {
        leases.push(stores.store(&format!("user-{number}")).lock().await.unwrap());
    }
    leases
}

/// How much these have grown meanwhile.
async fn growth<const N: usize>(raw: &mut MultiplexedConnection, names: [&str; N]) -> [u64; N] {
    let mut look = async || {
        let stats: String = redis::cmd("INFO").arg("stats").query_async(raw).await.unwrap();
        names.map(|name| {
            let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap().parse::<u64>().unwrap()
        })
    };
    let before = look().await;
    sleep(WINDOW).await;
    let after = look().await;
    std::array::from_fn(|index| after[index] - before[index])
}

#[tokio::test]
async fn a_server_that_stays_a_replica_gets_few_connections_and_commands() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let stores = stores(&server);
    let _leases = leases(&stores).await;
    for number in 0..20 {
        let store = stores.store(&format!("user-{number}"));
        tokio::spawn(async move { store.changed(0).await });
    }
    let replica_of = redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").to_owned();
    replica_of.query_async::<()>(&mut raw).await.unwrap();
    let [connections, commands] =
        growth(&mut raw, ["total_connections_received", "total_commands_processed"]).await;
    assert!((1..=6).contains(&connections), "{connections}");
    assert!(commands < 1000, "{commands}");
}

#[tokio::test]
async fn a_server_that_has_no_room_gets_few_commands() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let _leases = leases(&stores(&server)).await;
    let full = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).to_owned();
    full.query_async::<()>(&mut raw).await.unwrap();
    let [errors] = growth(&mut raw, ["total_error_replies"]).await;
    // Each holder tries about three times a second, and a little more often at first.
    assert!((20..600).contains(&errors), "{errors}");
}

#[tokio::test]
async fn who_hangs_up_at_once_is_called_seldom() {
    let mut server = Server::start();
    let _leases = leases(&stores(&server)).await;
    server.stop();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, server.port())).await.unwrap();
    let mut calls = 0;
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
            calls += 1;
        }
    };
    assert!(timeout(WINDOW, hang_up).await.is_err());
    assert!((1..=6).contains(&calls), "{calls}");
}
