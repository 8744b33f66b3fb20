//! The lowest layer of every client: hyper, and a record of each exchange.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{sync::watch, time::Instant};
use tower::Service;
use tower_token_refresh::BoxError;

use crate::connector::Connector;

/// Request extension: whose exchange this is. A token call that is made for everybody has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight(pub(crate) usize);

/// One request and its answer as they went over the wire.
#[derive(Clone, Copy)]
pub(crate) struct Exchange {
    pub(crate) flight: Option<Flight>,
    pub(crate) is_token_call: bool,
    pub(crate) start: Duration,
    /// When the head of the answer was there, and its status.
    pub(crate) answer: Option<(Duration, StatusCode)>,
}

/// What has happened on the wire so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) sent: usize,
    pub(crate) refused: usize,
    pub(crate) accepted: usize,
    pub(crate) in_flight: usize,
    /// Calls that came back to their callers.
    pub(crate) returned: usize,
}

/// What a run has seen.
pub(crate) struct Record {
    began: Instant,
    exchanges: Mutex<Vec<Exchange>>,
    progress: watch::Sender<Progress>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Record { began: Instant::now(), exchanges: Mutex::default(), progress: watch::Sender::default() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn returned(&self) {
        self.progress.send_modify(|progress| progress.returned += 1);
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect(UNBROKEN).clone()
    }

    fn begin(self: &Arc<Self>, flight: Option<Flight>, is_token_call: bool) -> Ongoing {
        let mut exchanges = self.exchanges.lock().expect(UNBROKEN);
        exchanges.push(Exchange { flight, is_token_call, start: self.elapsed(), answer: None });
        self.progress.send_modify(|progress| {
            progress.sent += 1;
            progress.in_flight += 1;
        });
        Ongoing { record: self.clone(), index: exchanges.len() - 1 }
    }
}

const UNBROKEN: &str = "nothing panics while it writes the record";

/// An exchange that has not been answered yet.
struct Ongoing {
    record: Arc<Record>,
    index: usize,
}

impl Ongoing {
    fn answered(self, status: StatusCode) {
        let is_token_call = {
            let mut exchanges = self.record.exchanges.lock().expect(UNBROKEN);
            let exchange = &mut exchanges[self.index];
            exchange.answer = Some((self.record.elapsed(), status));
            exchange.is_token_call
        };
        if !is_token_call {
            self.record.progress.send_modify(|progress| match status {
                StatusCode::FORBIDDEN => progress.refused += 1,
                _ => progress.accepted += 1,
            });
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.record.progress.send_modify(|progress| progress.in_flight -= 1);
    }
}

type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// hyper-util's pooled clients, as a tower service.
#[derive(Clone)]
pub(crate) struct Wire {
    clients: Arc<[Client<Connector, RequestBody>]>,
    record: Arc<Record>,
}

impl Wire {
    /// A client opens one HTTP/2 connection, or as many of HTTP/1.1 as are needed.
    pub(crate) fn new(connector: &Connector, http2_connections: Option<usize>, record: Arc<Record>) -> Self {
        let client = || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .http2_only(http2_connections.is_some())
                .build(connector.clone())
        };
        Wire { clients: (0..http2_connections.unwrap_or(1)).map(|_| client()).collect(), record }
    }
}

impl<B> Service<Request<B>> for Wire
where
    B: Body<Data: Buf, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let flight = request.extensions().get::<Flight>().copied();
        let client = &self.clients[flight.map_or(0, |Flight(number)| number % self.clients.len())];
        let exchange = self.record.begin(flight, request.uri().path() == "/token");
        let request = request.map(|body| {
            body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                .map_err(Into::into)
                .boxed_unsync()
        });
        let answer = client.request(request);
        Box::pin(async move {
            let response = answer.await?;
            exchange.answered(response.status());
            Ok(response)
        })
    }
}
