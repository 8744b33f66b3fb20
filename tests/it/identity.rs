//! Login, replace and logout at any moment.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, RefreshFailure, Secret, Session, Token,
    event::Event,
    session::State,
    source_fn,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority, Phase},
};

use crate::{
    script::{numbered, within},
    watched::{Fault, Watched},
    world::World,
};

/// Paused time moves only when every task has come to its end or waits.
pub(crate) async fn orphans_end() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error).expect("one of ours").kind()
}

/// A world whose store can be looked into.
fn stored() -> (World, MemoryStore) {
    let store = MemoryStore::new();
    let seen = store.clone();
    (
        World::with(
            ModelAuthority::new().account("bob", "builder"),
            |session| session.store(store),
            |layer| layer,
        ),
        seen,
    )
}

pub(crate) async fn stored_access(store: &MemoryStore) -> Option<String> {
    let token = store.load().await.unwrap()?.token?;
    Some(token.access.expose().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_refresh_is_not_undone_by_its_result() {
    let (world, store) = stored();
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refused = task::spawn(world.get("/"));
    assert_pending!(refused.poll());
    gate.waiting(1).await;
    let mut by_hand = task::spawn(world.session.refresh());
    assert_pending!(by_hand.poll());

    world.session.logout().await.unwrap();
    assert!(refused.is_woken() && by_hand.is_woken(), "waiters go on at the logout, not at the fetch's end");
    let response = within(refused).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.extensions().get::<RefreshFailure>().unwrap().error().kind(),
        ErrorKind::SessionEnded
    );
    assert_eq!(within(by_hand).await.unwrap_err().kind(), ErrorKind::SessionEnded);

    gate.open();
    world.session.settle().await.unwrap();
    orphans_end().await;
    assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(stored_access(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn after_a_logout_no_source_logs_in_by_itself() {
    let world = World::new();
    world.session.token().await.unwrap();
    world.session.logout().await.unwrap();
    assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(world.session.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(kind(&world.get("/").await.unwrap_err()), ErrorKind::SessionEnded);
    assert_eq!(world.authority.counts().token_calls(), 1);
    assert!(world.api.requests().is_empty());

    world.session.login(world.authority.login().await.unwrap()).await.unwrap();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_after_a_logout_is_the_end_of_the_session() {
    let world = World::revoked().await;
    let late = world.api.hold(Phase::Answer);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    late.waiting(1).await;
    world.session.logout().await.unwrap();
    late.open();
    let response = within(request).await.unwrap();
    assert_eq!(
        response.extensions().get::<RefreshFailure>().unwrap().error().kind(),
        ErrorKind::SessionEnded
    );
    assert_eq!(world.authority.counts().refreshes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_after_the_end_of_the_session_is_told_to_nobody() {
    for logs_out in [true, false] {
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let observer = move |_: &Event<'_>| _ = count.fetch_add(1, Ordering::SeqCst);
        let world = World::with(ModelAuthority::new(), |session| session.observer(observer), |layer| layer);
        world.session.token().await.unwrap();
        world.authority.revoke_all();
        let late = world.api.hold(Phase::Answer);
        let mut request = task::spawn(world.get("/"));
        assert_pending!(request.poll());
        within(late.waiting(1)).await;
        if logs_out {
            world.session.logout().await.unwrap();
        } else {
            world.session.refresh().await.unwrap_err();
        }
        late.open();
        let response = within(request).await.unwrap();
        assert!(response.extensions().get::<RefreshFailure>().unwrap().error().is_login_required());
        orphans_end().await;
        assert_eq!(told.load(Ordering::SeqCst), 2, "the first token and the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_during_a_refresh_wins() {
    let (world, store) = stored();
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refused = task::spawn(world.get("/"));
    assert_pending!(refused.poll());
    gate.waiting(1).await;

    let bob = world.authority.login_as("bob", "builder").await.unwrap();
    world.session.login(bob.clone()).await.unwrap();
    let response = within(refused).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "alice's request is never sent again as bob");
    assert_eq!(
        response.extensions().get::<RefreshFailure>().unwrap().error().kind(),
        ErrorKind::SessionChanged
    );
    assert_eq!(
        world.get("/").await.unwrap().status(),
        StatusCode::OK,
        "bob does not wait for alice's orphan"
    );

    gate.open();
    orphans_end().await;
    let present = world.session.token().await.unwrap();
    assert_eq!(world.authority.holder(present.access().expose()).as_deref(), Some("bob"));
    assert_eq!(stored_access(&store).await.as_deref(), Some(bob.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_sent_nothing_yet_goes_on_with_whoever_logs_in() {
    let world =
        World::with(ModelAuthority::new().account("bob", "builder"), |session| session, |layer| layer);
    let gate = world.authority.hold(Endpoint::Login);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    gate.waiting(1).await;
    let bob = {
        let mut login = task::spawn(world.authority.login_as("bob", "builder"));
        assert_pending!(login.poll());
        gate.let_through(2);
        within(login).await.unwrap()
    };
    world.session.login(bob).await.unwrap();
    let response = within(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(world.api.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_is_what_waiters_resend_with() {
    let (world, store) = stored();
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refused = task::spawn(world.get("/"));
    assert_pending!(refused.poll());
    gate.waiting(1).await;
    let elsewhere = world.authority.login().await.unwrap();
    world.session.replace(elsewhere.clone()).await.unwrap();
    let response = within(refused).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "it does not wait for the flight that lost");
    gate.open();
    world.session.settle().await.unwrap();
    assert_eq!(world.session.token().await.unwrap().access().expose(), elsewhere.access().expose());
    assert_eq!(stored_access(&store).await.as_deref(), Some(elsewhere.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_has_lost_to_a_replaced_token_ends_at_once() {
    let world = World::new();
    world.session.token().await.unwrap();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    let start = Instant::now();
    world.session.replace(world.authority.login().await.unwrap()).await.unwrap();
    gate.waiting(0).await;
    assert_eq!(start.elapsed(), Duration::ZERO, "it is not left to its timeouts");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_that_has_waited_twice_is_not_resent_as_somebody_else() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut waiter = task::spawn(world.get("/"));
    assert_pending!(waiter.poll());
    gate.let_through(1);
    world.session.settle().await.unwrap();
    world.authority.revoke_access();
    let mut other = task::spawn(world.get("/"));
    assert_pending!(other.poll());
    assert_pending!(waiter.poll(), "the new token is condemned already");
    world.session.login(Token::new("of-bob")).await.unwrap();
    let response = within(waiter).await.expect("the refused response stands");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.extensions().get::<RefreshFailure>().unwrap().error().kind(),
        ErrorKind::SessionChanged
    );
}

#[tokio::test(start_paused = true)]
async fn late_refusal_of_a_replaced_token_is_resent_without_a_refresh() {
    let world = World::revoked().await;
    let late = world.api.hold_path(Phase::Answer, "/late");
    let mut request = task::spawn(world.get("/late"));
    assert_pending!(request.poll());
    late.waiting(1).await;
    world.session.replace(world.authority.login().await.unwrap()).await.unwrap();
    late.open();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 0);
}

#[tokio::test(start_paused = true)]
async fn login_and_replace_end_cooling_and_death() {
    for dead in [false, true] {
        for replaces in [false, true] {
            let world = World::new();
            let token = world.authority.login().await.unwrap();
            if dead {
                world.authority.fail_next(Endpoint::Login, Failure::OAuth("invalid_grant"));
            } else {
                world.authority.fail_next(Endpoint::Login, Failure::Reset);
            }
            let error = world.session.token().await.unwrap_err();
            assert_eq!(error.is_login_required(), dead);
            if replaces {
                world.session.replace(token).await.unwrap();
            } else {
                world.session.login(token).await.unwrap();
            }
            assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
            world.authority.revoke_access();
            assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK, "a refresh may start at once");
        }
    }
}

/// A session whose first refreshes fail so that they leave this, and which are late, behind the gate, if that is a timeout.
async fn failed(
    left: ErrorKind,
    gate: &Gate,
    revoke: impl Fn(String) + Send + Sync + 'static,
) -> (Session, MemoryStore, Arc<AtomicUsize>) {
    let (store, fetches) = (MemoryStore::new(), Arc::new(AtomicUsize::new(0)));
    let failures = if left == ErrorKind::Stalled { 3 } else { 1 };
    let (counted, gate) = (fetches.clone(), gate.clone());
    let source = source_fn(move |_| {
        let fails = counted.fetch_add(1, Ordering::SeqCst) < failures;
        let gate = gate.clone();
        async move {
            match left {
                _ if !fails => Ok(Token::new("next")),
                ErrorKind::Stalled => Err(FetchError::ambiguous("a page")),
                ErrorKind::LoginRequired => Err(FetchError::login_required("over")),
                ErrorKind::Timeout => {
                    gate.pass().await;
                    Ok(Token::new("late"))
                }
                _ => Err(FetchError::transient("busy")),
            }
        }
    });
    let revoke = move |token: Token| {
        revoke(token.access().expose().to_owned());
        std::future::ready(())
    };
    let session = Session::builder(source).store(store.clone()).revoke_with(revoke).build();
    let mut error = session.start().await.unwrap_err();
    while fetches.load(Ordering::SeqCst) < failures {
        tokio::time::advance(Duration::from_secs(301)).await;
        error = session.start().await.unwrap_err();
    }
    assert_eq!(error.kind(), left);
    (session, store, fetches)
}

#[tokio::test(start_paused = true)]
async fn a_change_ends_whatever_a_failure_has_left_and_what_comes_late_changes_nothing() {
    for left in [ErrorKind::Transient, ErrorKind::Stalled, ErrorKind::LoginRequired, ErrorKind::Timeout] {
        for change in ["logout", "login", "replace"] {
            let (gate, revoked) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
            let noted = revoked.clone();
            let (session, store, fetches) =
                failed(left, &gate, move |access| noted.lock().unwrap().push(access)).await;
            let (start, before) = (Instant::now(), fetches.load(Ordering::SeqCst));
            let (expected, changed) = match change {
                "logout" => (None, session.logout().await),
                "login" => (Some("of-bob"), session.login(Token::new("of-bob")).await),
                _ => (Some("of-bob"), session.replace(Token::new("of-bob")).await),
            };
            changed.unwrap();
            let access = async || session.token().await.map(|token| token.access().expose().to_owned());
            assert_eq!(access().await.ok().as_deref(), expected, "{left:?} {change}");
            assert_eq!(start.elapsed(), Duration::ZERO, "{left:?} {change}");
            gate.open();
            orphans_end().await;
            assert_eq!(access().await.ok().as_deref(), expected, "{left:?} {change}");
            assert_eq!(stored_access(&store).await.as_deref(), expected, "{left:?} {change}");
            assert_eq!(fetches.load(Ordering::SeqCst), before, "{left:?} {change}");
            let is_discarded = left == ErrorKind::Timeout && change != "replace";
            let late: &[&str] = if is_discarded { &["late"] } else { &[] };
            assert_eq!(*revoked.lock().unwrap(), late, "{left:?} {change}");
            match session.refresh().await {
                Ok(token) => assert_eq!((token.access().expose(), expected), ("next", Some("of-bob"))),
                Err(error) => assert_eq!((error.kind(), expected), (ErrorKind::SessionEnded, None)),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_replaces_the_token_of_a_session_that_has_ended() {
    let world = World::new();
    world.session.logout().await.unwrap();
    let error = world.session.replace(Token::new("elsewhere")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionEnded);
    assert!(world.session.token().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_from_outside_is_accepted_by_an_empty_session() {
    for logs_in in [false, true] {
        let (world, store) = stored();
        let token = world.authority.login().await.unwrap();
        if logs_in {
            world.session.login(token.clone()).await.unwrap();
        } else {
            world.session.replace(token.clone()).await.unwrap();
        }
        assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
        assert_eq!(stored_access(&store).await.as_deref(), Some(token.access().expose()));
        world.authority.revoke_access();
        assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK, "its refresh token is used");
        assert_eq!(world.authority.counts().logins, 1);
    }
}

/// A refresh token of a login of its own, and nothing else.
pub(crate) async fn promised(authority: &ModelAuthority) -> Token {
    let brought = authority.login().await.unwrap();
    Token::from_refresh_token(brought.refresh().unwrap().clone())
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_alone_is_a_login_whose_first_request_gets_the_access_token() {
    let (world, store) = stored();
    world.session.login(promised(&world.authority).await).await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 0);
    assert_eq!(stored_access(&store).await.as_deref(), Some(""));
    let (one, other) = tokio::join!(world.get("/"), world.get("/"));
    assert_eq!([one, other].map(|answer| answer.unwrap().status()), [StatusCode::OK; 2]);
    assert_eq!((world.authority.counts().logins, world.authority.counts().refreshes), (1, 1));
    let token = world.session.token().await.unwrap();
    assert_eq!(stored_access(&store).await.as_deref(), Some(token.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_login_with_a_refresh_token_alone_is_gone_over_to_by_those_who_share_the_store() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let session = || Session::builder(authority.source()).store(store.clone()).build();
    let (ours, sibling) = (session(), session());
    let alice = ours.token().await.unwrap();
    sibling.token().await.unwrap();
    ours.login(promised(&authority).await).await.unwrap();
    // Which is what a process finds that is built later, too.
    for session in [sibling, session(), ours] {
        let token = session.refresh().await.unwrap();
        assert!(!token.access().expose().is_empty());
        assert!(!token.access().expose().eq(alice.access().expose()));
    }
    assert_eq!(authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_with_a_refresh_token_alone_ends_a_logout_in_another_process() {
    let (authority, store) = (ModelAuthority::new(), MemoryStore::new());
    let session = || Session::builder(authority.source()).store(store.clone()).build();
    let (ours, sibling) = (session(), session());
    ours.token().await.unwrap();
    ours.logout().await.unwrap();
    sibling.login(promised(&authority).await).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    within(ours.token()).await.unwrap();
    assert_eq!((authority.counts().logins, authority.counts().refreshes), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_login_with_a_refresh_token_alone_is_found_by_a_refresh_whose_grant_has_ended() {
    let (authority, store) = (ModelAuthority::new(), Watched::default());
    let session = || Session::builder(authority.source()).store(store.clone()).build();
    let sibling = session();
    sibling.token().await.unwrap();
    store.expire().await;
    authority.revoke_refresh();
    let promised = promised(&authority).await;
    let gate = authority.hold(Endpoint::Refresh);
    let ours = session();
    let mut call = task::spawn(ours.token());
    assert_pending!(call.poll());
    within(gate.waiting(1)).await;
    sibling.login(promised).await.unwrap();
    gate.open();
    within(call).await.unwrap();
    assert_eq!(authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_alone_that_is_no_good_is_told_by_the_first_who_asks() {
    let (world, _) = stored();
    world.session.login(Token::from_refresh_token("made-up")).await.unwrap();
    assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::LoginRequired);
    assert_eq!(kind(&world.get("/").await.unwrap_err()), ErrorKind::LoginRequired);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_waited_through_two_such_logins_waits_for_the_token_that_the_last_one_gets() {
    let (world, _) = stored();
    let gate = world.authority.hold(Endpoint::Refresh);
    let login = async || world.session.login(promised(&world.authority).await).await.unwrap();
    login().await;
    let mut call = task::spawn(world.get("/"));
    for _ in 0..2 {
        assert_pending!(call.poll());
        within(gate.waiting(1)).await;
        login().await;
    }
    assert_pending!(call.poll());
    gate.open();
    assert_eq!(within(call).await.unwrap().status(), StatusCode::OK);
}

/// It is no token for anybody else.
#[tokio::test(start_paused = true)]
async fn a_token_without_an_access_token_is_accepted_at_a_login_only() {
    let bare = || Token::from_refresh_token("a-refresh-token");
    let session = Session::builder(source_fn(move |_| async move { Ok::<_, FetchError>(bare()) })).build();
    assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::InvalidValue);
    let session = numbered().0.build();
    assert_eq!(session.replace(bare()).await.unwrap_err().kind(), ErrorKind::InvalidValue);
    for nothing in [Token::from_refresh_token(""), Token::new("")] {
        assert_eq!(session.login(nothing).await.unwrap_err().kind(), ErrorKind::InvalidValue);
    }
}

#[tokio::test(start_paused = true)]
async fn generations_are_never_used_again_after_logout_and_login() {
    let world = World::new();
    let mut changes = world.session.subscribe();
    let mut seen = Vec::new();
    for _ in 0..3 {
        world.session.login(Token::new("of-this-login")).await.unwrap();
        let Some(State::Issued(generation)) = changes.next().await else { panic!("a token was issued") };
        seen.push(generation);
        world.session.logout().await.unwrap();
        assert_eq!(changes.next().await, Some(State::LoggedOut));
    }
    assert!(seen.is_sorted_by(|before, after| before < after));
}

#[tokio::test(start_paused = true)]
async fn the_session_can_be_followed() {
    let world = World::new();
    let mut changes = world.session.subscribe();
    assert_eq!(changes.next().await, Some(State::Empty));
    let gate = world.authority.hold(Endpoint::Login);
    let mut token = task::spawn(world.session.token());
    assert_pending!(token.poll());
    assert_eq!(changes.next().await, Some(State::Refreshing));
    gate.open();
    within(token).await.unwrap();
    assert!(matches!(changes.next().await, Some(State::Issued(_))));
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    world.session.refresh().await.unwrap_err();
    assert_eq!(changes.next().await, Some(State::Cooling));
    tokio::time::advance(Duration::from_secs(2)).await;
    world.authority.revoke_all();
    world.session.refresh().await.unwrap_err();
    assert_eq!(changes.next().await, Some(State::LoginRequired));
    world.session.logout().await.unwrap();
    assert_eq!(changes.next().await, Some(State::LoggedOut));
    drop(world);
    assert_eq!(changes.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_refused_again_and_again_without_a_reason_is_seen_to_be_stalled() {
    let session = Session::builder(source_fn(|_: FetchContext| async {
        Err::<Token, _>(FetchError::ambiguous("403 without a word"))
    }))
    .build();
    let mut changes = session.subscribe();
    for _ in 0..2 {
        session.refresh().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(301)).await;
    }
    assert_eq!(within(changes.next()).await, Some(State::Cooling));
    session.refresh().await.unwrap_err();
    assert_eq!(within(changes.next()).await, Some(State::Stalled));
}

#[tokio::test(start_paused = true)]
async fn every_change_is_announced_once_before_the_waiters_go_on() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let authority = ModelAuthority::new();
    let world = World::with(
        authority,
        |session| session.observer(move |event: &Event<'_>| seen.lock().unwrap().push(format!("{event:?}"))),
        |layer| layer,
    );
    let count = |name: &str| told.lock().unwrap().iter().filter(|event| event.starts_with(name)).count();
    let (first, second) = tokio::join!(world.get("/"), world.get("/"));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(count("Issued"), 1);
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    world.session.refresh().await.unwrap_err();
    assert_eq!((count("RefreshFailed"), count("LoginRequired")), (1, 0));
    world.session.refresh().await.unwrap_err();
    assert_eq!(count("RefreshFailed"), 1, "a remembered failure is no new one");
    tokio::time::advance(Duration::from_secs(2)).await;
    world.authority.revoke_all();
    let (first, second) = tokio::join!(world.session.refresh(), world.session.refresh());
    assert!(first.is_err() && second.is_err());
    assert_eq!((count("RefreshFailed"), count("LoginRequired")), (1, 1));
    world.session.logout().await.unwrap();
    world.session.logout().await.unwrap();
    assert_eq!(count("LoggedOut"), 1);
}

#[tokio::test]
async fn a_change_tells_the_generation_before_it_of_the_same_identity() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let observer = move |event: &Event<'_>| {
        if let Event::Issued { old, new, .. } = event {
            log.lock().unwrap().push((*old, *new));
        }
    };
    let session = numbered().0.observer(observer).build();
    for other in [None, Some("of-bob")] {
        if let Some(other) = other {
            session.login(Token::new(other)).await.unwrap();
        }
        session.refresh().await.unwrap();
        session.replace(Token::new("elsewhere")).await.unwrap();
    }
    let told = told.lock().unwrap();
    let before: Vec<_> = told.iter().map(|(old, _)| *old).collect();
    let (first, second, of_bob, refreshed) = (told[0].1, told[1].1, told[2].1, told[3].1);
    assert_eq!(before, [None, Some(first), None, Some(of_bob), Some(refreshed)]);
    assert!(second > first);
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_look_after_a_logout_elsewhere_is_no_second_one() {
    let (store, gate, told) = (Watched::default(), Gate::new(), Arc::new(AtomicUsize::new(0)));
    let count = told.clone();
    let session = numbered()
        .0
        .store(store.clone())
        .observer(move |event: &Event<'_>| {
            count.fetch_add(usize::from(matches!(event, Event::LoggedOut)), Ordering::SeqCst);
        })
        .build();
    session.token().await.unwrap();
    numbered().0.store(store.clone()).build().logout().await.unwrap();
    assert_eq!(session.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.set(|store| store.hold_load = Some(gate.clone()));
    let mut looks = task::spawn(session.token());
    assert_pending!(looks.poll());
    within(gate.waiting(1)).await;
    store.set(|store| store.hold_load = None);
    session.logout().await.unwrap();
    gate.open();
    assert_eq!(within(looks).await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_come_too_late_are_offered_to_whoever_can_revoke_them() {
    for logs_out in [false, true] {
        let discarded = Arc::new(Mutex::new(Vec::new()));
        let offered = discarded.clone();
        let world = World::with(
            ModelAuthority::new(),
            |session| {
                session.revoke_with(move |token| {
                    offered.lock().unwrap().push(token.access().expose().to_owned());
                    // One that never ends holds nobody up.
                    std::future::pending()
                })
            },
            |layer| layer,
        );
        world.session.token().await.unwrap();
        let gate = world.authority.hold(Endpoint::Refresh);
        let mut refresh = task::spawn(world.session.refresh());
        assert_pending!(refresh.poll());
        gate.waiting(1).await;
        if logs_out {
            world.session.logout().await.unwrap();
        } else {
            world.session.login(Token::new("of-bob")).await.unwrap();
        }
        gate.open();
        orphans_end().await;
        let discarded = discarded.lock().unwrap();
        let late = discarded.last().expect("the one that came too late");
        assert!(world.authority.is_alive(late), "nobody uses it, and it is alive");
        assert_eq!(
            discarded.len(),
            if logs_out { 2 } else { 1 },
            "and the one of the session that has ended"
        );
    }
}

/// The refresh token that it was got with may be of use to somebody else.
#[tokio::test(start_paused = true)]
async fn a_token_that_comes_too_late_is_offered_for_revocation_as_the_authority_has_sent_it() {
    for is_being_saved in [false, true] {
        let (store, gate, revoked) = (Watched::default(), Gate::new(), Arc::new(Mutex::new(Vec::new())));
        let (held, noted) = (gate.clone(), revoked.clone());
        let source = source_fn(move |context: FetchContext| {
            let gate = held.clone();
            async move {
                assert!(context.refresh_token().is_some());
                if !is_being_saved {
                    gate.pass().await;
                }
                Ok::<_, FetchError>(Token::new("late"))
            }
        });
        let session = Session::builder(source)
            .store(store.clone())
            .revoke_with(move |token| {
                let parts = [Some(token.access()), token.refresh()];
                noted.lock().unwrap().push(parts.map(|part| part.map(|part| part.expose().to_owned())));
                std::future::ready(())
            })
            .build();
        session.login(Token::new("first").refresh_token("R1")).await.unwrap();
        store.set(|store| store.hold_save = Some(gate.clone()));
        assert_pending!(task::spawn(session.refresh()).poll());
        within(gate.waiting(1)).await;
        assert_pending!(task::spawn(session.login(Token::new("of-bob"))).poll());
        gate.open();
        orphans_end().await;
        assert_eq!(*revoked.lock().unwrap(), [[Some("late".to_owned()), None]], "saved: {is_being_saved}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_offers_what_it_finds_in_the_store_for_revocation_as_well() {
    for has_looked in [false, true] {
        let (store, revoked) = (Watched::default(), Arc::new(Mutex::new(Vec::new())));
        let noted = revoked.clone();
        let session = Session::builder(ModelAuthority::new().source())
            .store(store.clone())
            .revoke_with(move |token| {
                noted.lock().unwrap().push(token.access().expose().to_owned());
                std::future::ready(())
            })
            .build();
        let sibling = numbered().0.store(store.clone()).build();
        sibling.token().await.unwrap();
        if has_looked {
            session.token().await.unwrap();
        }
        sibling.refresh().await.unwrap();
        within(session.logout()).await.unwrap();
        orphans_end().await;
        let expected: &[&str] = if has_looked { &["token-1", "token-2"] } else { &["token-2"] };
        assert_eq!(*revoked.lock().unwrap(), expected);
    }
}

/// A store that logs a session out when its next lease ends.
#[derive(Clone, Default)]
struct LogsOut(Watched, Arc<Mutex<Option<Session>>>);

impl TokenStore for LogsOut {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.0.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        struct Ends(Arc<Mutex<Option<Session>>>);

        impl Drop for Ends {
            fn drop(&mut self) {
                if let Some(session) = self.0.lock().unwrap().take() {
                    assert_pending!(task::spawn(session.logout()).poll());
                }
            }
        }

        let lease = self.0.lock().await?;
        Ok(Lease::new(lease.fence(), (lease, Ends(self.1.clone()))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_session_ends_as_its_refresh_gives_the_lease_back_is_offered_for_revocation() {
    let (store, revoked) = (LogsOut::default(), Arc::new(Mutex::new(Vec::new())));
    let noted = revoked.clone();
    let (builder, _) = numbered();
    let session = builder
        .store(store.clone())
        .revoke_with(move |token| {
            noted.lock().unwrap().push(token.access().expose().to_owned());
            std::future::ready(())
        })
        .build();
    session.token().await.unwrap();
    *store.1.lock().unwrap() = Some(session.clone());
    // What is saved is found by the logout.
    store.0.set(|store| store.save = Fault::Error);
    let error = within(session.refresh()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionEnded);
    orphans_end().await;
    assert_eq!(*revoked.lock().unwrap(), ["token-1", "token-2"]);
}

/// It may be of the same grant as the replacement, and what is revoked may take the whole grant along.
#[tokio::test(start_paused = true)]
async fn what_a_refresh_brings_after_a_replacement_is_not_revoked() {
    let revoked = Arc::new(Mutex::new(Vec::new()));
    let (noted, own) = (revoked.clone(), Arc::new(OnceLock::<Session>::new()));
    let within_source = own.clone();
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let own = within_source.clone();
        async move {
            let session = own.get().expect("set below");
            // The abort that follows does not reach what is at its end already.
            let replacement = Token::new("replacement").without_refresh_token();
            assert_pending!(task::spawn(session.replace(replacement)).poll());
            Ok::<_, FetchError>(Token::new("late"))
        }
    }))
    .revoke_with(move |token| {
        noted.lock().unwrap().push(token.access().expose().to_owned());
        std::future::ready(())
    })
    .build();
    assert!(own.set(session.clone()).is_ok());
    assert_eq!(within(session.token()).await.unwrap().access().expose(), "replacement");
    within(session.logout()).await.unwrap();
    orphans_end().await;
    assert_eq!(*revoked.lock().unwrap(), ["replacement"]);
}

/// An application that keeps the grant itself hands it over again, while it is being refreshed.
#[tokio::test(start_paused = true)]
async fn what_the_session_uses_is_not_revoked_when_its_grant_is_logged_in_with_again() {
    let token = |access: &str, refresh: &str| Token::new(access).refresh_token(refresh);
    for (answer, again, is_revoked) in [
        (token("late", "grant"), token("first", "grant"), false),
        (Token::new("late"), token("first", "grant"), false),
        (token("late", "next"), token("first", "grant"), false),
        (Token::new("first"), token("first", "another"), false),
        (token("late", "grant"), token("first", "another"), true),
    ] {
        let case =
            format!("{:?} {:?}", answer.refresh().map(Secret::expose), again.refresh().map(Secret::expose));
        let revoked = Arc::new(AtomicUsize::new(0));
        let (count, gate) = (revoked.clone(), Gate::new());
        let held = gate.clone();
        let source = source_fn(move |_: FetchContext| {
            let (gate, answer) = (held.clone(), answer.clone());
            async move {
                gate.pass().await;
                Ok::<_, FetchError>(answer)
            }
        });
        let session = Session::builder(source)
            .revoke_with(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            })
            .build();
        session.login(token("first", "grant")).await.unwrap();
        assert_pending!(task::spawn(session.refresh()).poll());
        within(gate.waiting(1)).await;
        session.login(again).await.unwrap();
        gate.open();
        orphans_end().await;
        assert_eq!(revoked.load(Ordering::Relaxed), usize::from(is_revoked), "{case}");
    }
}

/// The same: the refresh that is on belongs to the login then, whatever comes of it.
#[tokio::test(start_paused = true)]
async fn a_grant_that_is_logged_in_with_again_while_it_is_being_refreshed_is_presented_once() {
    for is_over in [false, true] {
        let (authority, store) = (ModelAuthority::new(), MemoryStore::new());
        let build = || Session::builder(authority.source()).store(store.clone()).build();
        let session = build();
        let grant = authority.login().await.unwrap();
        session.login(grant.clone()).await.unwrap();
        let gate = authority.hold(Endpoint::Refresh);
        let mut before = task::spawn(session.refresh());
        assert_pending!(before.poll());
        within(gate.waiting(1)).await;
        if is_over {
            authority.revoke_refresh();
        }
        for _ in 0..2 {
            session.login(grant.clone()).await.unwrap();
        }
        let waited = within(before).await.unwrap();
        assert_eq!(waited.access().expose(), grant.access().expose(), "nobody waits for it");
        let mut after = task::spawn(session.refresh());
        assert_pending!(after.poll());
        orphans_end().await;
        gate.open();
        let after = within(after).await;
        if is_over {
            assert!(after.unwrap_err().is_login_required());
            assert_eq!(authority.counts().refreshes, 1);
            continue;
        }
        assert!(authority.is_alive(after.unwrap().access().expose()));
        assert!(authority.is_alive(build().refresh().await.unwrap().access().expose()), "it is stored");
        let counts = authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (3, 0, 0));
    }
}

/// Notes that it was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_are_released_after_the_announcement_although_an_observer_panics() {
    type Ending = Box<dyn Fn(&World)>;
    let endings: [(&str, Ending); 4] = [
        ("Issued", Box::new(|_| ())),
        ("RefreshFailed", Box::new(|world| world.authority.fail_next(Endpoint::Login, Failure::Reset))),
        (
            "LoginRequired",
            Box::new(|world| world.authority.fail_next(Endpoint::Login, Failure::OAuth("invalid_grant"))),
        ),
        ("LoggedOut", Box::new(|world| drop(task::spawn(world.session.logout()).poll()))),
    ];
    for (event, ending) in endings {
        let alarm = Arc::new(Alarm::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (watched, told) = (alarm.clone(), order.clone());
        let world = World::with(
            ModelAuthority::new(),
            |session| {
                session.observer(|_: &Event<'_>| panic!("an observer that fails harms nobody")).observer(
                    move |event: &Event<'_>| {
                        told.lock().unwrap().push((format!("{event:?}"), watched.0.load(Ordering::SeqCst)));
                    },
                )
            },
            |layer| layer,
        );
        let gate = world.authority.hold(Endpoint::Login);
        let waker = Waker::from(alarm.clone());
        let mut waiter = Box::pin(world.session.token());
        assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        gate.waiting(1).await;
        ending(&world);
        gate.open();
        orphans_end().await;
        assert!(alarm.0.load(Ordering::SeqCst), "{event}: the waiter goes on");
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 1, "{event} is announced once");
        assert!(order[0].0.starts_with(event));
        assert!(!order[0].1, "{event} is announced before its waiters are released");
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_complete_whatever_becomes_of_the_revocation() {
    for panics in [None, Some("the future"), Some("the closure")] {
        let store = MemoryStore::new();
        let world = World::with(
            ModelAuthority::new(),
            |session| {
                session.store(store.clone()).revoke_with(move |_| {
                    assert_ne!(panics, Some("the closure"));
                    async move {
                        assert_ne!(panics, Some("the future"));
                        std::future::pending::<()>().await;
                    }
                })
            },
            |layer| layer,
        );
        world.session.token().await.unwrap();
        within(world.session.logout()).await.unwrap();
        assert_eq!(stored_access(&store).await, None);
        within(world.session.settle()).await.unwrap();
        assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    }
}
