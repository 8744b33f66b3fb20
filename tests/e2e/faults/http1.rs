//! A server that speaks HTTP/1.1 byte by byte, as a test says.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower::{Service, ServiceExt};
use tower_token_refresh::{BoxError, test_util::ModelBody};

/// One thing that the server does in the place of its answer. After the last it closes the connection.
pub(super) enum Act {
    Send(Vec<u8>),
    /// Each byte in a packet of its own.
    Trickle(Vec<u8>),
    /// The same bytes again and again, for as long as somebody takes them.
    Endless(&'static [u8]),
    /// Nothing, until the client goes.
    Silence,
    /// The close is a reset.
    Reset,
}

/// Makes of the answer what is done instead.
type Fault = Box<dyn FnOnce(Answer) -> Vec<Act> + Send>;

/// An answer as it would be sent.
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn whole(&self) -> Vec<u8> {
        [&*self.head, &*self.body].concat()
    }

    /// The beginning of it; never all.
    pub(super) fn cut(&self, at: usize) -> Vec<u8> {
        let mut bytes = self.whole();
        bytes.truncate(at.min(bytes.len() - 1));
        bytes
    }

    /// The body under another head, which leaves the length to `more`.
    pub(super) fn under(&self, more: &str) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}\r\n\r\n");
        [head.as_bytes(), &*self.body].concat()
    }

    /// The whole in chunks of five bytes, without the last chunk.
    pub(super) fn chunked(&self) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in self.body.chunks(5) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    faults: Arc<Mutex<VecDeque<Option<Fault>>>>,
    lengths: Arc<Mutex<Vec<(usize, usize)>>>,
    traffic: watch::Sender<Traffic>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Connections open now.
    pub(super) connections: usize,
    /// Connections so far.
    pub(super) accepted: usize,
    /// Bytes that faulty answers have put on the wire.
    pub(super) sent: usize,
}

impl Peer {
    pub(super) async fn start<S>(service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), service)
    }

    pub(super) fn on<S>(listener: TcpListener, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let address = listener.local_addr().expect("it is bound");
        let peer = Peer {
            address,
            faults: Arc::default(),
            lengths: Arc::default(),
            traffic: watch::Sender::default(),
        };
        let server = peer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, service) = (server.clone(), service.clone());
                tokio::spawn(async move {
                    server.traffic.send_modify(|traffic| {
                        traffic.connections += 1;
                        traffic.accepted += 1;
                    });
                    // A connection that fails is what the tests are about.
                    let _ = server.serve(stream, service).await;
                    server.traffic.send_modify(|traffic| traffic.connections -= 1);
                });
            }
        });
        peer
    }

    /// What is done with the next answer that nothing is planned for yet.
    pub(super) fn fault(&self, fault: impl FnOnce(Answer) -> Vec<Act> + Send + 'static) {
        self.faults.lock().unwrap().push_back(Some(Box::new(fault)));
    }

    /// That answer goes out as it is.
    pub(super) fn no_fault(&self) {
        self.faults.lock().unwrap().push_back(None);
    }

    /// Of head and body of one of the answers so far, faults aside.
    pub(super) fn lengths(&self, number: usize) -> (usize, usize) {
        self.lengths.lock().unwrap()[number]
    }

    pub(super) fn traffic(&self) -> Traffic {
        *self.traffic.borrow()
    }

    /// Waits until nobody is connected.
    pub(super) async fn deserted(&self) {
        self.traffic
            .subscribe()
            .wait_for(|traffic| traffic.connections == 0)
            .await
            .expect("it lives in `self`");
    }

    async fn serve<S>(&self, mut stream: TcpStream, service: S) -> Result<(), BoxError>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError> + Clone,
    {
        stream.set_nodelay(true)?;
        while let Some(request) = read(&mut stream).await? {
            let answer = print(service.clone().oneshot(request).await?);
            self.lengths.lock().unwrap().push((answer.head.len(), answer.body.len()));
            let fault = self.faults.lock().unwrap().pop_front().flatten();
            let Some(fault) = fault else {
                stream.write_all(&answer.whole()).await?;
                continue;
            };
            for act in fault(answer) {
                self.act(&mut stream, act).await?;
            }
            break;
        }
        Ok(())
    }

    async fn act(&self, stream: &mut TcpStream, act: Act) -> io::Result<()> {
        let count = |bytes: &[u8]| self.traffic.send_modify(|traffic| traffic.sent += bytes.len());
        match act {
            Act::Send(bytes) => {
                count(&bytes);
                stream.write_all(&bytes).await
            }
            Act::Trickle(bytes) => {
                for byte in bytes.chunks(1) {
                    count(byte);
                    stream.write_all(byte).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Act::Endless(bytes) => loop {
                stream.write_all(bytes).await?;
                count(bytes);
            },
            Act::Silence => {
                while stream.read(&mut [0; 64]).await? > 0 {}
                Ok(())
            }
            Act::Reset => stream.set_zero_linger(),
        }
    }
}

/// The next request on a connection.
async fn read(stream: &mut TcpStream) -> Result<Option<Request<Full<Bytes>>>, BoxError> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = std::str::from_utf8(&bytes[..end])?.to_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut request = Request::builder()
        .method(first.next().unwrap_or_default())
        .uri(first.next().unwrap_or_default())
        .body(())?;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
    }
    let length: usize = match request.headers().get(http::header::CONTENT_LENGTH) {
        Some(length) => length.to_str()?.parse()?,
        None => 0,
    };
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(request.map(|()| Full::from(body))))
}

fn print(response: Response<ModelBody>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.bytes().to_vec();
    let mut text = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", head.status, body.len()).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    Answer { head: text, body }
}
