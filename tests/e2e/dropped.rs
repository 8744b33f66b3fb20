//! Callers that give up, in every state of their request: nothing of it stays open, and the refresh goes on.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::watch, task::JoinSet};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, ReplayBody,
    test_util::{Endpoint, Gate, Phase, Route, Upload as Fate},
};

use crate::kit::{
    Http, Payload, Pool, Server, Tracked, Upload, UploadControl, World, get, pool, post, settle, watched,
    within,
};

const CALLERS: usize = 20;
const LENGTH: u64 = 10 * 1024 * 1024;
const SENT: u64 = 32 * 1024;

type Answer = Result<Response<Incoming>, BoxError>;

/// Callers that each upload something, as far as the test allows.
struct Callers<C> {
    client: C,
    calls: JoinSet<Answer>,
    uploads: Vec<UploadControl>,
}

impl<C> Callers<C>
where
    C: Service<Request<Payload>, Response = Response<Incoming>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
{
    fn start(client: C, url: &str) -> Self {
        let mut callers = Callers { client, calls: JoinSet::new(), uploads: Vec::new() };
        for _ in 0..CALLERS {
            let (body, upload) = Upload::new(LENGTH);
            upload.allow(SENT);
            callers.uploads.push(upload);
            callers.calls.spawn(callers.client.clone().oneshot(post(url.to_owned(), body)));
        }
        callers
    }

    /// Waits until each upload has been asked for so much.
    async fn produced(&self, bytes: u64) {
        for upload in &self.uploads {
            upload.produced(bytes).await;
        }
    }

    /// All of them give up. Nothing is left of their requests, here or at the server.
    async fn give_up(mut self, server: &Server) {
        assert!(self.calls.try_join_next().is_none(), "all of them are still waiting");
        self.calls.shutdown().await;
        for upload in &self.uploads {
            upload.gone().await;
        }
        server.idle().await;
        drop(self.client);
        server.until(|traffic| traffic.connections == 0).await;
    }
}

/// The session has what the refresh brought, without another fetch.
async fn refresh_has_ended(world: &World, fetch: &Gate) {
    fetch.open();
    let token = world.session.token().await.unwrap();
    assert!(world.authority.is_alive(token.access().expose()));
    assert_eq!(world.authority.counts().token_calls(), 2);
}

async fn while_connecting(http: Http) {
    let world = World::with(http, |api| api).await;
    let gate = Gate::new();
    let (doorkeeper, connector) = (gate.clone(), HttpConnector::new());
    let connector = service_fn(move |uri: Uri| {
        let (gate, connector) = (doorkeeper.clone(), connector.clone());
        Box::pin(async move {
            gate.pass().await;
            connector.oneshot(uri).await
        })
    });
    let pool = Client::builder(TokioExecutor::new())
        .http2_only(http == Http::Two)
        .build::<_, ReplayBody<Payload>>(connector);
    let callers = Callers::start(world.layer().layer(pool), &world.url("/"));
    gate.arrived(1).await;
    callers.give_up(&world.server).await;
    gate.waiting(0).await;
    assert_eq!(world.server.traffic().requests, 0);
}

#[tokio::test]
async fn callers_over_http1_that_give_up_while_connecting_leave_nothing_open() {
    within(while_connecting(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_while_connecting_leave_nothing_open() {
    within(while_connecting(Http::Two)).await;
}

async fn while_waiting_for_the_first_token(http: Http) {
    let world = World::logged_out(http, |api| api).await;
    let login = world.authority.hold(Endpoint::Login);
    let callers = Callers::start(world.client(), &world.url("/"));
    login.waiting(1).await;
    callers.give_up(&world.server).await;
    assert_eq!(world.server.traffic().requests, 0);
    login.open();
    world.session.token().await.unwrap();
    assert_eq!(world.authority.counts().token_calls(), 1);
}

#[tokio::test]
async fn callers_over_http1_that_give_up_before_the_first_token_leave_nothing_open() {
    within(while_waiting_for_the_first_token(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_before_the_first_token_leave_nothing_open() {
    within(while_waiting_for_the_first_token(Http::Two)).await;
}

async fn while_sending(http: Http) {
    let world = World::with(http, |api| api).await;
    let callers = Callers::start(world.client(), &world.url("/"));
    callers.produced(SENT).await;
    world.server.until(|traffic| traffic.streams == CALLERS).await;
    settle().await;
    callers.give_up(&world.server).await;
    let requests = world.api.requests();
    assert!(requests.iter().all(|request| request.upload == Fate::Broken), "{requests:?}");
    // They never saw an answer, so that there was nothing to refresh for.
    assert_eq!(world.authority.counts().token_calls(), 1);
}

#[tokio::test]
async fn callers_over_http1_that_give_up_while_they_send_leave_nothing_open() {
    within(while_sending(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_while_they_send_leave_nothing_open() {
    within(while_sending(Http::Two)).await;
}

async fn while_holding_the_refused_response(http: Http) {
    let world = World::revoked(http, |api| api.route("/early", Route::RefuseEarly)).await;
    let fetch = world.authority.hold(Endpoint::Refresh);
    let judge = world.api.hold_path(Phase::Judge, "/early");
    let (client, mut judged) = world.watched_client();
    let callers = Callers::start(client, &world.url("/early"));
    judge.waiting(CALLERS).await;
    callers.produced(SENT).await;
    judge.open();
    judged.at_least(CALLERS).await;
    callers.give_up(&world.server).await;
    let requests = world.api.requests();
    assert!(requests.iter().all(|request| request.upload == Fate::Broken), "{requests:?}");
    refresh_has_ended(&world, &fetch).await;
}

#[tokio::test]
async fn callers_over_http1_that_give_up_during_the_refresh_leave_nothing_open() {
    within(while_holding_the_refused_response(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_during_the_refresh_leave_nothing_open() {
    within(while_holding_the_refused_response(Http::Two)).await;
}

async fn while_waiting_for_readiness(http: Http) {
    let world = World::revoked(http, |api| api.route("/early", Route::RefuseEarly)).await;
    let fetch = world.authority.hold(Endpoint::Refresh);
    let (layer, mut judged) = watched(world.layer());
    let latch = Latch::default();
    let door = Door { client: pool(http), latch: latch.clone(), waits: false };
    let callers = Callers::start(layer.layer(door), &world.url("/early"));
    judged.at_least(CALLERS).await;
    latch.shut();
    refresh_has_ended(&world, &fetch).await;
    latch.waiting(CALLERS).await;
    callers.give_up(&world.server).await;
    assert_eq!(world.api.requests().len(), CALLERS, "nothing was sent again");
}

#[tokio::test]
async fn callers_over_http1_that_give_up_before_the_client_is_ready_leave_nothing_open() {
    within(while_waiting_for_readiness(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_before_the_client_is_ready_leave_nothing_open() {
    within(while_waiting_for_readiness(Http::Two)).await;
}

async fn while_resending(http: Http) {
    let world = World::revoked(http, |api| api.route("/early", Route::RefuseEarly)).await;
    let fetch = world.authority.hold(Endpoint::Refresh);
    let judge = world.api.hold_path(Phase::Judge, "/early");
    let (client, mut judged) = world.watched_client();
    let callers = Callers::start(client, &world.url("/early"));
    judge.waiting(CALLERS).await;
    callers.produced(SENT).await;
    judge.open();
    judged.at_least(CALLERS).await;
    for upload in &callers.uploads {
        upload.allow(2 * SENT);
    }
    refresh_has_ended(&world, &fetch).await;
    callers.produced(2 * SENT).await;
    // The first attempts are over, the second ones under way.
    world.server.until(|traffic| traffic.requests == 2 * CALLERS && traffic.streams == CALLERS).await;
    callers.give_up(&world.server).await;
    let requests = world.api.requests();
    assert!(requests.iter().all(|request| request.upload == Fate::Broken), "{requests:?}");
}

#[tokio::test]
async fn callers_over_http1_that_give_up_during_the_resend_leave_nothing_open() {
    within(while_resending(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_give_up_during_the_resend_leave_nothing_open() {
    within(while_resending(Http::Two)).await;
}

async fn while_reading_the_response(http: Http) {
    let world = World::with(http, |api| api).await;
    let service = service_fn(|_: Request<Tracked<Incoming>>| async {
        let beginning = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"once upon a time")));
        let endless = stream::iter([beginning]).chain(stream::pending());
        Ok::<_, BoxError>(Response::new(StreamBody::new(endless)))
    });
    let server = Server::start(http, service).await;
    let client = world.client_at(&server);
    let mut responses = Vec::new();
    for _ in 0..CALLERS {
        let mut response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "once upon a time");
        responses.push(response);
    }
    assert_eq!(server.traffic().streams, CALLERS);
    drop(responses);
    server.idle().await;
    drop(client);
    server.until(|traffic| traffic.connections == 0).await;
}

#[tokio::test]
async fn callers_over_http1_that_stop_reading_leave_nothing_open() {
    within(while_reading_the_response(Http::One)).await;
}

#[tokio::test]
async fn callers_over_http2_that_stop_reading_leave_nothing_open() {
    within(while_reading_the_response(Http::Two)).await;
}

/// A client that is not ready once its latch is shut.
struct Door {
    client: Pool,
    latch: Latch,
    waits: bool,
}

/// The test's side of a [`Door`].
#[derive(Clone, Default)]
struct Latch {
    shut: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Latch {
    fn shut(&self) {
        self.shut.send_replace(true);
    }

    async fn waiting(&self, callers: usize) {
        self.waiting.subscribe().wait_for(|waiting| *waiting == callers).await.expect("it is ours");
    }
}

impl Clone for Door {
    fn clone(&self) -> Self {
        Door { client: self.client.clone(), latch: self.latch.clone(), waits: false }
    }
}

impl Service<Request<ReplayBody<Payload>>> for Door {
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = legacy::ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        if *self.latch.shut.borrow() {
            if !self.waits {
                self.waits = true;
                self.latch.waiting.send_modify(|waiting| *waiting += 1);
            }
            // Nobody opens it again.
            return Poll::Pending;
        }
        Service::<Request<ReplayBody<Payload>>>::poll_ready(&mut self.client, cx)
    }

    fn call(&mut self, request: Request<ReplayBody<Payload>>) -> legacy::ResponseFuture {
        self.client.call(request)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.waits {
            self.latch.waiting.send_modify(|waiting| *waiting -= 1);
        }
    }
}
