//! A line to the server that can be cut, and can hold scripts back.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Notify, watch},
};
use tower_token_refresh_redis::{RedisStore, RedisStores};

use crate::server::Server;

pub(crate) struct Line {
    port: u16,
    is_up: watch::Sender<bool>,
    lets_scripts_pass: watch::Sender<bool>,
    held: Arc<Notify>,
    swallows: Arc<AtomicBool>,
}

impl Line {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_up, lets_scripts_pass) = (watch::Sender::new(true), watch::Sender::new(true));
        let line = Line { port, is_up, lets_scripts_pass, held: Arc::default(), swallows: Arc::default() };
        let swallows = line.swallows.clone();
        let (up, passes, held) = (line.is_up.clone(), line.lets_scripts_pass.clone(), line.held.clone());
        let server = server.port();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (mut up, passes) = (up.subscribe(), passes.subscribe());
                let (held, swallows) = (held.clone(), swallows.clone());
                tokio::spawn(async move {
                    up.wait_for(|up| *up).await.unwrap();
                    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                    let (from_client, mut to_client) = client.into_split();
                    let (mut from_server, to_server) = server.into_split();
                    tokio::select! {
                        _ = copy(&mut from_server, &mut to_client) => {}
                        () = pass(from_client, to_server, passes, held, swallows) => {}
                        _ = up.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        line
    }

    /// A store at the other end.
    pub(crate) fn store(&self) -> RedisStore {
        self.stores().store("acme:token")
    }

    pub(crate) fn stores(&self) -> RedisStores {
        RedisStores::new(format!("redis://127.0.0.1:{}/", self.port)).unwrap()
    }

    pub(crate) fn cut(&self) {
        self.is_up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.is_up.send_replace(true);
    }

    /// What is sent arrives nowhere.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::Relaxed);
    }

    pub(crate) fn hold_scripts(&self) {
        self.lets_scripts_pass.send_replace(false);
    }

    /// Waits for one to come.
    pub(crate) async fn has_one(&self) {
        self.held.notified().await;
    }

    pub(crate) fn let_scripts_pass(&self) {
        self.lets_scripts_pass.send_replace(true);
    }
}

async fn pass(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    mut passes: watch::Receiver<bool>,
    held: Arc<Notify>,
    swallows: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut bytes).await {
        if swallows.load(Ordering::Relaxed) {
            continue;
        }
        let is_script = bytes[..length].windows(4).any(|part| part == b"EVAL");
        if is_script && !*passes.borrow() {
            held.notify_one();
            passes.wait_for(|passes| *passes).await.unwrap();
        }
        server.write_all(&bytes[..length]).await.unwrap();
    }
}
