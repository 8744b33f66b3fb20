//! A server on this machine, and hyper-util's client for it.

use std::{future::Future, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower::BoxError;

/// Which HTTP is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

impl Http {
    pub(crate) const BOTH: [Http; 2] = [Http::One, Http::Two];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Http::One => "h1",
            Http::Two => "h2",
        }
    }
}

/// A server on a free port, which ends with the runtime; `open` counts its connections. An answer that is an error ends
/// its connection, or its stream.
pub(crate) async fn serve<A, F, E>(http: Http, open: watch::Sender<usize>, answer: A) -> SocketAddr
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let (answer, open) = (answer.clone(), open.clone());
            tokio::spawn(async move {
                open.send_modify(|open| *open += 1);
                connection(http, stream, answer).await;
                open.send_modify(|open| *open -= 1);
            });
        }
    });
    address
}

async fn connection<A, F, E>(http: Http, stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let service = service_fn(answer);
    let io = TokioIo::new(stream);
    // A client that goes away ends its connection with an error, which is nothing to anybody.
    let _ = match http {
        Http::One => http1::Builder::new().serve_connection(io, service).await,
        Http::Two => {
            // Else callers who give up together are taken for an attack, and the connection of all others ends.
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_pending_accept_reset_streams(usize::MAX).max_local_error_reset_streams(None);
            server.serve_connection(io, service).await
        }
    };
}

pub(crate) fn client<B>(http: Http) -> Client<HttpConnector, B>
where
    B: Body<Data: Send> + Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // The client has the same guard as the server: it counts frames for streams that were given up.
    Client::builder(TokioExecutor::new())
        .http2_only(http == Http::Two)
        .http2_max_local_error_reset_streams(None)
        .build(connector)
}
