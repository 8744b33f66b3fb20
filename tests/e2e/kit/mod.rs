//! What the scenarios share: servers that count, uploads that wait, clients.

mod client;
mod server;
mod upload;

use std::{future::Future, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use tower::Layer;
use tower_token_refresh::{
    Answer, Classify, Origin, Session, Standard, TokenRefresh, TokenRefreshLayer,
    test_util::{ModelApi, ModelAuthority},
};

pub(crate) use self::{
    client::{Payload, Pool, Sender, delete, empty, full, get, head, pool, post},
    server::{Http, Server, Tracked},
    upload::{Upload, UploadControl, pattern},
};

/// More than any scenario takes on a busy machine, under a sanitizer.
const BOUND: Duration = Duration::from_secs(600);

/// Fails a scenario that hangs.
pub(crate) async fn within(scenario: impl Future<Output = ()>) {
    timeout(BOUND, scenario).await.expect("the scenario hangs");
}

/// An authority and an API that it guards, each behind a server of its own, and a session.
pub(crate) struct World {
    pub(crate) http: Http,
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) server: Server,
    pub(crate) session: Session,
}

impl World {
    /// The session has a token that is good.
    pub(crate) async fn with(http: Http, api: impl FnOnce(ModelApi) -> ModelApi) -> Self {
        let world = Self::logged_out(http, api).await;
        world.session.token().await.expect("the authority is healthy");
        world
    }

    /// The session has a token that the authority has revoked: the next request is refused.
    pub(crate) async fn revoked(http: Http, api: impl FnOnce(ModelApi) -> ModelApi) -> Self {
        let world = Self::with(http, api).await;
        world.authority.revoke_access();
        world
    }

    /// The session has no token.
    pub(crate) async fn logged_out(http: Http, api: impl FnOnce(ModelApi) -> ModelApi) -> Self {
        let authority = ModelAuthority::new();
        let api = api(ModelApi::new(authority.clone()));
        let server = Server::start(http, api.clone()).await;
        let token_server = Server::start(Http::One, authority.clone()).await;
        let session = Session::builder(client::token_source(token_server.url(""))).build();
        World { http, authority, api, server, session }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.server.url("").parse().expect("a loopback address is an origin")
    }

    pub(crate) fn layer(&self) -> TokenRefreshLayer {
        self.layer_at(&self.server)
    }

    /// For another server that honours the session's token.
    pub(crate) fn layer_at(&self, server: &Server) -> TokenRefreshLayer {
        let origin: Origin = server.url("").parse().expect("a loopback address is an origin");
        TokenRefreshLayer::new(self.session.clone(), origin)
    }

    pub(crate) fn client(&self) -> TokenRefresh<Pool> {
        self.layer().layer(pool(self.http))
    }

    /// A client of another server that honours the session's token.
    pub(crate) fn client_at(&self, server: &Server) -> TokenRefresh<Pool> {
        self.layer_at(server).layer(pool(self.http))
    }

    /// A client, and how many answers its layer has judged.
    pub(crate) fn watched_client(&self) -> (TokenRefresh<Pool>, Judged) {
        let (layer, judged) = watched(self.layer());
        (layer.layer(pool(self.http)), judged)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        self.server.url(path)
    }
}

/// Lets everything that is ready run: whatever can happen without the test's doing has happened afterwards.
pub(crate) async fn settle() {
    let bystander = Server::start(Http::One, ModelApi::new(ModelAuthority::new())).await;
    for _ in 0..10 {
        let response = pool::<Payload>(Http::One).request(get(bystander.url("/"))).await;
        response.expect("the bystander answers").into_body().collect().await.expect("all of it");
    }
}

/// Counts the answers that the layer judges.
pub(crate) fn watched(layer: TokenRefreshLayer) -> (TokenRefreshLayer, Judged) {
    let count = watch::Sender::new(0);
    let judged = Judged(count.subscribe());
    let layer = layer.classifier(move |answer: &Answer<'_>| {
        count.send_modify(|count| *count += 1);
        Standard.classify(answer)
    });
    (layer, judged)
}

/// How many answers a layer has judged.
pub(crate) struct Judged(watch::Receiver<usize>);

impl Judged {
    pub(crate) async fn at_least(&mut self, n: usize) {
        self.0.wait_for(|count| *count >= n).await.expect("the layer lives");
    }
}

/// The JSON of an answer.
pub(crate) async fn json(body: Incoming) -> Value {
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    serde_json::from_slice(&bytes).expect("JSON")
}
