//! How often the authority is asked when a token ends under many requests, on two threads.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tokio::{runtime::Builder, task::JoinHandle};
use tower::{BoxError, Layer, ServiceExt, util::BoxCloneSyncService};
use tower_token_refresh::{
    ReplayBody, Session,
    test_util::{Endpoint, Gate, ModelAuthority, TestClock},
};

use crate::{
    Count,
    kit::{layer::layer, requests::Shape, session::ORIGIN},
};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn all() -> Vec<Count> {
    (0..=5)
        .map(|power| 10_usize.pow(power))
        .flat_map(|requests| {
            [
                count("expired", requests, expired),
                count("refused", requests, refused),
                count("leader-dropped", requests, leader_dropped),
                count("late", requests, late),
            ]
        })
        .collect()
}

fn count<F>(case: &str, requests: usize, scenario: fn(World, usize) -> F) -> Count
where
    F: Future<Output = World> + 'static,
{
    Count {
        name: format!("expiry/{case}/{requests}"),
        metric: "fetches",
        value: Box::new(move || {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let world = scenario(World::new().await, requests).await;
                // The first token was no refresh; a refresh token that comes twice ends the family of tokens.
                assert_eq!(world.authority.counts().family_deaths, 0);
                world.authority.counts().token_calls() as f64 - 1.0
            })
        }),
    }
}

type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<()>, BoxError>;

/// A rotating authority, a service that asks it, and a session that has a token.
struct World {
    authority: ModelAuthority,
    clock: TestClock,
    client: Client,
    /// Holds each answer to a request of which the token is dead.
    refusals: Gate,
}

impl World {
    async fn new() -> Self {
        let clock = TestClock::new();
        let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(HOUR);
        let session = Session::builder(authority.source()).clock(clock.clone()).build();
        session.token().await.expect("a healthy authority");
        let refusals = Gate::new();
        let api = {
            let (authority, refusals) = (authority.clone(), refusals.clone());
            tower::service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
                let (authority, refusals) = (authority.clone(), refusals.clone());
                async move { Ok::<_, BoxError>(answer(&authority, &refusals, &request).await) }
            })
        };
        let client = BoxCloneSyncService::new(layer(&session, ORIGIN).layer(api));
        World { authority, clock, client, refusals }
    }

    fn send(&self, requests: usize) -> Requests {
        let send = || {
            let client = self.client.clone();
            async { client.oneshot(Shape::Post.request()).await.expect("an answer").status() }
        };
        (0..requests).map(|_| tokio::spawn(send())).collect()
    }
}

async fn answer<B>(authority: &ModelAuthority, refusals: &Gate, request: &Request<B>) -> Response<()> {
    let credential = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = credential.and_then(|credential| credential.strip_prefix("Bearer "));
    let mut response = Response::new(());
    if !token.is_some_and(|token| authority.is_alive(token)) {
        refusals.pass().await;
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

type Requests = FuturesUnordered<JoinHandle<StatusCode>>;

async fn all_succeed(mut requests: Requests) {
    while let Some(status) = requests.next().await {
        assert_eq!(status.expect("no request panics"), StatusCode::OK);
    }
}

/// The token's time is over before the requests are sent.
async fn expired(world: World, requests: usize) -> World {
    world.clock.advance(2 * HOUR);
    all_succeed(world.send(requests)).await;
    world
}

/// The token is revoked: every request is sent with it, and refused.
async fn refused(world: World, requests: usize) -> World {
    world.authority.revoke_access();
    let requests_sent = world.send(requests);
    world.refusals.arrived(requests).await;
    world.refusals.open();
    all_succeed(requests_sent).await;
    world
}

/// The request that has started the fetch is given up while the others wait for it.
async fn leader_dropped(world: World, requests: usize) -> World {
    let fetch = world.authority.hold(Endpoint::Refresh);
    world.clock.advance(2 * HOUR);
    let leader = world.send(1);
    fetch.waiting(1).await;
    let others = world.send(requests);
    leader.iter().for_each(JoinHandle::abort);
    fetch.open();
    all_succeed(others).await;
    world
}

/// One request is refused and refreshes; the refusals of all others come after that.
async fn late(world: World, requests: usize) -> World {
    world.authority.revoke_access();
    let mut requests_sent = world.send(1 + requests);
    world.refusals.waiting(1 + requests).await;
    world.refusals.let_through(1);
    let first = requests_sent.next().await.expect("one was let through");
    assert_eq!(first.expect("no request panics"), StatusCode::OK);
    world.refusals.open();
    all_succeed(requests_sent).await;
    world
}
