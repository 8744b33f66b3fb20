//! The way to the token endpoint, which a test can disturb.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tower_token_refresh::test_util::Gate;

/// What becomes of token calls.
#[derive(Clone)]
pub(crate) enum Way {
    Open,
    /// Answers wait at the gate. What waits there the authority has done already.
    Hold(Gate),
    /// The connection ends in the place of an answer.
    LoseAnswers,
    /// The connection ends before the authority has seen the request.
    LoseRequests,
}

/// Relays connections to an authority; it ends with the test's runtime.
pub(crate) struct Proxy {
    address: String,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub(crate) async fn start(authority: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let way = watch::Sender::new(Way::Open);
        let (authority, ways) = (authority.to_owned(), way.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&authority).await.expect("the authority listens");
                tokio::spawn(relay(client, server, ways.clone()));
            }
        });
        Proxy { address, way }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// From the next request or answer on.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

/// Both connections end as soon as one direction does.
async fn relay(client: TcpStream, server: TcpStream, ways: watch::Receiver<Way>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, Direction::ToAuthority, ways.clone()) => {}
        () = pump(from_server, to_client, Direction::ToClient, ways) => {}
    }
}

/// Passes on what comes, as long as it may.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    ways: watch::Receiver<Way>,
) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let way = ways.borrow().clone();
        match (way, direction) {
            (Way::LoseRequests, Direction::ToAuthority) | (Way::LoseAnswers, Direction::ToClient) => break,
            (Way::Hold(gate), Direction::ToClient) => gate.pass().await,
            _ => {}
        }
        if to.write_all(&chunk[..read]).await.is_err() {
            break;
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToAuthority,
    ToClient,
}
