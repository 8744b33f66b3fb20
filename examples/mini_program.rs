//! A mini program's day: start-up check, login code, requests, refusals, tips and logout.
//!
//! The phone talks to the model server of the test kit over real sockets. Each step says what both sides saw, and ends
//! the example if it is not so.
//!
//! ```text
//! cargo run --example mini_program
//! ```

mod serve;
mod server;
mod show;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneService};
use tower_token_refresh::{
    BoxError, Codes, Error, FetchError, Origin, Outcome, ReplayBody, Secret, Session, Tips, preset,
    session::State,
    source::{Content, JsonAnswer, LoginCode},
    store::MemoryStore,
    test_util::{ModelApi, ModelAuthority, Refusal, Route},
};

use server::{Server, request};
use show::show;

/// Of the server's 403s, the one that speaks of the token. All others speak of the user.
const TOKEN_EXPIRED: i64 = 10_006;
const NO_PERMISSION: i64 = 10_007;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A server that lets only the newest token live, as many do.
    let authority = ModelAuthority::new().newest_only();
    let api = ModelApi::new(authority.clone())
        .refusal(Refusal::ForbiddenCode(TOKEN_EXPIRED))
        .route("/admin", Route::Always(Refusal::ForbiddenCode(NO_PERMISSION)));
    let server = Server::start(authority, api).await?;
    let counts = || server.authority.counts();
    let tips = Tips::en().with([(NO_PERMISSION, "You are not allowed to do this.")]);
    // What the phone keeps between launches.
    let storage = MemoryStore::new();

    println!("First launch");
    launch(&server, &storage)?.start().await?;
    show("nothing is stored → one login code, one token call", counts().exchanges == 1)?;

    println!("\nSecond launch");
    let session = launch(&server, &storage)?;
    session.start().await?;
    until(|| counts().verifies == 1).await;
    show("the stored token is verified in the background, and good", counts().exchanges == 1)?;

    println!("\nThird launch, a day later");
    drop(session);
    server.authority.revoke_access();
    let session = launch(&server, &storage)?;
    let mut changes = session.subscribe();
    session.start().await?;
    while !server.authority.is_alive(session.token().await?.access().expose()) {
        changes.next().await;
    }
    show("the stored token is not valid → another code, another token", counts().exchanges == 2)?;
    show("codes are used once", counts().codes == 2)?;

    println!("\nA request");
    let client = client(&server, session.clone())?;
    let response = client.clone().oneshot(request(&server.base, Method::GET, "/me", "")?).await?;
    let sent = server.api.requests().pop().ok_or("the server has seen no request")?.head.headers;
    let token = session.token().await?;
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:", token.access().expose())));
    show("GET /me → 200", response.status() == StatusCode::OK)?;
    show("Authorization was Basic base64(token + \":\")", sent[header::AUTHORIZATION] == basic)?;
    show("its two hours are known, which the server does not say", token.lifetime().is_some())?;

    println!("\nThe token dies between two requests");
    server.authority.revoke_access();
    let order = r#"{"order":1}"#;
    let response = client.clone().oneshot(request(&server.base, Method::POST, "/echo", order)?).await?;
    let attempts = response.extensions().get().map_or(1, Outcome::attempts);
    show("POST /echo was sent twice; the caller saw one call", attempts == 2)?;
    let body = response.into_body().collect().await?.to_bytes();
    show("the second one carried the same body", body == order)?;

    println!("\nThe token dies under ten requests at once");
    server.authority.revoke_access();
    let before = counts().exchanges;
    let requests =
        (0..10).map(|_| Ok(client.clone().oneshot(request(&server.base, Method::GET, "/me", "")?)));
    let responses = try_join_all(requests.collect::<Result<Vec<_>, BoxError>>()?).await?;
    show("ten answers", responses.iter().all(|response| response.status() == StatusCode::OK))?;
    show("one token call", counts().exchanges == before + 1)?;

    println!("\nThe user may not do something");
    let result = client.clone().oneshot(request(&server.base, Method::GET, "/admin", "")?).await;
    let tip = tips.explain(&result).ok_or("a refusal has a tip")?;
    show(&format!("GET /admin → 403, code {}: {}", tip.code(), tip.text()), tip.code() == NO_PERMISSION)?;
    show("no token call: this 403 is not about the token", counts().exchanges == before + 1)?;

    println!("\nLogout");
    session.logout().await?;
    let seen = server.api.requests().len();
    let result = client.oneshot(request(&server.base, Method::GET, "/me", "")?).await;
    show("GET /me → a login is required", Error::of(&result).is_some_and(Error::is_login_required))?;
    show("nothing was sent", server.api.requests().len() == seen)?;
    show("the session says so, too", session.subscribe().next().await == Some(State::LoggedOut))
}

type Response = http::Response<tower_token_refresh::peek::PeekBody<hyper::body::Incoming>>;
type Pages = BoxCloneService<Request<Full<Bytes>>, Response, BoxError>;

/// What happens when the mini program is opened.
fn launch(server: &Server, storage: &MemoryStore) -> Result<Session, BoxError> {
    let phone: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
    let platform: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let codes_from = format!("{}/code", server.base);
    // Stands for `wx.login`.
    let code = move || {
        let (platform, request) = (platform.clone(), Request::post(&codes_from).body(Full::default()));
        async move {
            let answer = platform.request(request?).await?.into_body().collect().await?.to_bytes();
            let answer: Value = serde_json::from_slice(&answer)?;
            // Nothing was presented to anybody: it is tried again.
            let none = || FetchError::transient("the platform has no code for now");
            answer["code"].as_str().map(Secret::from).ok_or_else(none)
        }
    };
    // The answer has a token, or an error code; it does not say that the token lives for two hours.
    let answer = JsonAnswer::new().access_token("/token")?.business_code("/error_code")?;
    let source = LoginCode::mini_program(phone, format!("{}/token", server.base).parse()?, code)?
        .answer(answer.default_lifetime(Duration::from_secs(2 * 3600)));
    Ok(preset::mini_program().session(source).store(storage.clone()).build())
}

/// The client that the pages of the mini program use. The preset's layer takes every 403 for a suspicion; this server says
/// which one speaks of the token.
fn client(server: &Server, session: Session) -> Result<Pages, BoxError> {
    let plain: Client<_, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let (layer, below) = preset::mini_program().layer(session, server.base.parse::<Origin>()?);
    let layer = layer.classifier(Codes::reject([TOKEN_EXPIRED])?.at([403])?);
    Ok(ServiceBuilder::new().boxed_clone().layer(layer).layer(below).service(plain))
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
