//! A server that speaks HTTP/2 frame by frame, as a test says.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tower::{Service, ServiceExt};
use tower_token_refresh::{BoxError, test_util::ModelBody};

/// What becomes of a request, after the service has done its work.
#[derive(Clone)]
pub(super) enum Fault {
    /// RST_STREAM in the place of an answer.
    Reset(Reason),
    /// GOAWAY with this reason in the place of an answer.
    GoAway(Reason),
    /// The head and one byte; when the test says so, RST_STREAM.
    ResetInBody(Reason, Arc<Notify>),
    /// The same with GOAWAY.
    GoAwayInBody(Reason, Arc<Notify>),
    /// The head and half of the body, and nothing more.
    Silence,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    faults: Arc<Mutex<VecDeque<Option<Fault>>>>,
}

impl Peer {
    pub(super) async fn start<S>(service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let peer = Peer { address, faults: Arc::default() };
        let server = peer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream, service.clone()));
            }
        });
        peer
    }

    /// What becomes of the next request that nothing is planned for yet.
    pub(super) fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(Some(fault));
    }

    /// That request is answered.
    pub(super) fn no_fault(&self) {
        self.faults.lock().unwrap().push_back(None);
    }

    async fn serve<S>(self, stream: TcpStream, service: S) -> Result<(), BoxError>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        stream.set_nodelay(true)?;
        let mut connection = server::handshake(stream).await?;
        let (leave, mut leaving) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(accepted) = accepted else { return Ok(()) };
                    let (request, respond) = accepted?;
                    let exchange = self.clone().exchange(request, respond, service.clone(), leave.clone());
                    tokio::spawn(exchange);
                }
                Some(reason) = leaving.recv() => connection.abrupt_shutdown(reason),
            }
        }
    }

    async fn exchange<S>(
        self,
        request: Request<RecvStream>,
        mut respond: server::SendResponse<Bytes>,
        service: S,
        leave: mpsc::UnboundedSender<Reason>,
    ) -> Result<(), BoxError>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ModelBody>, Error = BoxError> + Send,
    {
        let (head, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            bytes.extend_from_slice(&data);
        }
        let response = service.oneshot(Request::from_parts(head, Full::from(bytes))).await?;
        let fault = self.faults.lock().unwrap().pop_front().flatten();
        let (head, body) = response.into_parts();
        let body = body.bytes().clone();
        match fault {
            Some(Fault::Reset(reason)) => {
                respond.send_reset(reason);
                return Ok(());
            }
            Some(Fault::GoAway(reason)) => return Ok(leave.send(reason)?),
            _ => {}
        }
        let mut stream = respond.send_response(Response::from_parts(head, ()), false)?;
        let half = body.slice(..body.len() / 2);
        match fault {
            None => stream.send_data(body, true)?,
            Some(Fault::ResetInBody(reason, when)) => {
                stream.send_data(half, false)?;
                when.notified().await;
                stream.send_reset(reason);
            }
            Some(Fault::GoAwayInBody(reason, when)) => {
                stream.send_data(half, false)?;
                when.notified().await;
                leave.send(reason)?;
            }
            Some(_) => {
                stream.send_data(half, false)?;
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await?;
            }
        }
        Ok(())
    }
}
