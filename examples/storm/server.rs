//! The model authority and the model API behind one port.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tower::Service;
use tower_token_refresh::{
    BoxError,
    test_util::{ModelApi, ModelAuthority, ModelBody, Refusal},
};

/// A server that ends with this value, its connections included.
pub(crate) struct Server {
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) address: SocketAddr,
    _running: JoinSet<()>,
}

impl Server {
    /// Keeps the newest token alive only, and refuses all others with a 403.
    pub(crate) async fn start(http2: bool) -> io::Result<Server> {
        let authority = ModelAuthority::new().newest_only();
        let api = ModelApi::new(authority.clone()).refusal(Refusal::ForbiddenCode(10_006));
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        // The usual queue is shorter than the storm, and who finds it full tries again a second later.
        let listener = socket.listen(4096)?;
        let address = listener.local_addr()?;
        let site = Site { authority: authority.clone(), api: api.clone() };
        let mut running = JoinSet::new();
        running.spawn(accept(listener, site, http2));
        Ok(Server { authority, api, address, _running: running })
    }
}

async fn accept(listener: TcpListener, site: Site, http2: bool) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(serve(stream, site.clone(), http2))),
            // Without a descriptor to spare it fails again and again until a connection ends.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// How a connection ends is seen by the client.
async fn serve(stream: TcpStream, site: Site, http2: bool) {
    let _ = stream.set_nodelay(true);
    let (stream, site) = (TokioIo::new(stream), TowerToHyperService::new(site));
    let _ = if http2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.max_concurrent_streams(None).serve_connection(stream, site).await
    } else {
        http1::Builder::new().serve_connection(stream, site).await
    };
}

/// `/token` is the authority's, everything else the API's.
#[derive(Clone)]
struct Site {
    authority: ModelAuthority,
    api: ModelApi,
}

impl Service<Request<Incoming>> for Site {
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ModelBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match request.uri().path() {
            "/token" => self.authority.call(request),
            _ => self.api.call(request),
        }
    }
}
