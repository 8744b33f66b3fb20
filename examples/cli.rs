//! `acme`, a command that its user runs in many terminals: one login, one refresh, and "please log in" only when that is
//! true.
//!
//! ```text
//! cargo run --example cli
//! ```
//!
//! This starts a server, and itself as the command: each run is a process of its own.

mod serve;
mod server;
mod show;

use std::{
    env,
    io::{self, Write},
    process::{ExitCode, Output},
    time::Duration,
};

use futures_util::future::try_join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use server::{Server, request};
use show::show;
use tokio::{process::Command, signal::ctrl_c, time::timeout};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Error, Origin, Session, TokenRefreshLayer,
    source::{
        Content, Credentials,
        oauth2::{PasswordGrant, RefreshTokenGrant, TokenEndpoint},
    },
    store::FileStore,
    test_util::{Endpoint, Failure, ModelApi, ModelAuthority},
};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    match env::args().nth(1) {
        Some(command) => acme(&command).await,
        None => demonstrate().await.map(|()| ExitCode::SUCCESS),
    }
}

/// The command. All of its processes share what is in the file.
async fn acme(command: &str) -> Result<ExitCode, BoxError> {
    let (server, file) = (env::var("ACME_SERVER")?, env::var("ACME_FILE")?);
    let plain: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
    let endpoint = TokenEndpoint::new(plain, format!("{server}/oauth/token").parse()?).public_client("acme");
    // Nothing behind the refresh token: after a logout no command is to log in by itself.
    let source = RefreshTokenGrant::new(endpoint.clone());
    let session = Session::builder(source).store(FileStore::new(file)).build();
    let work = async {
        match command {
            "login" => login(&session, endpoint).await,
            "me" => me(&session, &server).await,
            "logout" => Ok(session.logout().await?),
            other => Err(format!("acme {other}: there are login, me and logout").into()),
        }
    };
    // Whoever interrupts a command must not lose what a refresh is about to bring.
    let done = tokio::select! {
        done = work => done,
        _ = ctrl_c() => Err("interrupted".into()),
    };
    if let Err(error) = &done {
        eprintln!("{}", with_causes(&**error));
    }
    // The next command begins with what is saved. Where the server is slow this takes up to two minutes.
    if timeout(Duration::from_secs(1), session.settle()).await.is_err() {
        eprintln!("waiting until all is saved; interrupt this, and you may have to log in again");
    }
    tokio::select! {
        saved = session.settle() => saved?,
        _ = ctrl_c() => return Ok(ExitCode::FAILURE),
    }
    Ok(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn login(session: &Session, endpoint: TokenEndpoint) -> Result<(), BoxError> {
    // Where the user logs in by a browser, an `AuthorizationCodeGrant` stands here.
    let password = PasswordGrant::new(endpoint, async || Ok(Credentials::new("alice", "wonderland")));
    // A session of its own, without a store, for one token.
    let token = Session::builder(password).build().token().await?;
    Ok(session.login(token).await?)
}

async fn me(session: &Session, server: &str) -> Result<(), BoxError> {
    let layer = TokenRefreshLayer::new(session.clone(), server.parse::<Origin>()?);
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let result = client.oneshot(request(server, Method::GET, "/me", "")?).await;
    if let Some(error) = Error::of(&result) {
        let advice = if error.is_login_required() { ": please run `acme login`" } else { "" };
        return Err(format!("{}{advice}", with_causes(error)).into());
    }
    let response = result?;
    if !response.status().is_success() {
        return Err(format!("the server says {}", response.status()).into());
    }
    // Not `println!`, which panics where nobody reads on.
    writeln!(io::stdout(), "{:?}", response.into_body().collect().await?.to_bytes())?;
    Ok(())
}

async fn demonstrate() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let server = Server::start(authority.clone(), ModelApi::new(authority)).await?;
    let directory = tempfile::tempdir()?;
    let run = async |command: &str| -> Result<Output, BoxError> {
        let mut acme = Command::new(env::current_exe()?);
        acme.arg(command)
            .env("ACME_SERVER", &server.base)
            .env("ACME_FILE", directory.path().join("token.json"));
        Ok(acme.output().await?)
    };

    println!("The first day");
    show("acme me says that a login is needed", asks_to_log_in(&run("me").await?))?;
    show("acme login", run("login").await?.status.success())?;
    show("acme me", run("me").await?.status.success())?;

    println!("\nThe server revokes the token, and the user is at work in ten terminals");
    server.authority.revoke_access();
    let outputs = try_join_all((0..10).map(|_| run("me"))).await?;
    show("each of the ten has its answer", outputs.iter().all(|output| output.status.success()))?;
    show("one refresh", server.authority.counts().refreshes == 1)?;

    println!("\nThe server revokes it again, and then has an outage");
    server.authority.revoke_access();
    server.authority.fail_always(Endpoint::Refresh, Failure::Html(StatusCode::SERVICE_UNAVAILABLE));
    let output = run("me").await?;
    show(
        "acme me fails, and does not ask for a login",
        !output.status.success() && !asks_to_log_in(&output),
    )?;
    server.authority.heal(Endpoint::Refresh);
    show("the user is still logged in afterwards", run("me").await?.status.success())?;

    println!("\nThe end of the day");
    show("acme logout", run("logout").await?.status.success())?;
    show("acme me says that a login is needed", asks_to_log_in(&run("me").await?))?;
    show("one login in all", server.authority.counts().logins == 1)?;
    show("twelve requests, each of which the server has answered", server.api.answered(StatusCode::OK) == 12)
}

fn asks_to_log_in(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("acme login")
}
