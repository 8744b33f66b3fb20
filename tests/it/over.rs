//! A session that is over, on a store that does not tell of changes: somebody may log in elsewhere.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, Session, Token, TokenRefreshLayer,
    event::Event,
    session::State,
    source_fn,
    store::{Lease, MemoryStore, Record, SessionId, StoredToken, TokenStore},
    test_util::Gate,
};

use crate::{
    script::{Lab, numbered, status, until, within},
    watched::{Fault, Watched},
    world::{get, origin},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Counts the looks, and tells of nothing.
#[derive(Clone, Default)]
pub(crate) struct Silent {
    memory: MemoryStore,
    pub(crate) loads: Arc<AtomicUsize>,
}

impl TokenStore for Silent {
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
}

type Noted = Arc<Mutex<Vec<String>>>;

/// A session whose authority knows no refresh token but `good`, and what was presented to it.
fn session(store: &(impl TokenStore + Clone)) -> (Session, Noted) {
    let noted = Noted::default();
    let notes = noted.clone();
    let source = source_fn(move |context: FetchContext| {
        let presented = context.refresh_token().map_or("nothing", |token| token.expose()).to_owned();
        notes.lock().unwrap().push(presented.clone());
        async move {
            match presented.as_str() {
                "good" => Ok(Token::new("refreshed")),
                _ => Err(FetchError::login_required("the grant is over")),
            }
        }
    });
    (Session::builder(source).store(store.clone()).build(), noted)
}

/// A session that is dead, or was logged out elsewhere.
async fn over(store: &Silent, is_logged_out: bool) -> (Session, Noted) {
    let (daemon, noted) = session(store);
    daemon.login(Token::new("first").refresh_token("bad")).await.unwrap();
    if is_logged_out {
        session(store).0.logout().await.unwrap();
    }
    let kind = if is_logged_out { ErrorKind::SessionEnded } else { ErrorKind::LoginRequired };
    assert_eq!(daemon.refresh().await.unwrap_err().kind(), kind);
    (daemon, noted)
}

async fn access(session: &Session) -> String {
    session.token().await.unwrap().access().expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_login_elsewhere_is_found_by_the_next_who_asks() {
    for is_logged_out in [false, true] {
        // Of one that has expired meanwhile the refresh token is good, as it is of another identity that is gone over to.
        for (lives, refreshes, expected) in [(2 * HOUR, 1, "second"), (HOUR / 2, 2, "refreshed")] {
            let store = Silent::default();
            let (daemon, _) = over(&store, is_logged_out).await;
            let token = Token::new("second").refresh_token("good").expires_in(lives);
            session(&store).0.login(token).await.unwrap();
            sleep(HOUR).await;
            for _ in 0..refreshes {
                within(daemon.refresh()).await.unwrap();
            }
            assert_eq!(access(&daemon).await, expected, "logged out: {is_logged_out}");
        }
    }
}

/// A refused request that finds the logout does not look for a login, too.
#[tokio::test(start_paused = true)]
async fn a_login_right_after_a_logout_elsewhere_is_found_by_the_next_who_asks() {
    let store = Silent::default();
    let (daemon, _) = session(&store);
    daemon.login(Token::new("first").refresh_token("good")).await.unwrap();
    session(&store).0.logout().await.unwrap();
    let script = Lab::new([status(401)]).script();
    let client = TokenRefreshLayer::new(daemon.clone(), origin()).layer(script);
    let refused = within(client.oneshot(get("/me"))).await;
    assert_eq!(Error::of(&refused).unwrap().kind(), ErrorKind::SessionEnded);
    sleep(Duration::from_millis(100)).await;
    session(&store).0.login(Token::new("second")).await.unwrap();
    assert_eq!(access(&daemon).await, "second");
}

/// Nobody asks the store for a session that has logged itself out: it is told of the login once.
#[tokio::test(start_paused = true)]
async fn a_login_elsewhere_ends_a_logout_although_its_access_token_has_died_before_that_was_heard_of() {
    for elsewhere_first in [false, true] {
        let store = Watched::default();
        store.set(|store| store.tells = true);
        let daemon = session(&store).0;
        daemon.login(Token::new("first").refresh_token("good")).await.unwrap();
        if elsewhere_first {
            session(&store).0.logout().await.unwrap();
            sleep(HOUR).await;
        }
        daemon.logout().await.unwrap();
        let mut expired = StoredToken::new("second");
        (expired.refresh, expired.expires_at) = (Some("good".into()), Some(SystemTime::UNIX_EPOCH));
        let logout = store.load().await.unwrap().unwrap();
        store.save(&Record::new(SessionId(7), logout.revision + 1, expired), None).await.unwrap();
        sleep(HOUR).await;
        assert_eq!(access(&daemon).await, "refreshed", "logged out elsewhere first: {elsewhere_first}");
    }
}

/// A source that logs in, and never looks at the refresh token that it is handed.
#[tokio::test(start_paused = true)]
async fn a_dead_session_does_not_take_its_own_stored_refresh_token_for_a_login_elsewhere() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let source = source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<Token, _>(FetchError::login_required("wrong password")) }
    });
    let session = Session::builder(source).store(Silent::default()).build();
    session.login(Token::new("first").refresh_token("nobody's")).await.unwrap();
    for _ in 0..5 {
        assert!(session.refresh().await.unwrap_err().is_login_required());
        sleep(HOUR).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Whoever logs out need not have looked whose session that was, and what is logged out may be a later one than ours.
#[tokio::test(start_paused = true)]
async fn what_a_sibling_still_saves_of_the_session_ends_its_death_and_undoes_no_logout() {
    for logged_out_after in [None, Some("nothing"), Some("a look"), Some("a login")] {
        let store = Silent::default();
        let [daemon, sibling, elsewhere] = std::array::from_fn(|_| session(&store).0);
        daemon.login(Token::new("first").refresh_token("bad")).await.unwrap();
        match logged_out_after {
            Some("a look") => assert_eq!(access(&elsewhere).await, "first"),
            Some("a login") => elsewhere.login(Token::new("of-bob")).await.unwrap(),
            _ => {}
        }
        access(&sibling).await;
        if logged_out_after.is_some() {
            elsewhere.logout().await.unwrap();
        }
        assert!(daemon.refresh().await.unwrap_err().is_login_required());
        sibling.replace(Token::new("second").refresh_token("good")).await.unwrap();
        sleep(HOUR).await;
        let found = within(daemon.refresh()).await.map(|token| token.access().expose().to_owned());
        let is_over = found.as_ref().is_err_and(|error| error.kind() == ErrorKind::SessionEnded);
        match logged_out_after {
            None => assert_eq!(found.unwrap(), "second"),
            Some(after) => assert!(is_over, "logged out after {after}: {found:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_a_session_that_is_over_costs_a_look_now_and_then_and_nothing_else() {
    for is_logged_out in [false, true] {
        let store = Silent::default();
        let (daemon, noted) = over(&store, is_logged_out).await;
        let (presented, looks) = (noted.lock().unwrap().clone(), store.loads.load(Ordering::SeqCst));
        let state = if is_logged_out { State::LoggedOut } else { State::LoginRequired };
        let mut changes = daemon.subscribe();
        assert_eq!(changes.next().await, Some(state));
        let following = tokio::spawn(async move { changes.next().await });
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            assert!(within(daemon.refresh()).await.unwrap_err().is_login_required());
        }
        let looks = store.loads.load(Ordering::SeqCst) - looks;
        assert!((11..=13).contains(&looks), "{looks} looks in a minute");
        assert_eq!(*noted.lock().unwrap(), presented, "nobody else was asked");
        assert!(!following.is_finished(), "nothing has changed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_stays_so_for_whoever_waits_for_a_slow_look() {
    let (store, told) = (Watched::default(), Arc::new(AtomicUsize::new(0)));
    let count = told.clone();
    let source = source_fn(|_| async { Err::<Token, _>(FetchError::login_required("over")) });
    let session = Session::builder(source)
        .store(store.clone())
        .refresh_timeout(Duration::from_secs(1))
        .unwrap()
        .observer(move |_: &Event<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .build();
    session.token().await.unwrap_err();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    sleep(HOUR).await;
    let gate = Gate::new();
    store.set(|store| store.hold_load = Some(gate.clone()));
    for _waits in [true, false] {
        assert_eq!(within(session.token()).await.unwrap_err().kind(), ErrorKind::LoginRequired);
        within(gate.waiting(1)).await;
    }
    assert_eq!(told.load(Ordering::SeqCst), 1, "it was told when it happened");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_told_once_however_often_it_looks() {
    let store = Silent::default();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let source = source_fn(|_| async { Err::<Token, _>(FetchError::login_required("over")) });
    let session = Session::builder(source)
        .store(store)
        .observer(move |_: &Event<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .build();
    for _ in 0..3 {
        assert!(session.token().await.unwrap_err().is_login_required());
        sleep(HOUR).await;
    }
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn other_credentials_make_the_next_request_look_at_once() {
    let store = Silent::default();
    let (daemon, _) = over(&store, true).await;
    assert_eq!(daemon.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    session(&store).0.login(Token::new("second")).await.unwrap();
    assert_eq!(daemon.token().await.unwrap_err().kind(), ErrorKind::SessionEnded, "it has just looked");
    daemon.credentials_changed();
    assert_eq!(access(&daemon).await, "second");
}

#[tokio::test(start_paused = true)]
async fn other_credentials_that_come_during_a_look_make_the_next_request_look_at_once() {
    let (store, gate) = (Watched::default(), Gate::new());
    let [daemon, elsewhere] = std::array::from_fn(|_| numbered().0.store(store.clone()).build());
    daemon.login(Token::new("first")).await.unwrap();
    elsewhere.logout().await.unwrap();
    assert_eq!(daemon.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    sleep(HOUR).await;
    store.set(|store| store.hold_load = Some(gate.clone()));
    let mut looks = task::spawn(daemon.token());
    assert_pending!(looks.poll());
    within(gate.waiting(1)).await;
    store.set(|store| store.hold_load = None);
    elsewhere.login(Token::new("second")).await.unwrap();
    daemon.credentials_changed();
    gate.open();
    assert_eq!(within(looks).await.unwrap_err().kind(), ErrorKind::SessionEnded, "it had looked before");
    assert_eq!(access(&daemon).await, "second");
}

#[tokio::test(start_paused = true)]
async fn other_credentials_that_come_during_a_look_are_asked_for_at_once() {
    let (store, gate) = (Watched::default(), Gate::new());
    let are_good = Arc::new(AtomicBool::new(false));
    let good = are_good.clone();
    let source = source_fn(move |_: FetchContext| {
        let is_good = good.load(Ordering::SeqCst);
        async move {
            if is_good { Ok(Token::new("second")) } else { Err(FetchError::login_required("wrong password")) }
        }
    });
    let daemon = Session::builder(source).store(store.clone()).build();
    assert!(daemon.token().await.unwrap_err().is_login_required());
    sleep(HOUR).await;
    store.set(|store| store.hold_load = Some(gate.clone()));
    let mut looks = task::spawn(daemon.token());
    assert_pending!(looks.poll());
    within(gate.waiting(1)).await;
    are_good.store(true, Ordering::SeqCst);
    daemon.credentials_changed();
    let mut next = task::spawn(daemon.token());
    assert_pending!(next.poll());
    gate.open();
    for asked in [next, looks] {
        assert_eq!(within(asked).await.unwrap().access().expose(), "second");
    }
}

/// The token of before is still there; they have asked for another one.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_look_when_other_credentials_come_is_not_content_with_what_was_there() {
    for (is_forced, lives) in [(false, HOUR / 2), (true, 10 * HOUR)] {
        let (store, gate) = (Watched::default(), Gate::new());
        let (are_good, calls) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let good = are_good.clone();
        let source = source_fn(move |_: FetchContext| {
            let (is_good, call) = (good.load(Ordering::SeqCst), calls.fetch_add(1, Ordering::SeqCst));
            async move {
                if is_good || call == 0 {
                    return Ok(Token::new(format!("token-{call}")).expires_in(lives));
                }
                Err(FetchError::login_required("wrong password"))
            }
        });
        let daemon = Session::builder(source).store(store.clone()).build();
        daemon.token().await.unwrap();
        assert!(daemon.refresh().await.unwrap_err().is_login_required());
        sleep(HOUR).await;
        store.set(|store| store.hold_load = Some(gate.clone()));
        let mut looks =
            task::spawn(async { if is_forced { daemon.refresh().await } else { daemon.token().await } });
        assert_pending!(looks.poll());
        within(gate.waiting(1)).await;
        are_good.store(true, Ordering::SeqCst);
        daemon.credentials_changed();
        gate.open();
        assert_eq!(within(looks).await.unwrap().access().expose(), "token-2", "forced: {is_forced}");
    }
}

/// It is another grant, of which nobody has been told yet.
#[tokio::test(start_paused = true)]
async fn how_the_refresh_of_a_login_that_was_found_fails_is_told_and_remembered_as_of_any_other() {
    for (class, state, event) in [
        (FetchError::transient as fn(&'static str) -> _, State::Cooling, "failed"),
        (FetchError::login_required, State::LoginRequired, "login required"),
    ] {
        let (store, told, gate) = (Watched::default(), Noted::default(), Gate::new());
        let (notes, held) = (told.clone(), gate.clone());
        let source = source_fn(move |context: FetchContext| {
            let held = held.clone();
            async move {
                match context.refresh_token().map(|token| token.expose()) {
                    Some("found") => {
                        held.pass().await;
                        Err::<Token, _>(class("of what was found"))
                    }
                    _ => Err(FetchError::login_required("of the first")),
                }
            }
        });
        let observer = move |event: &Event<'_>| {
            let told = match event {
                Event::RefreshFailed { .. } => "failed",
                Event::LoginRequired { .. } => "login required",
                _ => return,
            };
            notes.lock().unwrap().push(told.to_owned());
        };
        let daemon = Session::builder(source).store(store.clone()).observer(observer).build();
        assert!(daemon.token().await.unwrap_err().is_login_required());
        let elsewhere = numbered().0.store(store.clone()).build();
        elsewhere.login(Token::new("second").refresh_token("found")).await.unwrap();
        store.expire().await;
        sleep(HOUR).await;

        let mut changes = daemon.subscribe();
        let mut asks = task::spawn(daemon.token());
        assert_pending!(asks.poll());
        within(gate.waiting(1)).await;
        assert_eq!(changes.next().await, Some(State::Refreshing));
        gate.open();
        let error = within(asks).await.unwrap_err();
        assert_eq!(changes.next().await, Some(state));
        let remembered = daemon.token().await.unwrap_err();
        assert_eq!(remembered.to_string(), error.to_string());
        assert_eq!(*told.lock().unwrap(), ["login required", event]);
    }
}

/// The login that it found in between was of no use to it, because the authority was away.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_logged_out_elsewhere_does_not_log_in_by_itself_when_that_happens_again() {
    let store = Watched::default();
    let source = source_fn(|context: FetchContext| async move {
        match context.refresh_token() {
            Some(_) => Err(FetchError::transient("503")),
            None => Ok(Token::new("by-itself")),
        }
    });
    let daemon = Session::builder(source).store(store.clone()).build();
    let elsewhere = numbered().0.store(store.clone()).build();
    daemon.login(Token::new("first")).await.unwrap();
    elsewhere.logout().await.unwrap();
    assert_eq!(daemon.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    elsewhere.login(Token::new("second").refresh_token("good")).await.unwrap();
    store.expire().await;
    sleep(HOUR).await;
    assert!(daemon.token().await.unwrap_err().is_transient());
    elsewhere.logout().await.unwrap();
    sleep(HOUR).await;
    assert_eq!(daemon.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_asks_for_nothing_when_the_login_that_it_has_found_is_gone_again() {
    for is_logged_out in [false, true] {
        let store = Silent::default();
        let (daemon, noted) = over(&store, is_logged_out).await;
        let presented = noted.lock().unwrap().clone();
        let elsewhere = session(&store).0;
        elsewhere.login(Token::new("second").refresh_token("good")).await.unwrap();
        sleep(HOUR).await;
        // Somebody else is refreshing just now.
        let (lease, looks) = (store.memory.lock().await.unwrap(), store.loads.load(Ordering::SeqCst));
        let mut asks = task::spawn(daemon.refresh());
        assert_pending!(asks.poll());
        until(|| store.loads.load(Ordering::SeqCst) > looks).await;
        elsewhere.logout().await.unwrap();
        drop(lease);
        assert_eq!(within(asks).await.unwrap_err().kind(), ErrorKind::SessionEnded);
        assert_eq!(*noted.lock().unwrap(), presented, "nobody was asked");
        assert!(store.memory.load().await.unwrap().unwrap().token.is_none());
    }
}

/// The next refresh would save that, and a session that is over makes none.
#[tokio::test(start_paused = true)]
async fn a_dead_session_that_owes_a_refresh_without_a_lease_finds_a_login_elsewhere() {
    // That of another grant, and that of the one whose refresh token the debt has spent.
    let logins = [Token::new("third"), Token::new("third").refresh_token("R1")];
    for (tells, login) in
        [false, true].into_iter().flat_map(|tells| logins.clone().map(|login| (tells, login)))
    {
        let store = Watched::default();
        store.set(|store| store.tells = tells);
        let source = source_fn(|context: FetchContext| async move {
            match context.refresh_token().map(|token| token.expose()) {
                Some("R1") => Ok(Token::new("second").refresh_token("R2")),
                _ => Err(FetchError::login_required("the grant is over")),
            }
        });
        let daemon = Session::builder(source).store(store.clone()).build();
        daemon.login(Token::new("first").refresh_token("R1")).await.unwrap();
        sleep(HOUR).await;
        let strike = |fault| store.set(|store| (store.load, store.save, store.lock) = (fault, fault, fault));
        strike(Fault::Error);
        assert_eq!(daemon.refresh().await.unwrap().access().expose(), "second");
        assert!(daemon.refresh().await.unwrap_err().is_login_required());
        strike(Fault::None);
        sleep(HOUR).await;
        numbered().0.store(store.clone()).build().login(login).await.unwrap();
        sleep(HOUR).await;
        if tells {
            assert!(matches!(daemon.subscribe().next().await, Some(State::Issued(_))), "nobody has asked");
        } else {
            daemon.refresh().await.unwrap();
        }
        assert_eq!(access(&daemon).await, "third");
    }
}

async fn is_logged_out_elsewhere(daemon: &Session, sibling: &Session, elsewhere: &Session) {
    daemon.login(Token::new("first")).await.unwrap();
    access(sibling).await;
    elsewhere.logout().await.unwrap();
    assert_eq!(daemon.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

/// The daemon is logged out elsewhere, and finds another login after that, which it cannot refresh.
async fn finds_a_login_that_is_over(
    daemon: &Session,
    sibling: &Session,
    elsewhere: &Session,
    store: &impl TokenStore,
) {
    is_logged_out_elsewhere(daemon, sibling, elsewhere).await;
    let mut expired = StoredToken::new("second");
    (expired.refresh, expired.expires_at) = (Some("bad".into()), Some(SystemTime::UNIX_EPOCH));
    let logout = store.load().await.unwrap().unwrap();
    store.save(&Record::new(SessionId(7), logout.revision + 1, expired), None).await.unwrap();
    sleep(HOUR).await;
    assert_eq!(daemon.token().await.unwrap_err().kind(), ErrorKind::LoginRequired);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_logged_out_elsewhere_takes_nothing_of_before_while_it_waits_for_another_login() {
    for tells in [false, true] {
        let store = Watched::default();
        let silent = Silent { memory: store.memory.clone(), ..Silent::default() };
        store.set(|store| store.tells = tells);
        let (daemon, [sibling, elsewhere]) = (session(&store).0, [&silent; 2].map(|store| session(store).0));
        finds_a_login_that_is_over(&daemon, &sibling, &elsewhere, &store).await;
        sibling.replace(Token::new("third")).await.unwrap();
        sleep(HOUR).await;
        assert!(daemon.token().await.is_err_and(|error| error.is_login_required()), "tells: {tells}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_before_a_logout_is_taken_in_the_place_of_the_next_login_whose_refresh_is_refused() {
    let (store, gate) = (Watched::default(), Gate::new());
    let held = gate.clone();
    let source = source_fn(move |_: FetchContext| {
        let held = held.clone();
        async move {
            held.pass().await;
            Err::<Token, _>(FetchError::login_required("the grant is over"))
        }
    });
    let daemon = Session::builder(source).store(store.clone()).build();
    let [sibling, elsewhere] = [&store; 2].map(|store| session(store).0);
    is_logged_out_elsewhere(&daemon, &sibling, &elsewhere).await;
    elsewhere.login(Token::new("second").refresh_token("bad")).await.unwrap();
    store.expire().await;
    sleep(HOUR).await;
    let mut asks = task::spawn(daemon.token());
    assert_pending!(asks.poll());
    within(gate.waiting(1)).await;
    sibling.replace(Token::new("third")).await.unwrap();
    gate.open();
    assert_eq!(within(asks).await.unwrap_err().kind(), ErrorKind::LoginRequired);
}

/// What the look has found by then is that very login.
#[tokio::test(start_paused = true)]
async fn a_look_that_a_login_has_overtaken_asks_for_no_lease() {
    let store = Watched::default();
    let dead = source_fn(|_| async { Err(FetchError::login_required("the grant is over")) });
    let session = Session::builder(dead).store(store.clone()).build();
    session.login(Token::new("first").refresh_token("bad")).await.unwrap();
    session.refresh().await.unwrap_err();
    sleep(Duration::from_secs(6)).await;
    let gate = Gate::new();
    store.set(|store| store.hold_load = Some(gate.clone()));
    let mut looking = task::spawn(session.refresh());
    assert_pending!(looking.poll());
    gate.arrived(1).await;
    drop(looking);
    store.set(|store| store.hold_load = None);
    session.login(Token::new("second").refresh_token("good")).await.unwrap();
    gate.open();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.lock().await.unwrap().fence(), 2, "the first was that of the refresh");
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_a_logout_of_ones_own_but_a_login_here() {
    let store = Silent::default();
    let (daemon, _) = session(&store);
    daemon.login(Token::new("first")).await.unwrap();
    daemon.logout().await.unwrap();
    session(&store).0.login(Token::new("second")).await.unwrap();
    sleep(HOUR).await;
    assert_eq!(daemon.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_not_presented_again_whatever_comes_before_the_next_login() {
    let store = Silent::default();
    let (daemon, noted) = over(&store, false).await;
    daemon.replace(Token::new("elsewhere")).await.unwrap();
    assert!(daemon.refresh().await.unwrap_err().is_login_required());
    daemon.credentials_changed();
    assert!(daemon.refresh().await.unwrap_err().is_login_required());
    assert_eq!(*noted.lock().unwrap(), ["bad", "nothing", "nothing"]);
    daemon.login(Token::new("second").refresh_token("bad")).await.unwrap();
    assert!(daemon.refresh().await.unwrap_err().is_login_required());
    assert_eq!(noted.lock().unwrap().last().unwrap(), "bad", "whoever logs in with it wants it tried");
}

#[tokio::test(start_paused = true)]
async fn a_replacement_after_a_logout_elsewhere_takes_nothing_of_before_it() {
    let store = Silent::default();
    let [daemon, sibling, elsewhere] = std::array::from_fn(|_| session(&store).0);
    finds_a_login_that_is_over(&daemon, &sibling, &elsewhere, &store).await;
    sibling.replace(Token::new("third").refresh_token("of-alice")).await.unwrap();
    daemon.replace(Token::new("of-bob")).await.unwrap();
    let record = store.memory.load().await.unwrap().unwrap();
    let token = record.token.unwrap();
    assert_eq!(token.access.expose(), "of-bob");
    assert_eq!(token.refresh.map(|refresh| refresh.expose().to_owned()), None);
}

/// It was found over by the second refresh in a row that the keeper had asked for in vain so far.
#[tokio::test(start_paused = true)]
async fn the_keeper_of_a_session_that_is_over_looks_every_half_minute() {
    let (store, calls) = (Silent::default(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let source = source_fn(move |context: FetchContext| {
        let presented = context.refresh_token().map(|token| token.expose().to_owned());
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match presented.as_deref() {
                Some("first") => std::future::pending().await,
                _ => Err::<Token, _>(FetchError::login_required("the grant is over")),
            }
        }
    });
    let session = Session::builder(source).store(store.clone()).build();
    session.login(Token::from_refresh_token("first")).await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    until(|| calls.load(Ordering::SeqCst) == 1).await;
    session.login(Token::from_refresh_token("second")).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert!(session.token().await.unwrap_err().is_login_required());
    let looks = store.loads.load(Ordering::SeqCst);
    sleep(HOUR).await;
    let looks = store.loads.load(Ordering::SeqCst) - looks;
    assert!((100..=130).contains(&looks), "{looks}");
    keeper.abort();
}
