//! Sessions on one store that tells of changes.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::task::yield_now;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchContext, FetchError, RefreshFailure, Session, Token,
    event::Event,
    session::{Changes, SessionBuilder, State},
    source_fn,
    store::{Lease, MemoryStore, Record, SessionId, StoredToken, TokenStore},
    test_util::{Endpoint, Gate, ModelAuthority, Phase, Rotation, TestClock},
};

use crate::{
    runtimes::runtime,
    script::{outcome, within},
    storage::prolonged,
    watched::{Fault, Watched},
    world::{World, post},
};

/// A session that fetches `NAME-1`, `NAME-2`, …
fn session(name: &'static str, store: impl TokenStore) -> Session {
    builder(name, store).build()
}

fn builder(name: &'static str, store: impl TokenStore) -> SessionBuilder {
    let fetched = AtomicUsize::new(0);
    let source = source_fn(move |_: FetchContext| {
        let number = fetched.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok::<_, FetchError>(Token::new(format!("{name}-{number}"))))
    });
    Session::builder(source).store(store)
}

async fn access(session: &Session) -> String {
    session.token().await.unwrap().access().expose().to_owned()
}

async fn next(changes: &mut Changes) -> State {
    within(changes.next()).await.expect("the session is there")
}

#[tokio::test(start_paused = true)]
async fn a_siblings_refresh_is_used_at_once_and_costs_no_refusal() {
    let store = MemoryStore::new();
    let (one, other) = (session("one", store.clone()), session("other", store.clone()));
    assert_eq!((access(&one).await, access(&other).await), ("one-1".into(), "one-1".into()));
    let mut changes = other.subscribe();
    let before = next(&mut changes).await;
    one.refresh().await.unwrap();
    let after = next(&mut changes).await;
    assert!(matches!((before, after), (State::Issued(old), State::Issued(new)) if new > old));
    assert_eq!(access(&other).await, "one-2");
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_of_a_token_that_a_sibling_has_replaced_costs_no_fetch_and_is_not_resent_as_somebody_else()
 {
    for logs_in in [false, true] {
        let store = MemoryStore::new();
        let authority = ModelAuthority::new().account("bob", "builder").newest_only();
        let world = || World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
        let (ours, sibling) = (world(), world());
        ours.session.token().await.unwrap();
        sibling.session.token().await.unwrap();
        let late = ours.api.hold_path(Phase::Judge, "/late");
        let mut request = task::spawn(ours.send(post("/late", "an order")));
        assert_pending!(request.poll());
        within(late.waiting(1)).await;
        let mut changes = ours.session.subscribe();
        next(&mut changes).await;
        if logs_in {
            authority.revoke_access();
            let bob = authority.login_as("bob", "builder").await.unwrap();
            sibling.session.login(bob).await.unwrap();
        } else {
            sibling.session.refresh().await.unwrap();
        }
        next(&mut changes).await;
        late.open();
        let response = within(request).await.unwrap();
        let failure = response.extensions().get::<RefreshFailure>().map(|failure| failure.error().kind());
        let answer = (response.status(), outcome(&response).attempts(), failure);
        let expected = if logs_in {
            (StatusCode::UNAUTHORIZED, 1, Some(ErrorKind::SessionChanged))
        } else {
            (StatusCode::OK, 2, None)
        };
        assert_eq!(answer, expected);
        assert_eq!(authority.counts().refreshes, usize::from(!logs_in));
    }
}

#[tokio::test(start_paused = true)]
async fn an_arc_of_a_store_is_one_store_for_several_sessions() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (session("one", store.clone()), session("other", store.clone()));
    assert_eq!((access(&one).await, access(&other).await), ("one-1".into(), "one-1".into()));
    let mut changes = other.subscribe();
    next(&mut changes).await;
    one.refresh().await.unwrap();
    next(&mut changes).await;
    assert_eq!(access(&other).await, "one-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_sibling_has_had_prolonged_lives_longer_at_once() {
    let clock = TestClock::new();
    let (sessions, fetches) = prolonged(MemoryStore::new(), &clock).await;
    let mut changes = sessions[1].subscribe();
    let before = next(&mut changes).await;
    clock.advance(Duration::from_secs(1));
    sessions[0].refresh().await.unwrap();
    let after = next(&mut changes).await;
    assert!(matches!((before, after), (State::Issued(old), State::Issued(new)) if new > old));
    assert_eq!(fetches.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_siblings_login_and_logout_are_ours_at_once() {
    let store = MemoryStore::new();
    let (one, other) = (session("one", store.clone()), session("other", store.clone()));
    assert_eq!((access(&one).await, access(&other).await), ("one-1".into(), "one-1".into()));
    let mut changes = other.subscribe();
    next(&mut changes).await;
    one.login(Token::new("of-bob")).await.unwrap();
    next(&mut changes).await;
    assert_eq!(access(&other).await, "of-bob");
    one.logout().await.unwrap();
    assert_eq!(next(&mut changes).await, State::LoggedOut);
    assert_eq!(other.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_siblings_login_ends_a_logout_and_a_dead_session() {
    for logs_out in [false, true] {
        let store = MemoryStore::new();
        let dead = Session::builder(source_fn(|_: FetchContext| async {
            Err::<Token, _>(FetchError::login_required("the grant is over"))
        }))
        .store(store.clone())
        .build();
        if logs_out {
            dead.logout().await.unwrap();
        } else {
            dead.token().await.unwrap_err();
        }
        let mut changes = dead.subscribe();
        next(&mut changes).await;
        session("other", store).login(Token::new("of-bob")).await.unwrap();
        assert!(matches!(next(&mut changes).await, State::Issued(_)));
        assert_eq!(access(&dead).await, "of-bob");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_sibling_still_saves_of_the_session_does_not_undo_a_logout() {
    let store = MemoryStore::new();
    let ours = session("ours", store.clone());
    access(&ours).await;
    ours.logout().await.unwrap();
    let left = store.load().await.unwrap().unwrap();
    let late = Record::new(left.session, left.revision + 5, StoredToken::new("late"));
    store.save(&late, None).await.unwrap();
    let mut looks = ours.subscribe();
    next(&mut looks).await;
    let mut undone = task::spawn(looks.next());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_pending!(undone.poll());
    assert_eq!(ours.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_siblings_login_during_a_refresh_of_ours_is_noticed_after_it() {
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let held = gate.clone();
    let ours = Session::builder(source_fn(move |_: FetchContext| {
        let held = held.clone();
        async move {
            held.pass().await;
            Ok::<_, FetchError>(Token::new("of-alice"))
        }
    }))
    .store(store.clone())
    .build();
    let mut refresh = task::spawn(ours.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    session("other", store).login(Token::new("of-bob")).await.unwrap();
    gate.open();
    within(refresh).await.unwrap();
    let mut changes = ours.subscribe();
    while access(&ours).await != "of-bob" {
        next(&mut changes).await;
    }
}

/// Calls for a look all the time or never, and counts the looks.
#[derive(Clone, Default)]
struct Restless {
    memory: MemoryStore,
    loads: Arc<AtomicUsize>,
    panics: bool,
    is_quiet: bool,
    alive: Arc<()>,
}

impl TokenStore for Restless {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.memory.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.memory.lock().await
    }

    async fn changed(&self, _: u64) {
        assert!(!self.panics, "a store that panics");
        if self.is_quiet {
            pending().await
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_calls_without_news_or_panics_is_looked_into_now_and_then() {
    for panics in [false, true] {
        let store = Restless { panics, ..Restless::default() };
        let session = session("ours", store.clone());
        access(&session).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let loads = store.loads.load(Ordering::SeqCst);
        assert!((2..=725).contains(&loads), "{loads} loads in an hour");
        assert_eq!(access(&session).await, "ours-1");
    }
}

#[tokio::test(start_paused = true)]
async fn how_often_a_store_is_looked_into_that_calls_without_news_does_not_depend_on_its_time_limit() {
    let store = Restless::default();
    let session = builder("ours", store.clone()).store_timeout(Duration::from_millis(1)).unwrap().build();
    access(&session).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let loads = store.loads.load(Ordering::SeqCst);
    assert!((2..=20).contains(&loads), "{loads} loads in a minute");
}

/// Tells of changes, and fails to load when it is told to.
struct Ailing(MemoryStore, Arc<AtomicBool>);

impl TokenStore for Ailing {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        if self.1.swap(false, Ordering::SeqCst) {
            return Err("it is ill".into());
        }
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.0.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.0.lock().await
    }

    async fn changed(&self, known: u64) {
        self.0.changed(known).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_is_made_again_soon_whatever_the_time_limit() {
    let (store, fails) = (MemoryStore::new(), Arc::new(AtomicBool::new(false)));
    let sibling = session("sibling", store.clone());
    let ours = builder("ours", Ailing(store, fails.clone())).store_timeout(Duration::MAX).unwrap().build();
    assert_eq!(access(&ours).await, "ours-1");
    tokio::time::sleep(Duration::from_secs(60)).await;
    fails.store(true, Ordering::SeqCst);
    sibling.login(Token::new("of-bob")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!fails.load(Ordering::SeqCst), "the look has failed");
    assert_eq!(access(&ours).await, "of-bob");
}

#[tokio::test(start_paused = true)]
async fn nobody_follows_the_store_of_a_session_that_is_gone() {
    for is_quiet in [false, true] {
        let store = Restless { is_quiet, ..Restless::default() };
        let session = session("ours", store.clone());
        access(&session).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(Arc::strong_count(&store.alive) > 1);
        drop(session);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(Arc::strong_count(&store.alive), 1, "a store that never calls: {is_quiet}");
    }
}

#[test]
fn the_store_is_followed_again_on_the_next_runtime() {
    let store = MemoryStore::new();
    let (one, other) = (session("one", store.clone()), session("other", store));
    runtime().block_on(async { assert_eq!(access(&one).await, access(&other).await) });
    runtime().block_on(async {
        other.refresh().await.unwrap();
        let mut changes = other.subscribe();
        next(&mut changes).await;
        one.login(Token::new("of-bob")).await.unwrap();
        next(&mut changes).await;
        assert_eq!(access(&other).await, "of-bob");
    });
}

#[test]
fn the_store_is_followed_on_each_runtime_that_is_used_although_one_before_is_not_driven_any_more() {
    let store = MemoryStore::new();
    let (ours, sibling) = (session("ours", store.clone()), session("sibling", store));
    let undriven = runtime();
    undriven.block_on(access(&ours));
    runtime().block_on(async {
        ours.refresh().await.unwrap();
        let mut changes = ours.subscribe();
        next(&mut changes).await;
        sibling.login(Token::new("of-bob")).await.unwrap();
        next(&mut changes).await;
        assert_eq!(access(&ours).await, "of-bob");
    });
}

/// Holds saves, and a look that follows a change: before it loads, or with what it has loaded.
#[derive(Clone, Default)]
struct Slow {
    memory: MemoryStore,
    hold_save: Arc<Mutex<Option<Gate>>>,
    hold_look: Arc<Mutex<Option<Gate>>>,
    hold_looked: Arc<Mutex<Option<Gate>>>,
    looks: Arc<AtomicBool>,
}

async fn pass(gate: &Mutex<Option<Gate>>) {
    let gate = gate.lock().unwrap().clone();
    if let Some(gate) = gate {
        gate.pass().await;
    }
}

fn hold(gate: &Mutex<Option<Gate>>) -> Gate {
    gate.lock().unwrap().insert(Gate::new()).clone()
}

impl TokenStore for Slow {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        if !self.looks.swap(false, Ordering::SeqCst) {
            return self.memory.load().await;
        }
        pass(&self.hold_look).await;
        let loaded = self.memory.load().await;
        pass(&self.hold_looked).await;
        loaded
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        pass(&self.hold_save).await;
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.memory.lock().await
    }

    async fn changed(&self, known: u64) {
        self.memory.changed(known).await;
        self.looks.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn what_we_have_saved_ourselves_is_never_taken_for_a_siblings() {
    const MOMENT: Duration = Duration::from_millis(1);
    let store = Slow::default();
    let others = session("other", store.memory.clone());
    for number in 0..5 {
        others.login(Token::new(format!("before-{number}"))).await.unwrap();
    }
    let issued = Arc::new(AtomicUsize::new(0));
    let counted = issued.clone();
    let ours =
        Session::builder(source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("never")) }))
            .store(store.clone())
            .observer(move |event: &Event<'_>| {
                counted.fetch_add(usize::from(matches!(event, Event::Issued { .. })), Ordering::SeqCst);
            })
            .build();
    let first_save = hold(&store.hold_save);
    let mut login = task::spawn(ours.login(Token::new("first")));
    assert_pending!(login.poll());
    within(first_save.waiting(1)).await;
    let mut replace = task::spawn(ours.replace(Token::new("second")));
    assert_pending!(replace.poll());
    let (second_save, look) = (hold(&store.hold_save), hold(&store.hold_looked));
    first_save.open();
    within(second_save.waiting(1)).await;
    tokio::time::sleep(MOMENT).await;
    second_save.open();
    tokio::time::sleep(MOMENT).await;
    look.open();
    within(login).await.unwrap();
    within(replace).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    assert_eq!(access(&ours).await, "second");
    assert_eq!(issued.load(Ordering::SeqCst), 2, "the first was not gone back to");
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_was_found_too_late_to_be_taken_is_looked_for_again() {
    let store = Slow::default();
    let (ours, sibling) = (session("ours", store.clone()), session("sibling", store.memory.clone()));
    assert_eq!((access(&ours).await, access(&sibling).await), ("ours-1".into(), "ours-1".into()));
    let look = hold(&store.hold_look);
    sibling.login(Token::new("of-bob")).await.unwrap();
    within(look.waiting(1)).await;
    ours.refresh().await.unwrap();
    assert_eq!(access(&ours).await, "of-bob", "a refresh was faster than the look");
    sibling.logout().await.unwrap();
    let mut changes = ours.subscribe();
    next(&mut changes).await;
    look.open();
    assert_eq!(next(&mut changes).await, State::LoggedOut);
}

/// Its source goes with it.
#[tokio::test(start_paused = true)]
async fn a_session_that_owes_something_is_not_kept_by_whoever_follows_its_store() {
    let store = MemoryStore::new();
    session("before", store.clone()).token().await.unwrap();
    let alive = Arc::new(());
    let held = alive.clone();
    let source = source_fn(move |_| {
        let _held = &held;
        async { Ok(Token::new("token")) }
    });
    let session = Session::builder(source).store(ReadOnly(store)).build();
    session.login(Token::new("of-bob")).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(session);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// Whoever follows the store stands on a runtime that nobody drives any more.
#[test]
fn a_kept_lease_ends_with_the_session_wherever_its_store_is_followed() {
    let store = MemoryStore::new();
    let (undriven, here) = (runtime(), runtime());
    let login = Token::new("of-bob").refresh_token("spent");
    here.block_on(session("before", store.clone()).login(login)).unwrap();
    let source = source_fn(|_| async { Ok(Token::new("refreshed").refresh_token("next")) });
    let session = Session::builder(source).store(ReadOnly(store.clone())).build();
    undriven.block_on(async {
        assert_eq!(access(&session).await, "of-bob");
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    here.block_on(async {
        session.refresh().await.unwrap();
        assert_pending!(task::spawn(store.lock()).poll(), "it is kept");
        drop(session);
        drop(within(store.lock()).await.unwrap());
    });
}

/// Tells of changes, and takes none.
struct ReadOnly(MemoryStore);

impl TokenStore for ReadOnly {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await
    }

    async fn save(&self, _: &Record, _: Option<u64>) -> Result<(), BoxError> {
        Err("read-only".into())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.0.lock().await
    }

    async fn changed(&self, known: u64) {
        self.0.changed(known).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ask_for_a_longer_life_than_there_is_do_not_refresh_in_turn() {
    let store = MemoryStore::new();
    let fetches = Arc::new(AtomicUsize::new(0));
    let session = || {
        let fetches = fetches.clone();
        let source = source_fn(move |_| {
            let number = fetches.fetch_add(1, Ordering::SeqCst);
            async move { Ok(Token::new(format!("token-{number}")).expires_in(Duration::from_secs(1800))) }
        });
        Session::builder(source).store(store.clone()).build()
    };
    let sessions = [session(), session()];
    for _ in 0..10 {
        for session in &sessions {
            session.token_valid_for(Duration::from_secs(3600)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 2, "the second knew nothing of the first token's life");
}

/// A session whose fetch waits at the gate, and what it offers to whoever can revoke it.
fn held(store: &Watched) -> (Session, Gate, Arc<Mutex<Vec<String>>>) {
    let (gate, discarded) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let (held, revoked) = (gate.clone(), discarded.clone());
    let source = source_fn(move |context: FetchContext| {
        let gate = held.clone();
        async move {
            context.refresh_token();
            gate.pass().await;
            Ok::<_, FetchError>(Token::new("refreshed").refresh_token("R2"))
        }
    });
    let session = Session::builder(source)
        .store(store.clone())
        .revoke_with(move |token| {
            revoked.lock().unwrap().push(token.access().expose().to_owned());
            std::future::ready(())
        })
        .build();
    (session, gate, discarded)
}

/// Two sessions on a store that tells of nothing. The first has a refresh under way when the second one changes.
async fn superseded(change: impl AsyncFnOnce(&Session)) -> (Result<String, ErrorKind>, Session, Vec<String>) {
    let store = Watched::default();
    let (ours, gate, discarded) = held(&store);
    ours.login(Token::new("of-alice").refresh_token("R1")).await.unwrap();
    let sibling = session("sibling", store.clone());
    sibling.token().await.unwrap();
    let mut refresh = task::spawn(ours.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    change(&sibling).await;
    gate.open();
    let refreshed = within(refresh).await.map(|token| token.access().expose().to_owned());
    yield_now().await;
    let discarded = discarded.lock().unwrap().clone();
    (refreshed.map_err(|error| error.kind()), ours, discarded)
}

#[tokio::test(start_paused = true)]
async fn whose_refresh_is_superseded_goes_on_with_the_login_that_superseded_it() {
    let login = async |sibling: &Session| sibling.login(Token::new("of-bob")).await.unwrap();
    let (refreshed, ours, discarded) = superseded(login).await;
    assert_eq!(refreshed.as_deref(), Ok("of-bob"));
    assert_eq!(access(&ours).await, "of-bob");
    assert_eq!(discarded, ["refreshed"]);
}

#[tokio::test(start_paused = true)]
async fn whose_refresh_is_superseded_by_a_logout_is_logged_out() {
    let (refreshed, ours, discarded) = superseded(async |sibling| sibling.logout().await.unwrap()).await;
    assert_eq!(refreshed, Err(ErrorKind::SessionEnded));
    assert_eq!(ours.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(discarded, ["refreshed"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_superseded_by_a_login_with_the_same_grant_is_not_revoked() {
    let login = async |sibling: &Session| {
        sibling.login(Token::new("of-alice-again").refresh_token("R1")).await.unwrap();
    };
    let (refreshed, _, discarded) = superseded(login).await;
    assert_eq!(refreshed.as_deref(), Ok("refreshed"), "the refresh token of the login is spent");
    assert_eq!(discarded, [""; 0]);
}

/// An application that keeps the grant itself hands it over at each start.
#[tokio::test(start_paused = true)]
async fn a_siblings_login_with_the_refresh_token_that_is_being_spent_gets_the_next_one() {
    for (is_whole, is_saved_late) in [(true, false), (true, true), (false, false), (false, true)] {
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let store = Watched::default();
        let [ours, sibling] =
            [(); 2].map(|()| Session::builder(authority.source()).store(store.clone()).build());
        let grant = authority.login().await.unwrap();
        ours.login(grant.clone()).await.unwrap();
        let gate = authority.hold(Endpoint::Refresh);
        let mut refresh = task::spawn(ours.refresh());
        assert_pending!(refresh.poll());
        within(gate.waiting(1)).await;
        let refresh_token = grant.refresh().unwrap().expose();
        let again =
            if is_whole { grant.clone() } else { Token::new("elsewhere").refresh_token(refresh_token) };
        sibling.login(again).await.unwrap();
        let login = store.load().await.unwrap().unwrap();
        if is_saved_late {
            store.set(|store| store.save = Fault::Error);
        }
        gate.open();
        let refreshed = within(refresh).await.unwrap();
        store.set(|store| store.save = Fault::None);
        within(ours.settle()).await.unwrap();
        let stored = store.load().await.unwrap().unwrap();
        assert_eq!(stored.session, login.session);
        assert!(stored.revision > login.revision);
        let expected = if is_whole { refreshed.access().expose() } else { "elsewhere" };
        assert_eq!(store.access().await.as_deref(), Some(expected), "{is_whole} {is_saved_late}");

        assert_eq!(access(&ours).await, refreshed.access().expose());
        assert_eq!(
            within(ours.refresh()).await.unwrap().access().expose(),
            expected,
            "it goes over to the login"
        );
        let next = within(ours.refresh()).await.unwrap();
        assert_eq!(within(sibling.refresh()).await.unwrap().access().expose(), next.access().expose());
        within(sibling.refresh()).await.unwrap();
        let counts = authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (3, 0, 0));
    }
}

/// A process that has had no token yet refreshes what it has found in the store.
#[tokio::test(start_paused = true)]
async fn the_first_refresh_of_a_process_is_superseded_as_any_other() {
    for (logs_out, expected) in [(true, Err(ErrorKind::SessionEnded)), (false, Ok("of-bob".to_owned()))] {
        let store = Watched::default();
        let mut token = StoredToken::new("of-yesterday");
        token.refresh = Some("R1".into());
        token.expires_at = Some(SystemTime::UNIX_EPOCH);
        store.save(&Record::new(SessionId(1), 5, token), None).await.unwrap();
        let (ours, gate, discarded) = held(&store);
        let mut first = task::spawn(ours.token());
        assert_pending!(first.poll());
        within(gate.waiting(1)).await;
        let sibling = session("sibling", store.clone());
        if logs_out {
            sibling.logout().await.unwrap();
        } else {
            sibling.login(Token::new("of-bob")).await.unwrap();
        }
        gate.open();
        let first = within(first).await.map(|token| token.access().expose().to_owned());
        assert_eq!(first.map_err(|error| error.kind()), expected);
        yield_now().await;
        assert_eq!(*discarded.lock().unwrap(), ["refreshed"]);
    }
}

/// Where only the newest token is good, that is the one which was fetched last, whoever has saved first.
#[tokio::test(start_paused = true)]
async fn what_a_siblings_refresh_has_superseded_is_used_by_those_who_wait_for_it() {
    let (store, gate) = (Watched::default(), Gate::new());
    let held = gate.clone();
    let source = source_fn(move |_: FetchContext| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            Ok::<_, FetchError>(Token::new("ours-2"))
        }
    });
    let (ours, sibling) =
        (Session::builder(source).store(store.clone()).build(), session("sibling", store.clone()));
    ours.login(Token::new("ours-1")).await.unwrap();
    assert_eq!(access(&sibling).await, "ours-1");
    let mut refresh = task::spawn(ours.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    assert_eq!(sibling.refresh().await.unwrap().access().expose(), "sibling-1");
    gate.open();
    assert_eq!(within(refresh).await.unwrap().access().expose(), "ours-2");
    // The next one goes over to what is in the store.
    assert_eq!(ours.refresh().await.unwrap().access().expose(), "sibling-1");
    assert_eq!(store.access().await.as_deref(), Some("sibling-1"));
}

/// The store has it and has not said so: what was owed gives way to itself.
#[tokio::test(start_paused = true)]
async fn a_refresh_after_one_whose_save_was_not_answered_is_a_siblings_at_once_too() {
    for is_retried in [false, true] {
        let store = Watched::default();
        store.set(|store| store.tells = true);
        let (one, other) = (session("one", store.clone()), session("other", store.clone()));
        assert_eq!((access(&one).await, access(&other).await), ("one-1".into(), "one-1".into()));
        let mut changes = other.subscribe();
        next(&mut changes).await;
        store.set(|store| store.save_is_unanswered = true);
        one.refresh().await.unwrap();
        store.set(|store| store.save_is_unanswered = false);
        next(&mut changes).await;
        assert_eq!(access(&other).await, "one-2");
        if is_retried {
            tokio::time::advance(Duration::from_secs(600)).await;
        }
        one.refresh().await.unwrap();
        within(next(&mut changes)).await;
        assert_eq!(access(&other).await, "one-3", "{is_retried}");
    }
}

/// Held calls of it answer some turns of the runtime later.
#[derive(Clone, Default)]
struct Turning {
    memory: MemoryStore,
    hold_load: Arc<Mutex<Option<Gate>>>,
    hold_lock: Arc<Mutex<Option<Gate>>>,
}

async fn pass_and_turn(gate: &Mutex<Option<Gate>>) {
    if gate.lock().unwrap().is_some() {
        pass(gate).await;
        for _ in 0..10 {
            yield_now().await;
        }
    }
}

impl TokenStore for Turning {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let loaded = self.memory.load().await;
        pass_and_turn(&self.hold_load).await;
        loaded
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.memory.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        let lease = self.memory.lock().await;
        pass_and_turn(&self.hold_lock).await;
        lease
    }
}

/// Its timers are at their end before it has heard of the store.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_in_a_call_of_the_store_hears_what_that_has_answered() {
    type Held = fn(&Turning) -> Gate;
    let cases: [(Held, bool); 2] =
        [(|store| hold(&store.hold_load), true), (|store| hold(&store.hold_lock), false)];
    for (held, has_sibling_refreshed) in cases {
        let (store, authority) = (Turning::default(), ModelAuthority::new());
        let built = || Session::builder(authority.source()).store(store.clone()).build();
        let (ours, sibling) = (built(), built());
        ours.login(authority.login().await.unwrap()).await.unwrap();
        if has_sibling_refreshed {
            sibling.refresh().await.unwrap();
        }
        let gate = held(&store);
        let refreshing = tokio::spawn({
            let ours = ours.clone();
            async move { ours.refresh().await }
        });
        gate.arrived(1).await;
        gate.open();
        tokio::time::advance(Duration::from_secs(3600)).await;
        let token = refreshing.await.unwrap().unwrap();
        assert!(authority.is_alive(token.access().expose()));
        assert_eq!(authority.counts().presented_again(), 0);
    }
}
