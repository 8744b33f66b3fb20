//! An authority that rotates its refresh tokens, an API that answers while it is still being sent to, and a slow store.
//!
//! They watch: what must not be is noted, because a panic in a source is nothing to the session.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::Duration,
};

use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::BodyExt;
use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use super::body::Trickle;
use crate::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, Origin, RefreshFailure, ReplayBody, Session, Token,
    TokenRefreshLayer,
    session::Engine,
    source::Cause,
    source_fn,
    store::{Lease, MemoryStore, Record, TokenStore},
    sync::turns::{Dice, below, in_turn},
};

pub(super) struct World {
    pub(super) session: Session,
    ledger: Arc<Ledger>,
    store: MemoryStore,
}

#[derive(Default)]
struct Ledger {
    engine: OnceLock<Weak<Engine>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    serial: u32,
    /// Access tokens that the API accepts.
    accepted: HashSet<String>,
    refused: HashSet<String>,
    /// Refresh tokens that were answered.
    spent: HashSet<String>,
    /// Fetches that are on, by family.
    on: HashMap<String, usize>,
    fetches: usize,
    /// What the next fetches come to instead of a token.
    failures: Vec<Failing>,
    /// Tasks that read what is left of a refused request's body.
    readings: JoinSet<()>,
    /// Access tokens that were fetched, and those that were saved.
    fetched: HashSet<String>,
    saved: HashSet<String>,
    /// Of 100 calls of the store, how many fail.
    store_fails: u64,
    /// A save may come to nothing, because of the store.
    saves_may_fail: bool,
    /// The same for an answer of the authority, because a task that had it has panicked.
    answers_may_be_lost: bool,
    wrongs: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failing {
    Transient,
    Panic,
    Hang,
}

/// What a caller got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Accepted,
    /// The refused response, and why there was no better one.
    Refused(Option<ErrorKind>),
    Failed(ErrorKind),
}

/// Time that others may use.
async fn pause() {
    for _ in 0..below(4) {
        yield_now().await;
    }
    if below(8) == 0 {
        sleep(Duration::from_millis(below(20))).await;
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics under it")
    }

    /// The access token in use.
    fn current(&self) -> Option<String> {
        let engine = self.engine.get()?.upgrade()?;
        Some(engine.current()?.token().access().expose().to_owned())
    }

    fn issue(&self, family: &str) -> Token {
        let mut book = self.book();
        book.serial += 1;
        let serial = book.serial;
        book.accepted.insert(format!("access/{family}/{serial}"));
        Token::new(format!("access/{family}/{serial}")).refresh_token(format!("refresh/{family}/{serial}"))
    }

    async fn fetch(self: Arc<Self>, cx: FetchContext) -> Result<Token, FetchError> {
        let presented = cx.refresh_token().map(|token| token.expose().to_owned()).unwrap_or_default();
        let family = family_of(&presented).to_owned();
        let current = self.current();
        let failure = {
            let mut book = self.book();
            book.fetches += 1;
            let refused = current.as_ref().is_some_and(|current| book.refused.contains(current));
            let spent = book.spent.contains(&presented) && !book.answers_may_be_lost;
            book.check(
                cx.cause() != Cause::Refused || refused,
                "a refresh for a token that nobody has refused",
            );
            book.check(
                current.as_ref().is_some_and(|token| family_of(token) == family),
                "a fetch after a logout",
            );
            book.check(!spent, "a spent refresh token was presented");
            let on = book.on.entry(family.clone()).or_default();
            *on += 1;
            let on = *on;
            book.check(on == 1, "two fetches at once");
            book.failures.pop()
        };
        let _on = On(&self, &family);
        pause().await;
        match failure {
            None => {
                let token = self.issue(&family);
                let mut book = self.book();
                book.spent.insert(presented);
                book.fetched.insert(token.access().expose().to_owned());
                Ok(token)
            }
            Some(Failing::Transient) => Err(FetchError::transient("the authority is not there")),
            Some(Failing::Panic) => std::panic::resume_unwind(Box::new("the source's own affair")),
            Some(Failing::Hang) => pending().await,
        }
    }

    /// The API: reads some of the body, decides, and reads on.
    async fn answer(
        self: Arc<Self>,
        token: String,
        mut body: ReplayBody<Trickle>,
    ) -> Result<Response<()>, BoxError> {
        let mut read = String::new();
        for _ in 0..below(4) {
            pause().await;
            match body.frame().await {
                Some(frame) => read.push_str(std::str::from_utf8(&frame?.into_data().unwrap_or_default())?),
                None => break,
            }
        }
        if self.book().accepted.contains(&token) {
            read.push_str(std::str::from_utf8(&body.collect().await?.to_bytes())?);
            self.book().check(read == Trickle::WHOLE, "a body was not sent whole");
            return Ok(Response::new(()));
        }
        let mut book = self.book();
        book.refused.insert(token);
        book.readings.spawn(in_turn(async move { while let Some(Ok(_)) = body.frame().await {} }));
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        Ok(response)
    }
}

impl Book {
    fn check(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.wrongs.push(otherwise.to_owned());
        }
    }
}

fn family_of(token: &str) -> &str {
    token.split('/').nth(1).unwrap_or_default()
}

/// A fetch in progress, until it ends or is dropped.
struct On<'a>(&'a Ledger, &'a str);

impl Drop for On<'_> {
    fn drop(&mut self) {
        *self.0.book().on.get_mut(self.1).expect("it was counted") -= 1;
    }
}

impl World {
    /// A session that has logged in as "first", in a store that holds that.
    pub(super) async fn new() -> Arc<Self> {
        let ledger = Arc::new(Ledger::default());
        let store = MemoryStore::new();
        let authority = ledger.clone();
        let session = Session::builder(source_fn(move |cx: FetchContext| authority.clone().fetch(cx)))
            .store(Slow(store.clone(), ledger.clone()))
            .build();
        let _ = ledger.engine.set(Arc::downgrade(session.engine()));
        let world = Arc::new(World { session, ledger, store });
        world.session.login(world.ledger.issue("first")).await.expect("the store is there");
        world
    }

    /// From now on the API refuses every token that there is.
    pub(super) fn revoke(&self) {
        self.ledger.book().accepted.clear();
    }

    pub(super) fn fail_fetches(&self, failures: impl IntoIterator<Item = Failing>) {
        self.ledger.book().failures.extend(failures);
    }

    /// How many of 100 calls of the store fail from now on.
    pub(super) fn fail_store(&self, of_100: u64) {
        let mut book = self.ledger.book();
        (book.store_fails, book.saves_may_fail) = (of_100, true);
    }

    /// How many of 1000 turns of the library's own tasks panic from now on.
    pub(super) fn make_tasks_panic(&self, of_1000: u64) {
        Dice::make_tasks_panic(of_1000);
        let mut book = self.ledger.book();
        (book.saves_may_fail, book.answers_may_be_lost) = (true, true);
    }

    pub(super) fn heal(&self) {
        let mut book = self.ledger.book();
        (book.failures, book.store_fails) = (Vec::new(), 0);
        Dice::make_tasks_panic(0);
    }

    pub(super) fn fetches(&self) -> usize {
        self.ledger.book().fetches
    }

    pub(super) fn current(&self) -> Option<String> {
        self.ledger.current()
    }

    /// The family of the token in use.
    pub(super) fn identity(&self) -> Option<String> {
        self.current().map(|token| family_of(&token).to_owned())
    }

    pub(super) async fn request(self: Arc<Self>) -> Answer {
        pause().await;
        // Shared by the clones of the service: each attempt is made by another one.
        let sent = Arc::new(Mutex::new(Vec::new()));
        let ledger = self.ledger.clone();
        let api = service_fn(move |request: Request<ReplayBody<Trickle>>| {
            let credential = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token =
                credential.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
            let mut sent = sent.lock().expect("nothing panics under it");
            sent.push(family_of(&token).to_owned());
            let current = ledger.current();
            let mut book = ledger.book();
            book.check(current.as_ref() == Some(&token), "another token was sent than the one in use");
            let saved = book.saves_may_fail || !book.fetched.contains(&token) || book.saved.contains(&token);
            book.check(saved, "a token was sent before it was saved");
            book.check(sent.len() <= 2, "a request was sent more than twice");
            book.check(sent.iter().all(|family| *family == sent[0]), "a request was sent as somebody else");
            drop(book);
            ledger.clone().answer(token, request.into_body())
        });
        let origin = "https://api.example.com".parse::<Origin>().expect("an origin");
        let layer = TokenRefreshLayer::new(self.session.clone(), origin);
        let request = Request::post("https://api.example.com/").body(Trickle::default()).expect("a request");
        match layer.layer(api).oneshot(request).await {
            Ok(response) if response.status() == StatusCode::OK => Answer::Accepted,
            Ok(response) => {
                let failure = response.extensions().get::<RefreshFailure>();
                Answer::Refused(failure.map(|failure| failure.error().kind()))
            }
            Err(error) => Answer::Failed(Error::find(&*error).expect("no other error is at hand").kind()),
        }
    }

    pub(super) async fn login(self: Arc<Self>, family: &str) {
        pause().await;
        // A store that fails has the record later.
        let _ = self.session.login(self.ledger.issue(family)).await;
    }

    pub(super) async fn replace(self: Arc<Self>) {
        pause().await;
        let family = self.identity();
        if let Some(family) = family {
            let _ = self.session.replace(self.ledger.issue(&family)).await;
        }
    }

    pub(super) async fn logout(self: Arc<Self>) {
        pause().await;
        let _ = self.session.logout().await;
    }

    /// Waits until all is quiet, and says what was wrong.
    pub(super) async fn rest(&self) {
        let readings = std::mem::take(&mut self.ledger.book().readings);
        timeout(ANSWERED_WITHIN, readings.join_all()).await.expect("no upload is left behind");
        self.session.settle().await.expect("everything is saved");
        assert!(!self.session.engine().slot().is_flying());
        let stored = self.store.load().await.expect("it cannot fail").and_then(|record| record.token);
        let stored = stored.map(|token| token.access.expose().to_owned());
        assert_eq!(stored, self.current());
        let wrongs = std::mem::take(&mut self.ledger.book().wrongs);
        assert!(wrongs.is_empty(), "{wrongs:?}");
    }
}

/// All time limits of a session together are less.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(600);

/// A store that takes its time, and fails if it is told to.
struct Slow(MemoryStore, Arc<Ledger>);

impl Slow {
    async fn work(&self) -> Result<(), BoxError> {
        pause().await;
        if below(100) < self.1.book().store_fails {
            return match below(3) {
                0 => Err("the store is not there".into()),
                1 => std::panic::resume_unwind(Box::new("the store's own affair")),
                _ => pending().await,
            };
        }
        Ok(())
    }
}

impl TokenStore for Slow {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.work().await?;
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.work().await?;
        self.0.save(record, fence).await?;
        let saved = record.token.as_ref().map(|token| token.access.expose().to_owned());
        self.1.book().saved.extend(saved);
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.work().await?;
        self.0.lock().await
    }
}
