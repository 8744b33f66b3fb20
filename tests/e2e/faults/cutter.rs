//! A proxy that breaks a connection off at a byte.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

/// Of what comes back on the first connection, so many bytes are handed on; then it is closed.
pub(super) struct Cutter {
    pub(super) address: SocketAddr,
    has_cut: Arc<AtomicBool>,
}

impl Cutter {
    pub(super) async fn start(server: SocketAddr, at: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let cutter = Cutter { address: listener.local_addr().expect("it is bound"), has_cut: Arc::default() };
        let has_cut = cutter.has_cut.clone();
        tokio::spawn(async move {
            let mut limit = at;
            while let Ok((client, _)) = listener.accept().await {
                let has_cut = has_cut.clone();
                tokio::spawn(async move {
                    if hand_on(client, server, limit).await.is_ok_and(|copied| copied == at) {
                        has_cut.store(true, Ordering::Relaxed);
                    }
                });
                limit = u64::MAX;
            }
        });
        cutter
    }

    /// Whether there were so many bytes at all.
    pub(super) fn has_cut(&self) -> bool {
        self.has_cut.load(Ordering::Relaxed)
    }
}

async fn hand_on(mut client: TcpStream, server: SocketAddr, limit: u64) -> io::Result<u64> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut answer = from_server.take(limit);
    tokio::select! {
        up = tokio::io::copy(&mut from_client, &mut to_server) => up.map(|_| 0),
        down = tokio::io::copy(&mut answer, &mut to_client) => down,
    }
}
