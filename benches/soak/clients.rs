//! The users' sessions, two servers, and the clients of these.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{Full, combinators::BoxBody};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::sync::watch;
use tower::{BoxError, Layer};
use tower_token_refresh::{
    FetchError, ReplayBody, Session, SessionMap, TokenRefresh,
    source::{
        AuthorityClient, Content,
        oauth2::{RefreshTokenGrant, TokenEndpoint},
    },
    source_fn,
};

use crate::{
    api,
    kit::{
        layer::layer,
        loopback::{Http, client, serve},
    },
    token_endpoint,
    world::World,
};

/// How long a silent token endpoint is waited for: far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Streamed = BoxBody<Bytes, Infallible>;
type Stack<B> = TokenRefresh<Client<HttpConnector, ReplayBody<B>>>;

/// The way to a server over one HTTP, for bodies that are there and for those that come by and by.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) http: &'static str,
    pub(crate) origin: String,
    pub(crate) whole: Stack<Full<Bytes>>,
    pub(crate) streamed: Stack<Streamed>,
}

/// The clients' side.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) sessions: SessionMap<usize>,
    pub(crate) routes: [Route; 2],
}

impl Clients {
    /// Fewer sessions are kept than there are users, so that some go and come again.
    pub(crate) async fn new(world: &World, open: &watch::Sender<usize>) -> Result<Self, BoxError> {
        let endpoint = {
            let world = world.clone();
            let answer = move |request| token_endpoint::answer(world.clone(), request);
            serve(Http::One, open.clone(), answer).await
        };
        let authority = AuthorityClient::new(client::<Content>(Http::One)).timeout(PATIENCE)?;
        let sessions = {
            let world = world.clone();
            SessionMap::builder(move |&number: &usize| {
                let user = &world.users[number];
                let url = format!("http://{endpoint}/{}", user.name).parse().expect("a URL");
                let source = RefreshTokenGrant::new(TokenEndpoint::new(authority.clone(), url));
                user.session(source, &world.tally)
            })
        };
        let sessions = sessions.capacity(world.users.len() / 2)?.build();
        // Nobody's: each request brings the session of its user.
        let nobody =
            Session::builder(source_fn(|_| async { Err(FetchError::login_required("nobody's")) })).build();
        let mut routes = Vec::new();
        for http in Http::BOTH {
            let world = world.clone();
            let address = serve(http, open.clone(), move |request| api::answer(world.clone(), request)).await;
            let origin = format!("http://{address}");
            let layer = layer(&nobody, &origin);
            routes.push(Route {
                http: http.name(),
                whole: layer.layer(client(http)),
                streamed: layer.layer(client(http)),
                origin,
            });
        }
        let routes = routes.try_into().map_err(|_| "two kinds of HTTP")?;
        Ok(Clients { sessions, routes })
    }
}
