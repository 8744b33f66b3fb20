//! Servers that know what is open.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};
use tower::{Service, ServiceExt};
use tower_token_refresh::BoxError;

/// Which HTTP a scenario speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// What a server has open, and has had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Connections accepted so far.
    pub(crate) accepted: usize,
    /// Connections open now.
    pub(crate) connections: usize,
    /// Requests so far.
    pub(crate) requests: usize,
    /// Requests of which the handler, the body or the answer still lives.
    pub(crate) streams: usize,
}

/// A server on a loopback port; it ends with the test's runtime.
pub(crate) struct Server {
    address: SocketAddr,
    traffic: watch::Sender<Traffic>,
}

impl Server {
    pub(crate) async fn start<S, R>(http: Http, service: S) -> Self
    where
        S: Service<Request<Tracked<Incoming>>, Response = Response<R>, Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
        R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let traffic = watch::Sender::default();
        let server = Server { address, traffic: traffic.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(http, stream, service.clone(), traffic.clone()));
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn traffic(&self) -> Traffic {
        *self.traffic.borrow()
    }

    pub(crate) async fn until(&self, condition: impl FnMut(&Traffic) -> bool) {
        self.traffic.subscribe().wait_for(condition).await.expect("the sender lives in `self`");
    }

    /// Waits until nothing is under way; idle connections may be open.
    pub(crate) async fn idle(&self) {
        self.until(|traffic| traffic.streams == 0).await;
    }
}

async fn serve<S, R>(http: Http, stream: TcpStream, service: S, traffic: watch::Sender<Traffic>)
where
    S: Service<Request<Tracked<Incoming>>, Response = Response<R>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    traffic.send_modify(|traffic| traffic.accepted += 1);
    let _connection = Open::new(&traffic, |traffic| &mut traffic.connections);
    let leave = Arc::new(Notify::new());
    let asked_to_leave = leave.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        traffic.send_modify(|traffic| traffic.requests += 1);
        let open = Arc::new(Open::new(&traffic, |traffic| &mut traffic.streams));
        let (service, leave) = (service.clone(), leave.clone());
        async move {
            let request = request.map(|body| Tracked { body, _open: open.clone() });
            let mut response = service.oneshot(request).await.map_err(io::Error::other)?;
            if http == Http::Two && response.headers_mut().remove(header::CONNECTION).is_some() {
                leave.notify_one();
            }
            Ok::<_, io::Error>(response.map(|body| Tracked { body, _open: open }))
        }
    });
    let io = TokioIo::new(stream);
    // A connection that fails is the client's affair: it is what the tests look at.
    let _ = match http {
        Http::One => http1::Builder::new().serve_connection(io, handler).with_upgrades().await,
        Http::Two => {
            let builder = http2::Builder::new(TokioExecutor::new());
            let mut connection = pin!(builder.serve_connection(io, handler));
            tokio::select! {
                result = connection.as_mut() => result,
                () = asked_to_leave.notified() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
}

/// Counts as open until it is dropped.
struct Open {
    traffic: watch::Sender<Traffic>,
    count: fn(&mut Traffic) -> &mut usize,
}

impl Open {
    fn new(traffic: &watch::Sender<Traffic>, count: fn(&mut Traffic) -> &mut usize) -> Self {
        traffic.send_modify(|traffic| *count(traffic) += 1);
        Open { traffic: traffic.clone(), count }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.traffic.send_modify(|traffic| *(self.count)(traffic) -= 1);
    }
}

pin_project! {
    /// A body that keeps its stream in the count.
    pub(crate) struct Tracked<B> {
        #[pin]
        body: B,
        _open: Arc<Open>,
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
