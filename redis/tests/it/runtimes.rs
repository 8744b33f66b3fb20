//! Runtimes of the caller's end, or are not there at all.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tower_token_refresh::{
    Session, Token,
    source::{FetchContext, FetchError},
    source_fn,
    store::TokenStore,
};

use crate::{
    records::{access, record},
    server::Server,
};

const LONG: Duration = Duration::from_secs(10);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait_for<T>(mut future: Pin<&mut impl Future<Output = T>>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        thread::park();
    }
}

#[test]
fn every_call_works_without_a_runtime() {
    let server = Server::start();
    let (stores, other) = (server.stores(), server.store());
    let store = stores.store("acme:token");
    assert!(wait_for(pin!(store.load())).unwrap().is_none());
    wait_for(pin!(store.save(&record(1, "one"), None))).unwrap();
    assert_eq!(wait_for(pin!(access(&store))).as_deref(), Some("one"));

    let lease = wait_for(pin!(other.lock())).unwrap();
    let mut lock = pin!(store.lock());
    assert!(lock.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(lease);
    drop(wait_for(lock).unwrap());
    wait_for(pin!(stores.settle()));

    let mut changed = pin!(store.changed(1));
    assert!(changed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    wait_for(pin!(other.save(&record(2, "two"), None))).unwrap();
    wait_for(changed);
}

#[test]
fn a_lease_outlives_the_runtime_that_it_was_taken_on() {
    let server = Server::start();
    let (first, second) = (runtime(), runtime());
    let lease = first.block_on(async {
        let stores = server.stores().lease_lifetime(Duration::from_secs(1)).unwrap();
        stores.store("acme:token").lock().await.unwrap()
    });
    drop(first);
    second.block_on(async {
        let other = server.store();
        let mut next = pin!(other.lock());
        assert!(timeout(Duration::from_secs(3), &mut next).await.is_err());
        drop(lease);
        let _next = timeout(LONG, next).await.unwrap().unwrap();
    });
}

#[test]
fn a_runtime_that_ends_during_a_refresh_gives_its_lease_back_at_once() {
    let server = Server::start();
    let (begins, begun) = mpsc::channel();
    let fetches = AtomicUsize::new(0);
    let source = source_fn(move |_: FetchContext| {
        let is_refresh_that_hangs = fetches.fetch_add(1, Ordering::Relaxed) == 1;
        begins.send(()).unwrap();
        async move {
            if is_refresh_that_hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, FetchError>(Token::new("access").refresh_token("refresh"))
        }
    });
    let session = Session::builder(source).store(server.store()).build();
    let (first, second) = (runtime(), runtime());
    first.block_on(session.token()).unwrap();
    begun.recv().unwrap();
    first.spawn({
        let session = session.clone();
        async move { session.refresh().await }
    });
    begun.recv().unwrap();
    drop(first);
    let refreshed = second.block_on(async { timeout(LONG / 4, session.refresh()).await });
    refreshed.expect("the lease is free").unwrap();
}

#[test]
fn the_connection_is_closed_when_the_last_store_is_dropped() {
    let server = Server::start();
    let runtime = runtime();
    let raw = runtime.block_on(server.raw());
    let clients = async || {
        let list = redis::cmd("CLIENT").arg("LIST").to_owned();
        list.query_async::<String>(&mut raw.clone()).await.unwrap().lines().count()
    };
    let used = async || {
        let stores = server.stores();
        stores.store("acme:token").load().await.unwrap();
        drop(stores.store("another").lock().await.unwrap());
        assert_eq!(clients().await, 2);
        stores
    };
    let closed = async || {
        let closed = async { while clients().await > 1 {} };
        timeout(LONG, closed).await.unwrap();
    };
    runtime.block_on(async {
        drop(used().await);
        closed().await;
    });
    drop(runtime.block_on(used()));
    runtime.block_on(closed());
}
