//! A mini program's day: start-up check, login code, requests, refusals, tips and logout.
//!
//! The phone talks to the model server of the test kit over real sockets. Everything that the original document asks
//! for is here in the order in which a user meets it, and each step prints what both sides saw.
//!
//! ```text
//! cargo run --example mini_program
//! ```

use std::net::Ipv4Addr;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_token_refresh::{
    Answer, BoxError, Error, FetchContext, FetchError, Origin, Outcome, Placement, ReplayBody, Session,
    Token, TokenRefreshLayer, TokenSource, Verdict, source_fn,
    store::{MemoryStore, TokenStore},
    test_util::{ModelApi, ModelAuthority, Refusal, Route},
};

/// Of the server's 403s, the one that speaks of the token. All others speak of the user.
const TOKEN_EXPIRED: i64 = 10_006;
const NO_PERMISSION: i64 = 10_007;

/// What the user is told. The first entry stands for every code that is not listed.
const TIPS: [(i64, &str); 3] = [
    (1, "Something went wrong. Please try again later."),
    (TOKEN_EXPIRED, "Please log in again."),
    (NO_PERMISSION, "You are not allowed to do this."),
];

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = ModelServer::start().await?;
    let storage = MemoryStore::new();
    let phone = Client::builder(TokioExecutor::new()).build_http();

    println!("First launch");
    let session = start_up(&server, &phone, &storage).await?;
    server.says("the phone has a token");

    println!("\nSecond launch");
    start_up(&server, &phone, &storage).await?;
    server.says("no token call: the stored one is good");

    println!("\nThird launch, a day later");
    server.authority.revoke_access();
    drop(session);
    let session = start_up(&server, &phone, &storage).await?;
    server.says("a new login code for a new token: codes are used once");

    println!("\nA request");
    let client = client(&server, session.clone())?;
    let response = client.clone().oneshot(server.request(Method::GET, "/me", "")).await?;
    println!("  GET /me → {}", response.status());
    let credential = STANDARD.encode(format!("{}:", session.token().await?.access().expose()));
    let sent = server.api.requests().pop().ok_or("the server has seen no request")?.head.headers;
    let matches = sent[header::AUTHORIZATION] == format!("Basic {credential}");
    println!("  Authorization was Basic base64(token + \":\"): {}", if matches { "yes" } else { "no" });

    println!("\nThe token dies between two requests");
    server.authority.revoke_access();
    let order = r#"{"order":1}"#;
    let response = client.clone().oneshot(server.request(Method::POST, "/echo", order)).await?;
    let attempts = response.extensions().get::<Outcome>().map_or(1, Outcome::attempts);
    println!("  POST /echo → {}, sent {attempts} times; the caller saw one call", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    println!("  the resend carried the same body: {}", if body == order { "yes" } else { "no" });
    server.says("one more token call");

    println!("\nThe user may not do something");
    let response = client.clone().oneshot(server.request(Method::GET, "/admin", "")).await?;
    println!("  GET /admin → {}, sent {} time", response.status(), server.count("/admin"));
    println!("  {}", tip_of(response).await);
    server.says("no token call: this 403 is not about the token");

    println!("\nThe server is ill");
    let response = client.clone().oneshot(server.request(Method::GET, "/broken", "")).await?;
    println!("  GET /broken → {}", response.status());
    println!("  {}", tip_of(response).await);

    println!("\nLogout");
    session.logout().await?;
    let before = server.api.requests().len();
    let error = client.oneshot(server.request(Method::GET, "/me", "")).await.map(drop).unwrap_err();
    let needs_login = Error::find(&*error).is_some_and(Error::is_login_required);
    println!("  GET /me → {error} (a login is required: {needs_login})");
    println!("  requests that reached the server: {}", server.api.requests().len() - before);
    Ok(())
}

type Phone = Client<HttpConnector, Full<Bytes>>;

/// A session over what the phone has stored, checked with the server.
async fn start_up(server: &ModelServer, phone: &Phone, storage: &MemoryStore) -> Result<Session, BoxError> {
    let session = Session::builder(login_code_source(server.base.clone(), phone.clone()))
        .placement(Placement::basic())
        .store(storage.clone())
        .build();
    let is_stored = storage.load().await?.is_some_and(|record| record.token.is_some());
    // Takes the stored token; fetches one if there is none.
    let token = session.token().await?;
    if !is_stored {
        println!("  nothing is stored → login code → POST /token");
        return Ok(session);
    }
    let verdict = verify(server, phone, &token).await;
    match verdict {
        Some(true) => println!("  POST /token/verify → the stored token is valid"),
        // The check saves a refused request, nothing more: an ill server must not log everybody out.
        None => println!("  POST /token/verify → no clear answer, the token is kept"),
        Some(false) => {
            println!("  POST /token/verify → not valid any more → login code → POST /token");
            session.refresh().await?;
        }
    }
    Ok(session)
}

/// Login → code → `POST /token {account: code, type: 100}` → token, by a client without the layer.
fn login_code_source(base: String, phone: Phone) -> impl TokenSource {
    source_fn(move |_: FetchContext| {
        let (base, phone) = (base.clone(), phone.clone());
        async move {
            let login =
                post(&phone, format!("{base}/code"), Value::Null).await.map_err(FetchError::transient)?;
            let exchange = json!({ "account": login["code"], "type": 100 });
            let answer =
                post(&phone, format!("{base}/token"), exchange).await.map_err(FetchError::transient)?;
            match answer["token"].as_str() {
                Some(token) if !token.is_empty() => Ok(Token::new(token)),
                _ => Err(FetchError::transient("an answer without a token")),
            }
        }
    })
}

/// `None` if the server does not say.
async fn verify(server: &ModelServer, phone: &Phone, token: &Token) -> Option<bool> {
    let question = json!({ "token": token.access().expose() });
    let answer = post(phone, format!("{}/token/verify", server.base), question).await.ok()?;
    answer["isValid"].as_bool()
}

async fn post(phone: &Phone, uri: String, body: Value) -> Result<Value, BoxError> {
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))?;
    let response = phone.request(request).await?;
    if !response.status().is_success() {
        return Err(response.status().to_string().into());
    }
    Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
}

type Body = Either<Incoming, Full<Bytes>>;

/// The client that the pages of the mini program use.
fn client(
    server: &ModelServer,
    session: Session,
) -> Result<
    impl Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone,
    BoxError,
> {
    let plain: Client<_, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let layer =
        TokenRefreshLayer::new(session, server.base.parse::<Origin>()?).classifier(|answer: &Answer<'_>| {
            match answer.extensions().get::<ErrorCode>() {
                Some(&ErrorCode(TOKEN_EXPIRED)) => Verdict::Reject,
                _ => Verdict::Accept,
            }
        });
    Ok(ServiceBuilder::new().layer(layer).and_then(read_error_code).service(plain))
}

/// Response extension: the error code in the body of a 403.
#[derive(Clone, Copy)]
struct ErrorCode(i64);

/// A classifier sees no bodies, so that whatever it needs of one is read below the layer. All but a 403 streams on.
async fn read_error_code(response: Response<Incoming>) -> Result<Response<Body>, ClientError> {
    if response.status() != StatusCode::FORBIDDEN {
        return Ok(response.map(Either::Left));
    }
    let (mut head, body) = response.into_parts();
    // A body that breaks off says nothing; the status still does.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    head.extensions.insert(ErrorCode(error_code(&body)));
    Ok(Response::from_parts(head, Either::Right(Full::from(body))))
}

/// The integer `error_code` of a JSON body; 1 if it is missing, zero or of another kind.
fn error_code(body: &[u8]) -> i64 {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["error_code"].as_i64().filter(|code| *code != 0).unwrap_or(1)
}

async fn tip_of(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let code = error_code(&body);
    let listed = TIPS.iter().find(|(listed, _)| *listed == code);
    let (_, tip) = listed.unwrap_or(&TIPS[0]);
    format!("error_code {code} → “{tip}”")
}

/// Authority and API of the test kit behind one port.
struct ModelServer {
    authority: ModelAuthority,
    api: ModelApi,
    base: String,
    _running: JoinSet<()>,
}

impl ModelServer {
    async fn start() -> Result<ModelServer, BoxError> {
        let authority = ModelAuthority::new().newest_only();
        let api = ModelApi::new(authority.clone())
            .refusal(Refusal::ForbiddenCode(TOKEN_EXPIRED))
            .route("/admin", Route::Always(Refusal::ForbiddenCode(NO_PERMISSION)))
            .route("/broken", Route::Always(Refusal::Status(StatusCode::INTERNAL_SERVER_ERROR)));
        let site = service_fn({
            let (authority, api) = (authority.clone(), api.clone());
            move |request: Request<Incoming>| match request.uri().path() {
                "/code" | "/token" | "/token/verify" => authority.clone().call(request),
                _ => api.clone().call(request),
            }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let mut running = JoinSet::new();
        running.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(site.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(ModelServer { authority, api, base, _running: running })
    }

    fn request(&self, method: Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().expect("base and path make a URI");
        request
    }

    fn count(&self, path: &str) -> usize {
        self.api.requests().iter().filter(|request| request.head.uri.path() == path).count()
    }

    fn says(&self, remark: &str) {
        let counts = self.authority.counts();
        println!(
            "  login codes {}, token calls {}, checks {}: {remark}",
            counts.codes, counts.exchanges, counts.verifies
        );
    }
}
