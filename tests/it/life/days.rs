//! Three months with one login.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, Session, TokenRefresh, TokenRefreshLayer, TokenSource,
    source::{
        Content, Credentials, Password,
        oauth2::{RefreshTokenGrant, TokenEndpoint},
    },
    store::{FileStore, Lease, MemoryStore, Record, TokenStore},
    test_util::{ModelApi, ModelAuthority, ModelBody, TestClock},
};

use crate::world::{get, origin};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAYS: u32 = 90;

/// What became of refresh tokens, in the order in which it happened.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Entry>>>);

enum Entry {
    /// The store has it.
    Saved(String),
    /// It is at the authority's door.
    Presented(String),
}

impl Log {
    fn note(&self, entry: Entry) {
        self.0.lock().unwrap().push(entry);
    }

    /// How many were presented, all of them when the store had them.
    fn presented_after_they_were_saved(&self) -> usize {
        let (mut saved, mut presented) = (HashSet::new(), 0);
        for entry in &*self.0.lock().unwrap() {
            match entry {
                Entry::Saved(token) => drop(saved.insert(token.clone())),
                Entry::Presented(token) => {
                    presented += 1;
                    assert!(saved.contains(token), "no. {presented} was presented before it was saved");
                }
            }
        }
        presented
    }
}

/// A store that notes what it has saved.
struct Noted<S> {
    store: S,
    log: Log,
}

impl<S: TokenStore> TokenStore for Noted<S> {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.store.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.store.save(record, fence).await?;
        if let Some(refresh) = record.token.as_ref().and_then(|token| token.refresh.as_ref()) {
            self.log.note(Entry::Saved(refresh.expose().to_owned()));
        }
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.store.lock().await
    }
}

/// An authority whose refresh tokens live for thirty days from their last use, and what is used with it.
struct Life {
    clock: TestClock,
    authority: ModelAuthority,
    log: Log,
}

impl Life {
    fn new() -> Self {
        let clock = TestClock::new();
        let authority = ModelAuthority::new().clock(clock.clone()).refresh_lifetime(30 * DAY);
        Life { clock, authority, log: Log::default() }
    }

    /// Presents the refresh token, and the password where there is none. What is presented is noted.
    fn source(&self) -> impl TokenSource {
        let (authority, log) = (self.authority.clone(), self.log.clone());
        let door = service_fn(move |request: Request<Content>| {
            let (head, content) = request.into_parts();
            let body = Bytes::from(content);
            if let Some((_, token)) = std::str::from_utf8(&body).unwrap().split_once("&refresh_token=") {
                log.note(Entry::Presented(token.to_owned()));
            }
            authority.clone().oneshot(Request::from_parts(head, ModelBody::from(body)))
        });
        let endpoint = TokenEndpoint::new(door.clone(), "https://id.test/oauth/token".parse().unwrap());
        let alice = || std::future::ready(Ok(Credentials::new("alice", "wonderland")));
        RefreshTokenGrant::new(endpoint).or_else(Password::new(
            door,
            "https://id.test/login".parse().unwrap(),
            alice,
        ))
    }

    /// A process begins.
    fn process(&self, store: impl TokenStore) -> (Session, TokenRefresh<ModelApi>) {
        let store = Noted { store, log: self.log.clone() };
        let session = Session::builder(self.source()).store(store).clock(self.clock.clone()).build();
        let layer = TokenRefreshLayer::new(session.clone(), origin());
        (session, layer.layer(ModelApi::new(self.authority.clone())))
    }

    /// The figure, once it is as it should be: one login, nothing presented twice or before it was saved.
    fn figure(&self, how: &str) -> usize {
        let counts = self.authority.counts();
        let presented = self.log.presented_after_they_were_saved();
        assert_eq!((counts.logins, counts.presented_again(), counts.family_deaths), (1, 0, 0));
        assert_eq!(presented, counts.refreshes);
        println!(
            "{how}: 1 login, {presented} refreshes, 0 refresh tokens presented twice, 0 before they were saved"
        );
        presented
    }
}

async fn answered(client: &TokenRefresh<ModelApi>) -> bool {
    client.clone().oneshot(get("/")).await.unwrap().status() == StatusCode::OK
}

#[tokio::test(start_paused = true)]
async fn a_session_used_once_a_day_never_needs_a_second_login() {
    used_every(DAY, DAYS).await;
}

/// A refresh token lives for 30 days.
#[tokio::test(start_paused = true)]
async fn a_session_used_once_in_the_life_of_each_refresh_token_never_needs_a_second_login() {
    used_every(29 * DAY, 12).await;
}

async fn used_every(pause: Duration, times: u32) {
    let life = Life::new();
    let (_, client) = life.process(MemoryStore::new());
    for _ in 0..times {
        assert!(answered(&client).await);
        life.clock.advance(pause);
    }
    let refreshes =
        life.figure(&format!("a request every {} days, {times} times", pause.as_secs() / DAY.as_secs()));
    assert_eq!(refreshes, times as usize - 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_kept_fresh_never_needs_a_second_login_and_no_request_waits() {
    let life = Life::new();
    let (session, client) = life.process(MemoryStore::new());
    let keeper = tokio::spawn(session.keep_fresh());
    assert!(answered(&client).await);
    for _ in 1..DAYS {
        // Time passes as the keeper sees it, timer by timer.
        tokio::time::sleep(DAY).await;
        let before = life.authority.counts().refreshes;
        assert!(answered(&client).await);
        assert_eq!(life.authority.counts().refreshes, before, "a token is at hand");
    }
    keeper.abort();
    let refreshes = life.figure("kept fresh, a request a day for 90 days");
    // Tokens live for two hours and are renewed 60 to 65 seconds before their end.
    let time = (DAYS - 1) * DAY;
    let every = |seconds| usize::try_from(time.as_secs() / seconds).unwrap();
    assert!((every(7200 - 60)..=every(7200 - 66)).contains(&refreshes), "{refreshes}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_started_once_a_day_never_needs_a_second_login() {
    let directory = tempfile::tempdir().unwrap();
    let file = FileStore::new(directory.path().join("token.json"));
    assert_eq!(restarted_every_day(file).await.figure("a process a day on a FileStore, 90 days"), 89);
    assert_eq!(
        restarted_every_day(MemoryStore::new()).await.figure("a session a day on a MemoryStore, 90 days"),
        89
    );
}

async fn restarted_every_day(store: impl TokenStore + Clone) -> Life {
    let life = Life::new();
    for _ in 0..DAYS {
        let (session, client) = life.process(store.clone());
        session.start().await.unwrap();
        assert!(answered(&client).await);
        session.settle().await.unwrap();
        life.clock.advance(DAY);
    }
    life
}
