//! A page that logs in with a cached account and password: `{"account", "password"}` → `{"access_token"}`.
//!
//! ```text
//! cargo run --example h5_password
//! ```

mod serve;
mod server;
mod show;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_token_refresh::{
    BoxError, Error, Origin, Outcome, ReplayBody, Session, TokenRefreshLayer,
    source::{Content, Credentials, Password},
    store::{MemoryStore, TokenStore},
    test_util::{ModelApi, ModelAuthority},
};

use server::{Server, request};
use show::show;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let authority = ModelAuthority::new().account("carol", "correct horse");
    let server = Server::start(authority.clone(), ModelApi::new(authority)).await?;
    let counts = || server.authority.counts();

    // What the page has cached; not ours to keep.
    let cache = Arc::new(Mutex::new("a typo".to_owned()));
    let cached = cache.clone();
    let plain: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
    let login = Password::new(plain, format!("{}/login", server.base).parse()?, move || {
        let password = cached.lock().expect("nobody panics with it").clone();
        async { Ok(Credentials::new("carol", password)) }
    });
    let store = MemoryStore::new();
    let session = Session::builder(login).store(store.clone()).build();
    let plain: Client<_, ReplayBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let client = ServiceBuilder::new()
        .layer(TokenRefreshLayer::new(session.clone(), server.base.parse::<Origin>()?))
        .service(plain);

    println!("A wrong password");
    for _ in 0..10 {
        let result = client.clone().oneshot(request(&server.base, Method::GET, "/me", "")?).await;
        let needs_login = Error::of(&result).is_some_and(Error::is_login_required);
        if !needs_login {
            return Err("a wrong password lets nobody in".into());
        }
    }
    show("ten requests fail at once, and one login was tried", counts().logins == 1)?;
    show("nothing was sent without a token", server.api.requests().is_empty())?;

    println!("\nThe right one");
    "correct horse".clone_into(&mut *cache.lock().expect("nobody panics with it"));
    session.credentials_changed();
    let response = client.clone().oneshot(request(&server.base, Method::GET, "/me", "")?).await?;
    show("GET /me → 200", response.status() == StatusCode::OK)?;
    show("one more login", counts().logins == 2)?;

    println!("\nThe token dies");
    server.authority.revoke_all();
    let response = client.oneshot(request(&server.base, Method::GET, "/me", "")?).await?;
    let attempts = response.extensions().get().map_or(1, Outcome::attempts);
    show("GET /me → 200, sent twice", response.status() == StatusCode::OK && attempts == 2)?;
    show("one more login, with what the page has cached", counts().logins == 3)?;

    println!("\nThe store");
    let stored = store.load().await?.and_then(|record| record.token).ok_or("a token is stored")?;
    let texts = [Some(&stored.access), stored.refresh.as_ref()];
    let is_there = texts.into_iter().flatten().any(|text| text.expose().contains("horse"));
    show("the password is not in it", !is_there)
}
