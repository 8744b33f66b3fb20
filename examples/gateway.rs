//! A gateway between browsers and an API: a session for each user, and one client for all of them.
//!
//! ```text
//! cargo run --example gateway
//! ```

mod serve;
mod server;
mod show;

use std::{convert::Infallible, path::Path};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serve::serve;
use server::{Server, request};
use show::show;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_token_refresh::{
    BoxError, Error, FetchError, Origin, RefreshFailure, Session, SessionMap, TokenRefreshLayer,
    source::{
        Content,
        oauth2::{RefreshTokenGrant, TokenEndpoint},
    },
    source_fn,
    store::FileStore,
    test_util::{Endpoint, ModelApi, ModelAuthority},
};

const USERS: [&str; 2] = ["alice", "bob"];
const PASSWORD: &str = "wonderland";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let authority = ModelAuthority::new().account("bob", PASSWORD);
    let upstream = Server::start(authority.clone(), ModelApi::new(authority)).await?;
    let counts = || upstream.authority.counts();
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(&upstream.base, directory.path())?;
    let address = serve(service_fn({
        let gateway = gateway.clone();
        move |request| {
            let gateway = gateway.clone();
            async move { Ok::<_, Infallible>(gateway.answer(request).await) }
        }
    }))
    .await?;

    println!("Two users, and room for the session of one: the other's is in a file");
    // In a gateway in earnest, what follows the user's way back from a login page.
    for user in USERS {
        let token = upstream.authority.login_as(user, PASSWORD).await?;
        gateway.sessions.get(&user).login(token).await?;
    }
    for user in USERS {
        let (_, page) = browse(&address, user).await?;
        show(&format!("{user} has a page of their own"), page.contains(&format!("\"account\":\"{user}\"")))?;
    }
    let (status, _) = browse(&address, "mallory").await?;
    show(
        "nobody else gets through",
        status == StatusCode::UNAUTHORIZED && upstream.api.requests().len() == 2,
    )?;

    println!("\nThe API revokes all tokens, and Alice hangs up while hers is refreshed");
    upstream.authority.revoke_access();
    let refresh = upstream.authority.hold(Endpoint::Refresh);
    tokio::select! {
        answer = browse(&address, "alice") => return Err(format!("nobody waits: {answer:?}").into()),
        () = refresh.arrived(1) => {}
    }
    refresh.open();
    show("her next request is answered", browse(&address, "alice").await?.0 == StatusCode::OK)?;
    show("her refresh token was presented once", counts().refreshes == 1)?;

    println!("\nA hundred requests of both, and all tokens are revoked again");
    upstream.authority.revoke_access();
    let users = USERS.into_iter().cycle().take(100);
    let answers = try_join_all(users.map(|user| browse(&address, user))).await?;
    show("a hundred are answered", answers.iter().all(|(status, _)| *status == StatusCode::OK))?;
    show("one refresh for each user", counts().refreshes == 3)?;

    println!("\nThe authority ends all grants");
    upstream.authority.revoke_all();
    show("Bob is asked to log in", browse(&address, "bob").await?.0 == StatusCode::UNAUTHORIZED)?;
    gateway.sessions.settle().await?;
    show("nobody has logged in twice", counts().logins == 2)
}

#[derive(Clone)]
struct Gateway {
    sessions: SessionMap<&'static str>,
    client: BoxCloneSyncService<Request<Incoming>, Response<Incoming>, BoxError>,
    upstream: String,
}

impl Gateway {
    fn new(upstream: &str, directory: &Path) -> Result<Self, BoxError> {
        let plain: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
        let endpoint = TokenEndpoint::new(plain, format!("{upstream}/oauth/token").parse()?);
        let directory = directory.to_owned();
        let sessions = SessionMap::builder(move |user: &&'static str| {
            // These names are the gateway's own. A name that its user has chosen might lead anywhere.
            let store = FileStore::new(directory.join(format!("{user}.json")));
            Session::builder(RefreshTokenGrant::new(endpoint.clone())).store(store).build()
        });
        // The layer's own session: a request that has lost its user's fails.
        let nobody =
            source_fn(|_| async { Err(FetchError::login_required("the request carries no session")) });
        let layer = TokenRefreshLayer::new(Session::builder(nobody).build(), upstream.parse::<Origin>()?);
        let api = Client::builder(TokioExecutor::new()).build_http();
        Ok(Gateway {
            // Those that requests are using come on top.
            sessions: sessions.capacity(1)?.build(),
            client: ServiceBuilder::new().layer(BoxCloneSyncService::layer()).layer(layer).service(api),
            upstream: upstream.to_owned(),
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
        let result = match self.user_of(&request) {
            Some(user) => RefreshFailure::into_err(self.forward(user, request).await),
            None => return refuse(StatusCode::UNAUTHORIZED),
        };
        let needs_login = Error::of(&result).is_some_and(Error::is_login_required);
        match result {
            Ok(response) => response.map(BodyExt::boxed),
            Err(_) if needs_login => refuse(StatusCode::UNAUTHORIZED),
            Err(_) => refuse(StatusCode::BAD_GATEWAY),
        }
    }

    /// A gateway in earnest looks for a cookie that it has handed out.
    fn user_of(&self, request: &Request<Incoming>) -> Option<&'static str> {
        let name = request.headers().get("x-user")?;
        USERS.into_iter().find(|user| name == user)
    }

    /// A new request, with what of the browser's is meant for the API. Its own credentials are not.
    async fn forward(
        &self,
        user: &'static str,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, BoxError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("{}{path}", self.upstream).parse()?;
        let mut forwarded =
            Request::builder().method(request.method()).uri(uri).extension(self.sessions.get(&user));
        for name in [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            if let Some(value) = request.headers().get(&name) {
                forwarded = forwarded.header(name, value);
            }
        }
        self.client.clone().oneshot(forwarded.body(request.into_body())?).await
    }
}

fn refuse(status: StatusCode) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

/// A browser with a connection of its own.
async fn browse(address: &str, user: &str) -> Result<(StatusCode, String), BoxError> {
    let browser = Client::builder(TokioExecutor::new()).build_http();
    let mut request = request(address, Method::GET, "/me", "")?;
    request.headers_mut().insert("x-user", user.parse()?);
    let (head, body) = browser.request(request).await?.into_parts();
    Ok((head.status, String::from_utf8(body.collect().await?.to_bytes().to_vec())?))
}
