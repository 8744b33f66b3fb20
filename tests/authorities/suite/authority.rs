//! What the authorities have in common: a client for each case, logins, counts.

use std::env;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tower_token_refresh::{
    FetchError, Origin, Session, Token,
    source::{
        Credentials,
        oauth2::{PasswordGrant, TokenEndpoint},
    },
};

use crate::kind::Kind;

/// The servers' fixtures.
const SECRET: &str = "not-a-secret";
const PASSWORD: &str = "not-a-password";

/// hyper-util's client.
pub(crate) type Pool<B> = Client<HttpConnector, B>;

pub(crate) fn pool<B>() -> Pool<B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

/// An authority, as a client sees it that no other case knows.
#[derive(Clone)]
pub(crate) struct Authority {
    kind: Kind,
    address: String,
    client_id: String,
    http: Pool<Full<Bytes>>,
}

/// The token calls of a client so far.
#[derive(Debug, PartialEq)]
pub(crate) struct TokenCalls {
    /// Granted, by whatever but a refresh token.
    pub(crate) logins: u64,
    /// Granted for a refresh token.
    pub(crate) refreshes: u64,
    pub(crate) refused: u64,
}

impl Authority {
    pub(crate) async fn new(kind: Kind) -> Self {
        let Ok(address) = env::var(kind.address_in) else {
            panic!("{} does not say where the server is: run scripts/authorities", kind.address_in);
        };
        let mut authority = Authority { kind, address, client_id: String::new(), http: pool() };
        authority.client_id = text(&authority.control(Method::POST, "/_test/clients").await);
        authority
    }

    /// `host:port`.
    pub(crate) fn socket(&self) -> &str {
        self.address.strip_prefix("http://").expect("a loopback address")
    }

    pub(crate) fn origin(&self) -> Origin {
        self.address.parse().expect("a loopback address is an origin")
    }

    /// A request for the resource.
    pub(crate) fn request(&self) -> Request<Full<Bytes>> {
        Request::get(format!("{}{}", self.address, self.kind.resource))
            .body(Full::default())
            .expect("a request")
    }

    /// The token endpoint, or what stands before it there.
    pub(crate) fn token_endpoint(&self, address: &str) -> TokenEndpoint {
        let url: Uri = format!("http://{address}/token").parse().expect("a URL");
        TokenEndpoint::new(pool(), url).client_secret_basic(&self.client_id, SECRET)
    }

    pub(crate) fn password(&self) -> PasswordGrant {
        PasswordGrant::new(self.token_endpoint(self.socket()), || async {
            Ok::<_, FetchError>(Credentials::new("alice", PASSWORD))
        })
    }

    /// Alice logs in.
    pub(crate) async fn login(&self) -> Token {
        Session::builder(self.password()).build().token().await.expect("the password is right")
    }

    /// All access tokens expire.
    pub(crate) async fn expire(&self) {
        self.control(Method::POST, &self.case("/expire")).await;
    }

    /// An authorization code for this challenge.
    pub(crate) async fn code(&self, challenge: &str) -> String {
        text(&self.control(Method::POST, &self.case(&format!("/code?challenge={challenge}"))).await)
    }

    pub(crate) async fn token_calls(&self) -> TokenCalls {
        let counts = self.control(Method::GET, &self.case("")).await;
        let count = |name| counts[name].as_u64().expect("a count");
        TokenCalls { logins: count("logins"), refreshes: count("refreshes"), refused: count("refused") }
    }

    /// Revokes the grant by its refresh token (RFC 7009).
    pub(crate) async fn revoke(&self, token: &Token) {
        let refresh_token = token.refresh().expect("the authority gives one").expose();
        let (status, _) = self.post("/revoke", &format!("token={refresh_token}")).await;
        assert_eq!(status, StatusCode::OK);
    }

    /// Posts a form, as the client.
    pub(crate) async fn post(&self, path: &str, form: &str) -> (StatusCode, Bytes) {
        let credentials = STANDARD.encode(format!("{}:{SECRET}", self.client_id));
        let request = Request::post(format!("{}{path}", self.address))
            .header(header::AUTHORIZATION, format!("Basic {credentials}"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form.to_owned()))
            .expect("a request");
        self.send(request).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        let answer = self.http.request(request).await.expect("the server answers");
        (answer.status(), body(answer).await)
    }

    fn case(&self, verb: &str) -> String {
        format!("/_test/clients/{}{verb}", self.client_id)
    }

    async fn control(&self, method: Method, path: &str) -> Value {
        let url = format!("{}{path}", self.address);
        let request = Request::builder().method(method).uri(url).body(Full::default()).expect("a request");
        let (status, answer) = self.send(request).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        serde_json::from_slice(&answer).expect("JSON")
    }
}

pub(crate) async fn body(answer: Response<Incoming>) -> Bytes {
    answer.into_body().collect().await.expect("a whole body").to_bytes()
}

fn text(answer: &Value) -> String {
    answer.as_str().expect("a text").to_owned()
}
