//! A page with two tokens: one for requests, for two hours, and one that gets the next, for thirty days from its last use.
//! Months go by in a second.
//!
//! ```text
//! cargo run --example h5_dual_token
//! ```

mod show;

use std::{path::Path, time::Duration};

use http::{Request, StatusCode};
use show::show;
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Origin, Session, TokenRefreshLayer, TokenSource,
    source::{Credentials, Password, RefreshToken},
    store::FileStore,
    test_util::{ModelApi, ModelAuthority, ModelBody, Rotation, TestClock},
};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let clock = TestClock::new();
    // Each refresh token is good for one use; one that comes twice ends the session, as if a thief were about.
    let authority = ModelAuthority::new()
        .clock(clock.clone())
        .access_lifetime(Duration::from_secs(7200))
        .refresh_lifetime(30 * DAY)
        .rotation(Rotation::ReuseKillsFamily);
    let api = ModelApi::new(authority.clone());
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token.json");

    println!("The page is opened once a day, for thirty days");
    for _ in 0..30 {
        open(&authority, &api, &clock, &file).await?;
        clock.advance(DAY);
    }
    let counts = authority.counts();
    show("one login, on the first day", counts.logins == 1)?;
    show("one refresh on each of the others", counts.refreshes == 29)?;
    show("no refresh token was presented twice", counts.presented_again() == 0)?;

    println!("\nIt is left alone for thirty-one days");
    clock.advance(31 * DAY);
    open(&authority, &api, &clock, &file).await?;
    let counts = authority.counts();
    show("one more login, which nobody has noticed", counts.logins == 2)?;
    show("its refresh token was refused once before that", counts.refreshes == 30)?;
    show("nothing was ever refused", api.requests().len() == 31)
}

/// A process of its own each day: what it knows is in the file.
async fn open(
    authority: &ModelAuthority,
    api: &ModelApi,
    clock: &TestClock,
    file: &Path,
) -> Result<(), BoxError> {
    let refresh = RefreshToken::new(authority.clone(), "https://id.test/refresh".parse()?);
    let login = Password::new(authority.clone(), "https://id.test/login".parse()?, || async {
        Ok(Credentials::new("alice", "wonderland"))
    });
    let session =
        Session::builder(refresh.or_else(login)).store(FileStore::new(file)).clock(clock.clone()).build();
    let origin: Origin = "https://api.test".parse()?;
    let client = TokenRefreshLayer::new(session.clone(), origin).layer(api.clone());
    let response = client.oneshot(Request::get("https://api.test/me").body(ModelBody::default())?).await?;
    // The next process begins with what is saved.
    session.settle().await?;
    if response.status() == StatusCode::OK { Ok(()) } else { Err("the page does not open".into()) }
}
