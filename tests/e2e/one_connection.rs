//! Clients that have one of something: one connection, one permit.

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer};
use tower_token_refresh::{
    Outcome, ReplayBody,
    test_util::{Refusal, Route},
};

use crate::kit::{Http, Payload, Sender, Upload, World, full, get, json, pool, post, watched, within};

/// A pool of one connection, which a response keeps until it is dropped.
#[derive(Clone)]
struct Only(Arc<Mutex<Slot>>);

struct Slot {
    sender: Sender,
    lent: bool,
    waiting: Option<Waker>,
}

impl Only {
    fn new(sender: Sender) -> Self {
        Only(Arc::new(Mutex::new(Slot { sender, lent: false, waiting: None })))
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().expect("nothing panics while it has the slot")
    }
}

impl Service<Request<ReplayBody<Payload>>> for Only {
    type Response = Response<Lent>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Lent>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let mut slot = self.slot();
        if slot.lent {
            slot.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        slot.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReplayBody<Payload>>) -> Self::Future {
        self.slot().lent = true;
        let loan = Loan(self.clone());
        let answer = self.slot().sender.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Lent { body, _loan: loan })) })
    }
}

/// Gives the connection back when it is dropped.
struct Loan(Only);

impl Drop for Loan {
    fn drop(&mut self) {
        let waiting = {
            let mut slot = self.0.slot();
            slot.lent = false;
            slot.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// The body of a response that still has the connection.
struct Lent {
    body: Incoming,
    _loan: Loan,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

async fn one_sender(http: Http) {
    let world = World::with(http, |api| api).await;
    let client = world.layer().layer(Only::new(Sender::connect(http, &world.server).await));
    for n in 1..=5 {
        world.authority.revoke_access();
        let response = client.clone().oneshot(post(world.url("/echo"), full("hello"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(world.authority.counts().refreshes, n);
    }
    assert_eq!(world.server.traffic().accepted, 1);
    assert_eq!(world.api.requests().len(), 10);
}

#[tokio::test]
async fn the_refused_response_over_http1_gives_its_connection_back_before_the_resend_asks_for_it() {
    within(one_sender(Http::One)).await;
}

#[tokio::test]
async fn the_refused_response_over_http2_gives_its_connection_back_before_the_resend_asks_for_it() {
    within(one_sender(Http::Two)).await;
}

/// The connection is taken until the upload has ended. Over HTTP/1.1 it ends with an upload that is cut off.
async fn early_refusal(http: Http) {
    let world = World::revoked(http, |api| api.route("/upload", Route::RefuseEarly)).await;
    let (layer, mut judged) = watched(world.layer());
    let client = layer.layer(Only::new(Sender::connect(http, &world.server).await));
    let (body, upload) = Upload::new(52_000);
    upload.allow(20_000);
    let call = tokio::spawn(client.oneshot(post(world.url("/upload"), body)));
    judged.at_least(1).await;
    upload.allow_all();
    match (http, call.await.unwrap()) {
        (Http::One, Err(error)) => assert!(error.downcast::<hyper::Error>().unwrap().is_closed()),
        (_, result) => assert_eq!(json(result.unwrap().into_body().body).await["length"], 52_000),
    }
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test]
async fn an_upload_over_http1_that_is_refused_early_does_not_wait_for_its_own_connection() {
    within(early_refusal(Http::One)).await;
}

#[tokio::test]
async fn an_upload_over_http2_that_is_refused_early_does_not_wait_for_its_own_connection() {
    within(early_refusal(Http::Two)).await;
}

/// The connection ends with the refused response.
async fn ended_by(refusal: http::response::Builder, body: Bytes) {
    let refusal = Refusal::Custom(refusal.status(StatusCode::UNAUTHORIZED).body(body).unwrap());
    let world = World::revoked(Http::One, |api| api.refusal(refusal)).await;
    let client = world.layer().layer(Only::new(Sender::connect(Http::One, &world.server).await));
    let error = client.oneshot(post(world.url("/echo"), full("hello"))).await.map(drop).unwrap_err();
    let error = error.downcast::<hyper::Error>().unwrap();
    assert!(error.is_closed() || error.is_canceled(), "{error}");
    assert_eq!((world.authority.counts().refreshes, world.api.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_refusal_over_http1_that_closes_the_only_connection_is_an_error_at_once() {
    let closing = Response::builder().header(header::CONNECTION, "close");
    within(ended_by(closing, Bytes::new())).await;
}

#[tokio::test]
async fn a_refusal_over_http1_that_has_not_come_whole_by_the_resend_is_an_error_at_once() {
    within(ended_by(Response::builder(), vec![0; 8 << 20].into())).await;
}

/// As applications use a connection: a buffer around it, and URIs that name no origin.
async fn buffered_sender(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let sender = Buffer::new(Sender::connect(http, &world.server).await, 4);
    // Over HTTP/2 the client makes `:scheme` and `:authority` of a whole URI; over HTTP/1 it sends what it is given.
    let (layer, uri) = match http {
        Http::One => (world.layer().assume_origin(world.origin()), "/echo".to_owned()),
        Http::Two => (world.layer(), world.url("/echo")),
    };
    let client = layer.layer(sender);
    let mut calls = JoinSet::new();
    for n in 0..8 {
        calls.spawn(read(client.clone().oneshot(post(uri.clone(), full(format!("{n}"))))));
    }
    let mut texts = calls.join_all().await;
    texts.sort_unstable();
    assert_eq!(texts, (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.server.traffic().accepted, 1);
}

/// The text of an answer that was accepted.
async fn read<E: Debug>(call: impl Future<Output = Result<Response<Incoming>, E>>) -> String {
    let response = call.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn requests_over_http1_recover_on_one_buffered_connection() {
    within(buffered_sender(Http::One)).await;
}

#[tokio::test]
async fn requests_over_http2_recover_on_one_buffered_connection() {
    within(buffered_sender(Http::Two)).await;
}

/// The permit lives as long as the response future below the layer.
async fn one_permit(http: Http) {
    let world = World::revoked(http, |api| api).await;
    let client = ServiceBuilder::new()
        .layer(world.layer())
        .concurrency_limit(1)
        .service(pool::<ReplayBody<Payload>>(http));
    let mut calls = JoinSet::new();
    for n in 0..8 {
        calls.spawn(read(client.clone().oneshot(post(world.url("/echo"), full(format!("{n}"))))));
    }
    assert_eq!(calls.join_all().await.len(), 8);
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.api.max_in_flight(), 1);
    let idle = client.oneshot(get(world.url("/"))).await.unwrap();
    assert_eq!(idle.status(), StatusCode::OK);
}

#[tokio::test]
async fn requests_over_http1_recover_with_one_permit_among_them() {
    within(one_permit(Http::One)).await;
}

#[tokio::test]
async fn requests_over_http2_recover_with_one_permit_among_them() {
    within(one_permit(Http::Two)).await;
}
