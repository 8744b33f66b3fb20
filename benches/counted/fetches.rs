//! How often the authority is asked when a token ends under many requests, on two threads.

use std::future::Future;

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::{runtime::Builder, task::JoinHandle};
use tower::{BoxError, Layer, ServiceExt, util::BoxCloneSyncService};
use tower_token_refresh::ReplayBody;

use super::{authority::Authority, gate::Gate};
use crate::{
    Count,
    kit::{layer::layer, requests::Shape, session::ORIGIN},
};

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
                // The first token was no refresh.
                world.authority.fetches.arrivals() as f64 - 1.0
            })
        }),
    }
}

type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<()>, BoxError>;

/// An authority, a service that knows its tokens, and a client with the first of them.
struct World {
    authority: Authority,
    client: Client,
    /// Holds each answer to a request of which the token is dead.
    refusals: Gate,
}

impl World {
    async fn new() -> Self {
        let (authority, session) = Authority::with_session().await;
        let refusals = Gate::new();
        let api = {
            let (tokens, refusals) = (authority.tokens.clone(), refusals.clone());
            tower::service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
                let (tokens, refusals) = (tokens.clone(), refusals.clone());
                async move {
                    let mut response = Response::new(());
                    if !tokens.accept(request.headers()) {
                        refusals.pass().await;
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                    }
                    Ok::<_, BoxError>(response)
                }
            })
        };
        let client = BoxCloneSyncService::new(layer(&session, ORIGIN).layer(api));
        World { authority, client, refusals }
    }

    fn send(&self, requests: usize) -> Requests {
        let send = || {
            let client = self.client.clone();
            async { client.oneshot(Shape::Post.request()).await.expect("an answer").status() }
        };
        (0..requests).map(|_| tokio::spawn(send())).collect()
    }
}

type Requests = FuturesUnordered<JoinHandle<StatusCode>>;

async fn all_succeed(mut requests: Requests) {
    while let Some(status) = requests.next().await {
        assert_eq!(status.expect("no request panics"), StatusCode::OK);
    }
}

/// The token's time is over before the requests are sent.
async fn expired(world: World, requests: usize) -> World {
    world.authority.expire();
    world.authority.fetches.open();
    all_succeed(world.send(requests)).await;
    world
}

/// The token is revoked: every request is sent with it, and refused.
async fn refused(world: World, requests: usize) -> World {
    world.authority.tokens.revoke();
    world.authority.fetches.open();
    let requests_sent = world.send(requests);
    world.refusals.reached(requests).await;
    world.refusals.open();
    all_succeed(requests_sent).await;
    world
}

/// The request that has started the fetch is given up while the others wait for it.
async fn leader_dropped(world: World, requests: usize) -> World {
    world.authority.expire();
    let leader = world.send(1);
    // The first token's fetch was one, too.
    world.authority.fetches.reached(2).await;
    let others = world.send(requests);
    leader.iter().for_each(JoinHandle::abort);
    world.authority.fetches.open();
    all_succeed(others).await;
    world
}

/// One request is refused and refreshes; the refusals of all others come after that.
async fn late(world: World, requests: usize) -> World {
    world.authority.tokens.revoke();
    world.authority.fetches.open();
    let mut requests_sent = world.send(1 + requests);
    world.refusals.reached(1 + requests).await;
    world.refusals.let_one_through();
    let first = requests_sent.next().await.expect("one was let through");
    assert_eq!(first.expect("no request panics"), StatusCode::OK);
    world.refusals.open();
    all_succeed(requests_sent).await;
    world
}
