//! What a session does when it starts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use http::StatusCode;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchContext, FetchError, Session, Token, TokenSource,
    event::Event,
    session::SessionBuilder,
    source::Verification,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority},
};

use crate::{runtimes::runtime, script::within, world::World};

/// Fetches numbered tokens, and answers verifications as it is told, behind a gate.
#[derive(Clone)]
struct Verifying {
    answer: Verification,
    fetches: Arc<AtomicUsize>,
    verified: Arc<AtomicUsize>,
    gate: Gate,
}

impl Verifying {
    fn saying(answer: Verification) -> Self {
        Verifying { answer, fetches: Arc::default(), verified: Arc::default(), gate: Gate::new() }
    }

    fn counts(&self) -> (usize, usize) {
        (self.fetches.load(Ordering::SeqCst), self.verified.load(Ordering::SeqCst))
    }
}

impl TokenSource for Verifying {
    async fn fetch(&self, _: FetchContext) -> Result<Token, FetchError> {
        let number = self.fetches.fetch_add(1, Ordering::SeqCst);
        Ok(Token::new(format!("fetched-{number}")))
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.verified.fetch_add(1, Ordering::SeqCst);
        assert_eq!(token.access().expose(), "stored");
        self.gate.pass().await;
        self.answer
    }
}

/// A session on a store that another process has left a token in.
async fn restarted(source: &(impl TokenSource + Clone)) -> Session {
    let store = MemoryStore::new();
    let before = Session::builder(source.clone()).store(store.clone()).build();
    before.login(Token::new("stored")).await.unwrap();
    Session::builder(source.clone()).store(store).build()
}

#[tokio::test(start_paused = true)]
async fn a_session_that_starts_with_nothing_stored_fetches_and_verifies_nothing() {
    let source = Verifying::saying(Verification::Valid);
    let session = Session::builder(source.clone()).build();
    session.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(source.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_is_verified_in_the_background_and_replaced_only_if_it_is_called_invalid() {
    for (answer, fetches) in
        [(Verification::Valid, 0), (Verification::Unknown, 0), (Verification::Invalid, 1)]
    {
        let source = Verifying::saying(answer);
        let session = restarted(&source).await;
        within(session.start()).await.unwrap();
        assert_eq!(
            session.token().await.unwrap().access().expose(),
            "stored",
            "nobody waits for the verification"
        );
        source.gate.open();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(source.counts(), (fetches, 1));
        let expected = if fetches == 0 { "stored" } else { "fetched-0" };
        assert_eq!(session.token().await.unwrap().access().expose(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_is_verified_once_however_many_start() {
    let source = Verifying::saying(Verification::Valid);
    source.gate.open();
    let session = restarted(&source).await;
    for started in join_all((0..50).map(|_| session.start())).await {
        started.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    session.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(source.counts(), (0, 1));
}

#[test]
fn a_verification_that_ends_with_its_runtime_is_made_at_the_next_start() {
    let source = Verifying::saying(Verification::Valid);
    source.gate.open();
    let session = runtime().block_on(restarted(&source));
    runtime().block_on(session.start()).unwrap();
    assert_eq!(source.counts(), (0, 0));
    runtime().block_on(async {
        session.start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(source.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_verification_that_gets_no_answer_is_made_again_at_the_next_start() {
    let source = Verifying::saying(Verification::Unknown);
    source.gate.open();
    let session = restarted(&source).await;
    for verified in 1..=2 {
        session.start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(source.counts(), (0, verified));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_several_sessions_share_fetches_and_verifies_for_each() {
    let source = Verifying::saying(Verification::Invalid);
    source.gate.open();
    let shared = Arc::new(source.clone());
    for fetched in ["fetched-0", "fetched-1"] {
        let session = restarted(&shared).await;
        session.start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(session.token().await.unwrap().access().expose(), fetched);
    }
    assert_eq!(source.counts(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_verification_that_never_ends_keeps_the_token_and_holds_nobody_up() {
    let source = Verifying::saying(Verification::Invalid);
    let session = restarted(&source).await;
    session.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    source.gate.open();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(session.token().await.unwrap().access().expose(), "stored");
    session.settle().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_verification_that_comes_too_late_condemns_no_newer_token() {
    let source = Verifying::saying(Verification::Invalid);
    let session = restarted(&source).await;
    session.start().await.unwrap();
    session.replace(Token::new("newer")).await.unwrap();
    source.gate.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(session.token().await.unwrap().access().expose(), "newer");
    assert_eq!(source.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn starting_requesting_and_refreshing_by_hand_share_one_flight() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let mut start = task::spawn(world.session.start());
    let mut request = task::spawn(world.get("/"));
    let mut by_hand = task::spawn(world.session.refresh());
    assert_pending!(start.poll());
    assert_pending!(request.poll());
    assert_pending!(by_hand.poll());
    gate.waiting(1).await;
    gate.open();
    let (start, response, refreshed) = tokio::join!(start, request, by_hand);
    start.unwrap();
    refreshed.unwrap();
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().token_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_a_session_that_works_and_can_be_logged_out() {
    let world = World::with(ModelAuthority::new(), |session| session, |layer| layer);
    world.authority.fail_next(Endpoint::Login, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "later"));
    assert!(world.session.start().await.unwrap_err().is_transient());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    world.session.logout().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn other_credentials_bring_a_dead_session_back() {
    let world = World::new();
    world.authority.fail_next(Endpoint::Login, Failure::OAuth("invalid_grant"));
    assert!(world.session.start().await.unwrap_err().is_login_required());
    assert!(world.session.token().await.unwrap_err().is_login_required());
    world.session.credentials_changed();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn other_credentials_count_although_those_before_are_still_being_refused() {
    let world = World::new();
    world.authority.fail_next(Endpoint::Login, Failure::OAuth("invalid_grant"));
    let gate = world.authority.hold(Endpoint::Login);
    let mut first = task::spawn(world.session.token());
    assert_pending!(first.poll());
    within(gate.waiting(1)).await;
    world.session.credentials_changed();
    gate.open();
    assert!(within(first).await.unwrap_err().is_login_required(), "it was of those before");
    within(world.session.token()).await.unwrap();
    assert_eq!(world.authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_after_the_credentials_have_changed_gets_what_they_bring() {
    let world = World::new();
    world.authority.fail_next(Endpoint::Login, Failure::OAuth("invalid_grant"));
    let gate = world.authority.hold(Endpoint::Login);
    let mut first = task::spawn(world.session.token());
    assert_pending!(first.poll());
    within(gate.waiting(1)).await;
    world.session.credentials_changed();
    let (mut next, mut request) = (task::spawn(world.session.refresh()), task::spawn(world.get("/")));
    assert_pending!(next.poll());
    assert_pending!(request.poll());
    gate.open();
    assert!(within(first).await.unwrap_err().is_login_required(), "it was of those before");
    within(next).await.unwrap();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_after_the_credentials_have_changed_waits_no_longer_for_those_before_than_others() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let mut first = task::spawn(world.session.token());
    assert_pending!(first.poll());
    within(gate.waiting(1)).await;
    world.session.credentials_changed();
    let mut next = task::spawn(world.session.refresh());
    assert_pending!(next.poll());
    assert_eq!(within(first).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(within(next).await.unwrap_err().kind(), ErrorKind::Timeout);
    gate.open();
    within(world.session.settle()).await.unwrap();
    world.session.token().await.unwrap();
    assert_eq!(world.authority.counts().logins, 1);
}

/// A store that notes what it is asked.
#[derive(Clone, Default)]
struct Noting {
    memory: MemoryStore,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl Noting {
    fn note(&self, call: &'static str) {
        self.asked.lock().unwrap().push(call);
    }
}

impl TokenStore for Noting {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.note("load");
        self.memory.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.note("save");
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.note("lock");
        self.memory.lock().await
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_first_callers_look_once_into_the_store_and_are_told_of_once() {
    let looks: &[_] = &["lock", "load"];
    let saves: &[_] = &["lock", "load", "save"];
    for (stored, failure, calls, event, asked) in [
        (Some("good"), None, looks, "issued", (0, 0)),
        (Some("expired"), None, saves, "issued", (0, 1)),
        (None, None, saves, "issued", (1, 0)),
        (None, Some(Failure::Reset), looks, "failed", (1, 0)),
        (None, Some(Failure::OAuth("invalid_grant")), looks, "login required", (1, 0)),
    ] {
        let (authority, store) = (ModelAuthority::new(), Noting::default());
        if let Some(age) = stored {
            let before = Session::builder(authority.source()).store(store.memory.clone()).build();
            before.token().await.unwrap();
            if age == "expired" {
                let mut record = store.memory.load().await.unwrap().unwrap();
                record.token.as_mut().unwrap().expires_at = Some(SystemTime::UNIX_EPOCH);
                store.memory.save(&record, None).await.unwrap();
            }
        }
        if let Some(failure) = failure {
            authority.fail_next(Endpoint::Login, failure);
        }
        let before = authority.counts();
        let events = Arc::new(Mutex::new(Vec::new()));
        let noted = events.clone();
        let observer = move |event: &Event<'_>| {
            noted.lock().unwrap().push(match event {
                Event::Issued { .. } => "issued",
                Event::RefreshFailed { .. } => "failed",
                Event::LoginRequired { .. } => "login required",
                _ => "another",
            });
        };
        let session = |session: SessionBuilder| session.store(store.clone()).observer(observer);
        let world = World::with(authority, session, |layer| layer);
        let ask = async || {
            let (start, token, answer) =
                tokio::join!(world.session.start(), world.session.token(), world.get("/"));
            let answer = answer.is_ok_and(|answer| answer.status() == StatusCode::OK);
            [start.is_ok(), token.is_ok(), answer]
        };
        let succeeds = event == "issued";
        for _ in 0..if succeeds { 3 } else { 1 } {
            for answers in join_all((0..50).map(|_| ask())).await {
                assert_eq!(answers, [succeeds; 3], "{stored:?} {event}");
            }
            assert_eq!(*store.asked.lock().unwrap(), calls, "{stored:?} {event}");
            assert_eq!(*events.lock().unwrap(), [event], "{stored:?}");
        }
        let counts = world.authority.counts();
        assert_eq!((counts.logins - before.logins, counts.refreshes - before.refreshes), asked);
    }
}
