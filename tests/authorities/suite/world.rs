//! A session of alice's at an authority, and clients that use it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use tower_token_refresh::{
    BoxError, Outcome, ReplayBody, Session, TokenRefreshLayer, TokenSource,
    event::Event,
    source::oauth2::RefreshTokenGrant,
    store::{MemoryStore, TokenStore},
    test_util::{Gate, TestClock},
};

use crate::{
    authority::{Authority, TokenCalls, body, pool},
    kind::Kind,
    proxy::Proxy,
};

/// More than any scenario takes on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// Fails a scenario that hangs.
pub(crate) async fn within(scenario: impl Future<Output = ()>) {
    timeout(BOUND, scenario).await.expect("the scenario hangs");
}

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) proxy: Proxy,
    pub(crate) clock: TestClock,
    pub(crate) session: Session,
    ends: Arc<AtomicUsize>,
}

impl World {
    /// Alice has logged in, and the session keeps her tokens in memory.
    pub(crate) async fn new(kind: Kind) -> Self {
        let world = World::resumed(Authority::new(kind).await, MemoryStore::new()).await;
        world.log_in().await;
        world
    }

    /// A process that begins with what the store has. All that it can do by itself is to present a refresh token.
    pub(crate) async fn resumed(authority: Authority, store: impl TokenStore) -> Self {
        World::with(authority, store, |grant| grant).await
    }

    /// The same, with a source made of a refresh token grant.
    pub(crate) async fn with<S: TokenSource>(
        authority: Authority,
        store: impl TokenStore,
        source: impl FnOnce(RefreshTokenGrant) -> S,
    ) -> Self {
        let proxy = Proxy::start(authority.socket()).await;
        let grant = RefreshTokenGrant::new(authority.token_endpoint(proxy.address()));
        let (clock, ends) = (TestClock::new(), Arc::<AtomicUsize>::default());
        let counted = ends.clone();
        let session = Session::builder(source(grant))
            .store(store)
            .clock(clock.clone())
            .observer(move |event: &Event<'_>| {
                if matches!(event, Event::LoginRequired { .. }) {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            })
            .build();
        World { authority, proxy, clock, session, ends }
    }

    pub(crate) async fn log_in(&self) {
        let token = self.authority.login().await;
        self.session.login(token).await.expect("the store works");
    }

    /// How often it was said that somebody has to log in.
    pub(crate) fn ends(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }

    pub(crate) fn client(&self) -> impl Client + use<> {
        let open = Gate::new();
        open.open();
        self.client_behind(&open)
    }

    /// A client whose answers wait at the gate before the layer sees them.
    pub(crate) fn client_behind(&self, gate: &Gate) -> impl Client + use<> {
        let gate = gate.clone();
        let held = pool::<ReplayBody<Full<Bytes>>>().map_future(move |answer| {
            let gate = gate.clone();
            async move {
                let answer = answer.await;
                gate.pass().await;
                answer
            }
        });
        TokenRefreshLayer::new(self.session.clone(), self.authority.origin()).layer(held)
    }

    pub(crate) async fn get(&self) -> Result<Response<Incoming>, BoxError> {
        self.client().oneshot(self.authority.request()).await
    }

    /// A request that is answered after so many attempts.
    pub(crate) async fn get_in(&self, attempts: u8) {
        answered(self.get().await, attempts).await;
    }

    pub(crate) async fn assert_token_calls(&self, logins: u64, refreshes: u64, refused: u64) {
        assert_eq!(self.authority.token_calls().await, TokenCalls { logins, refreshes, refused });
    }
}

/// Alice's answer, after so many attempts.
pub(crate) async fn answered(answer: Result<Response<Incoming>, BoxError>, attempts: u8) {
    let answer = answer.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    assert_eq!(answer.extensions().get::<Outcome>().map_or(1, Outcome::attempts), attempts);
    let told: Value = serde_json::from_slice(&body(answer).await).expect("JSON");
    assert_eq!(told, json!({ "sub": "alice" }));
}

/// What the layer makes of the client.
pub(crate) trait Client:
    Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Client for S where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static
{
}
