//! Renewal ahead of expiry: by traffic, by a task, on both clocks.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    Error, FetchContext, FetchError, Session, Token,
    session::{RenewalMode, SessionBuilder, State},
    source::Cause,
    source_fn,
    store::{MemoryStore, StoredToken, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority, Phase, Refusal, Route, TestClock},
    time::Clock as _,
};

use crate::{
    script::{outcome, until, within},
    watched::Watched,
    world::World,
};

const SECOND: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(7200);

/// Tokens of two hours, due a minute before their end, exactly; and a first one.
async fn world(options: impl FnOnce(SessionBuilder) -> SessionBuilder) -> (World, TestClock) {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(LIFE);
    let builder =
        |session: SessionBuilder| options(session.clock(clock.clone()).renewal_jitter(Duration::ZERO));
    let world = World::with(authority, builder, |layer| layer);
    world.session.token().await.unwrap();
    (world, clock)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_its_token_due_goes_on_with_it_and_has_it_renewed() {
    let (world, clock) = world(|session| session).await;
    clock.advance(LIFE - 61 * SECOND);
    world.get("/").await.unwrap();
    world.session.settle().await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 0, "not due yet");
    clock.advance(SECOND);
    let gate = world.authority.hold(Endpoint::Refresh);
    for _ in 0..10 {
        let mut request = task::spawn(world.get("/"));
        assert!(request.poll().is_ready(), "nobody waits");
    }
    gate.waiting(1).await;
    gate.open();
    world.session.settle().await.unwrap();
    let before = world.api.requests().last().unwrap().head.headers["authorization"].clone();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_ne!(
        world.api.requests().last().unwrap().head.headers["authorization"],
        before,
        "the next one has the new token"
    );
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn requests_past_expiry_wait_for_the_renewal_that_is_on() {
    let (world, clock) = world(|session| session).await;
    clock.advance(LIFE - SECOND);
    let gate = world.authority.hold(Endpoint::Refresh);
    world.get("/").await.unwrap();
    gate.waiting(1).await;
    clock.advance(SECOND);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    gate.open();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_joins_the_renewal_that_is_on_and_keeps_others_from_the_token_if_it_is_a_reject() {
    for (refusal, waits) in [(Refusal::Unauthorized, true), (Refusal::Status(StatusCode::FORBIDDEN), false)] {
        let (world, clock) = world(|session| session).await;
        let late = world.api.clone().refusal(refusal).hold_path(Phase::Answer, "/late");
        world.authority.revoke_access();
        let mut refused = task::spawn(world.get("/late"));
        assert_pending!(refused.poll());
        within(late.waiting(1)).await;
        let gate = world.authority.hold(Endpoint::Refresh);
        clock.advance(LIFE - 30 * SECOND);
        world.session.token().await.unwrap();
        within(gate.waiting(1)).await;
        late.open();
        assert_pending!(refused.poll());
        assert_eq!(task::spawn(world.session.token()).poll().is_pending(), waits);
        gate.open();
        let response = within(refused).await.unwrap();
        assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_hurts_no_valid_token_and_is_not_tried_again_before_its_back_off() {
    let (world, clock) = world(|session| session).await;
    clock.advance(LIFE - 60 * SECOND);
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "later"));
    for _ in 0..50 {
        assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
        world.session.settle().await.unwrap();
    }
    assert_eq!(world.authority.counts().refreshes, 1);
    clock.advance(2 * SECOND);
    world.get("/").await.unwrap();
    world.session.settle().await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 2);
    clock.advance(58 * SECOND);
    let error = world.get("/").await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_transient(), "past expiry there is nothing to send");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_ends_the_grant_is_known_at_once_and_the_token_is_used_until_it_dies() {
    let (world, clock) = world(|session| session).await;
    let mut changes = world.session.subscribe();
    changes.next().await;
    clock.advance(LIFE - 60 * SECOND);
    world.authority.revoke_refresh();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    world.session.settle().await.unwrap();
    assert_eq!(changes.next().await, Some(State::LoginRequired));
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    clock.advance(60 * SECOND);
    let error = world.get("/").await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_login_required());
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn inline_renewal_waits_and_goes_on_with_the_present_token_if_it_fails() {
    let (world, clock) = world(|session| session.renewal(RenewalMode::Inline)).await;
    clock.advance(LIFE - 60 * SECOND);
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1, "cooling");
    clock.advance(31 * SECOND);
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    gate.open();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn without_renewal_a_token_is_used_until_it_expires() {
    let (world, clock) = world(|session| session.renewal(RenewalMode::Off)).await;
    clock.advance(LIFE - SECOND);
    world.get("/").await.unwrap();
    world.session.settle().await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 0);
    clock.advance(SECOND);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_fetch_takes_is_not_taken_from_the_life_of_its_token() {
    let (world, clock) = world(|session| session.renewal(RenewalMode::Off)).await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    clock.advance(100 * SECOND);
    gate.open();
    within(refresh).await.unwrap();
    for (passed, refreshes) in [(LIFE - SECOND, 1), (SECOND, 2)] {
        clock.advance(passed);
        world.session.token().await.unwrap();
        assert_eq!(world.authority.counts().refreshes, refreshes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_past_expiry_refreshes_before_it_sends() {
    let (world, clock) = world(|session| session).await;
    clock.suspend(2 * LIFE);
    // The wall clock is read once a second.
    clock.advance(SECOND);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.api.requests().len(), 1);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_a_token_that_slept_past_expiry_is_replaced_waits_as_well() {
    for mode in [RenewalMode::Off, RenewalMode::Background, RenewalMode::Inline] {
        let (world, clock) = world(|session| session.renewal(mode)).await;
        clock.suspend(2 * LIFE);
        clock.advance(SECOND);
        let gate = world.authority.hold(Endpoint::Refresh);
        let mut requests = [(); 2].map(|()| task::spawn(world.get("/")));
        for request in &mut requests {
            assert_pending!(request.poll());
        }
        gate.waiting(1).await;
        assert!(world.api.requests().is_empty(), "{mode:?}");
        gate.open();
        for request in requests {
            assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_saves_no_token() {
    let (world, clock) = world(|session| session).await;
    clock.set_wall_back(10 * LIFE);
    clock.advance(LIFE);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.api.requests().len(), 1);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_session_has_handed_over_dies_when_it_does_there() {
    for by_login in [false, true] {
        let (hub, clock) = world(|session| session).await;
        let store = MemoryStore::new();
        let inner = hub.session.clone();
        let source = source_fn(move |_: FetchContext| {
            let inner = inner.clone();
            async move { Ok::<_, FetchError>(inner.token().await?) }
        });
        let session = Session::builder(source).store(store.clone()).clock(clock.clone()).build();
        clock.advance(LIFE - 600 * SECOND);
        let first = hub.session.token().await.unwrap();
        if by_login {
            session.login(first.clone()).await.unwrap();
        }
        assert_eq!(session.token().await.unwrap().access().expose(), first.access().expose());
        let saved = async || store.load().await.unwrap().unwrap().token.unwrap().expires_at;
        assert_eq!(saved().await, Some(clock.wall() + 600 * SECOND), "as the first session has counted it");
        clock.advance(600 * SECOND);
        assert_ne!(session.token().await.unwrap().access().expose(), first.access().expose());
        assert_eq!(hub.authority.counts().refreshes, 1);
        session.login(first).await.unwrap();
        assert_eq!(saved().await, None, "handed over after its end, it does not begin a new life either");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_another_session_has_handed_over_dies_when_it_does_there() {
    let clock = TestClock::new();
    let session = |store: &MemoryStore| {
        let source = source_fn(async |_| Err(FetchError::login_required("nobody asks")));
        Session::builder(source).store(store.clone()).clock(clock.clone()).build()
    };
    let (one, other) = (MemoryStore::new(), MemoryStore::new());
    let hub = session(&one);
    hub.login(Token::new("A").refresh_token("R").refresh_expires_in(LIFE)).await.unwrap();
    clock.advance(LIFE / 2);
    session(&other).login(hub.token().await.unwrap()).await.unwrap();
    let saved =
        async |store: &MemoryStore| store.load().await.unwrap().unwrap().token.unwrap().refresh_expires_at;
    assert_eq!(saved(&other).await, Some(clock.wall() + LIFE / 2));
    assert_eq!(saved(&other).await, saved(&one).await);
}

/// A session whose source brings the same token each time, with the life that it has at this fetch, and how many fetches there
/// have been.
fn counted(
    life: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static,
) -> (SessionBuilder, Arc<AtomicUsize>) {
    let fetches = Arc::new(AtomicUsize::new(0));
    let counted = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        let token = Token::new("token").expires_in(life(counted.fetch_add(1, Ordering::SeqCst)));
        async { Ok::<_, FetchError>(token) }
    });
    (Session::builder(source), fetches)
}

#[tokio::test(start_paused = true)]
async fn a_task_keeps_the_token_fresh_without_traffic_until_the_logout() {
    let session_tokens = Arc::new(AtomicUsize::new(0));
    let counted = session_tokens.clone();
    let session = Session::builder(source_fn(move |cx: FetchContext| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        assert_eq!(cx.cause() == Cause::Renewal, !first);
        async { Ok::<_, FetchError>(Token::new("token").expires_in(LIFE)) }
    }))
    .build();
    session.token().await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    tokio::time::sleep(10 * LIFE).await;
    assert_eq!(session_tokens.load(Ordering::SeqCst), 11);
    session.logout().await.unwrap();
    within(keeper).await.unwrap();
    tokio::time::sleep(2 * LIFE).await;
    assert_eq!(session_tokens.load(Ordering::SeqCst), 11);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_tries_again_as_soon_as_a_failed_renewal_has_cooled_down() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let is_renewal = counted.fetch_add(1, Ordering::SeqCst) == 1;
        async move {
            if is_renewal {
                return Err(FetchError::transient("no route"));
            }
            Ok(Token::new("token").expires_in(40 * SECOND))
        }
    }))
    .renewal_jitter(Duration::ZERO)
    .build();
    session.token().await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    // Due after 30 s, and cool again not two seconds later: long before the token dies.
    tokio::time::sleep(32 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    keeper.abort();
}

/// The login makes the first refresh one in vain, so that it pauses after it has started the second one, which fails
/// meanwhile.
#[tokio::test(start_paused = true)]
async fn the_keeper_looks_again_after_its_pause() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            match number {
                1 => std::future::pending().await,
                2 => Err(FetchError::transient("no route")),
                _ => Ok(Token::new("token").expires_in(LIFE)),
            }
        }
    }))
    .build();
    session.login(Token::from_refresh_token("first")).await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    until(|| calls.load(Ordering::SeqCst) == 1).await;
    session.login(Token::from_refresh_token("second")).await.unwrap();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn the_keeper_renews_at_the_moment_at_which_the_token_is_due() {
    const MARGIN: Duration = Duration::from_secs(10);
    let (session, fetches) = counted(|_| Some(LIFE));
    let session = session.renew_before(MARGIN).renewal_jitter(Duration::ZERO).build();
    session.token().await.unwrap();
    tokio::spawn(session.keep_fresh());
    tokio::time::sleep(LIFE - MARGIN - Duration::from_millis(2)).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_renews_ahead_of_expiry_although_traffic_does_not() {
    let (session, fetches) = counted(|_| Some(LIFE));
    let session = session.renewal(RenewalMode::Off).renewal_jitter(Duration::ZERO).build();
    session.token().await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    tokio::time::sleep(LIFE - 61 * SECOND).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn the_keeper_renews_twice_a_second_at_most() {
    for life in [Duration::from_nanos(1), Duration::from_millis(1), SECOND] {
        let (session, fetches) = counted(move |_| Some(life));
        let session = session.build();
        let keeper = tokio::spawn(session.keep_fresh());
        tokio::time::sleep(60 * SECOND).await;
        assert!((60..=121).contains(&fetches.load(Ordering::SeqCst)), "{life:?}: {fetches:?}");
        keeper.abort();
    }
}

/// A hub tells what is left of the token that it has in whole seconds, and so nothing in the last one.
#[tokio::test(start_paused = true)]
async fn a_token_that_comes_again_without_a_word_of_its_end_keeps_the_one_that_was_known() {
    const LIFE: Duration = Duration::from_secs(600);
    for (is_kept_fresh, every) in
        [(true, 60 * SECOND), (false, 60 * SECOND), (false, Duration::from_millis(100))]
    {
        let (calls, hub) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new((0, Instant::now()))));
        let (counted, asked) = (calls.clone(), hub.clone());
        let session = Session::builder(source_fn(move |_: FetchContext| {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut hub = asked.lock().unwrap();
            if hub.1 <= Instant::now() {
                *hub = (hub.0 + 1, Instant::now() + LIFE);
            }
            let left = Duration::from_secs((hub.1 - Instant::now()).as_secs());
            let token = Token::new(format!("token-{}", hub.0)).expires_in(left);
            async move { Ok::<_, FetchError>(token) }
        }))
        .build();
        let keeper = is_kept_fresh.then(|| tokio::spawn(session.keep_fresh()));
        let end = Instant::now() + 5 * LIFE;
        tokio::time::sleep(Duration::from_millis(137)).await;
        while Instant::now() < end {
            let token = session.token().await.unwrap();
            let (number, until) = *hub.lock().unwrap();
            assert_eq!(token.access().expose(), format!("token-{number}"));
            let is_over_for = Instant::now().saturating_duration_since(until);
            assert!(is_over_for <= SECOND, "every {every:?}: {is_over_for:?}");
            tokio::time::sleep(every).await;
        }
        assert!(calls.load(Ordering::SeqCst) <= 100, "every {every:?}: {calls:?}");
        keeper.inspect(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_ended_and_comes_again_without_a_word_of_that_is_asked_for_once_a_second() {
    let (session, calls) = counted(|number| (number == 0).then_some(10 * SECOND));
    let session = session.renewal(RenewalMode::Off).build();
    for _ in 0..700 {
        session.token().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 61);
}

/// Whoever has presented a refresh token may have had the token prolonged, as that hub cannot.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_brings_the_same_token_without_a_word_of_its_end_has_prolonged_it() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let session = Session::builder(source_fn(move |cx: FetchContext| {
        let is_first = cx.refresh_token().is_none();
        let refresh_token = format!("R{}", counted.fetch_add(1, Ordering::SeqCst));
        let token = Token::new("token").refresh_token(refresh_token);
        async move { Ok::<_, FetchError>(token.expires_in(is_first.then_some(LIFE))) }
    }))
    .build();
    let keeper = tokio::spawn(session.keep_fresh());
    tokio::time::sleep(3 * LIFE).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    keeper.abort();
}

/// What changes inside of its pause moves that no further.
#[tokio::test(start_paused = true)]
async fn the_keepers_pace_does_not_depend_on_what_changes_meanwhile() {
    let (session, fetches) = counted(|_| Some(Duration::from_millis(1)));
    let session = session.build();
    let keeper = tokio::spawn(session.keep_fresh());
    for _ in 0..100 {
        session.credentials_changed();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((18..=21).contains(&fetches.load(Ordering::SeqCst)), "{fetches:?}");
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn the_keeper_ends_with_its_session() {
    let session = Session::builder(source_fn(|_: FetchContext| async {
        Ok::<_, FetchError>(Token::new("token").expires_in(LIFE))
    }))
    .build();
    session.token().await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    tokio::time::sleep(SECOND).await;
    drop(session);
    within(keeper).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_to_last_costs_one_refresh_at_most() {
    let (world, clock) = world(|session| session).await;
    clock.advance(LIFE / 2);
    let present = world.session.token_valid_for(LIFE / 2).await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 0);
    let longer = world.session.token_valid_for(LIFE / 2 + SECOND).await.unwrap();
    assert_ne!(present.access().expose(), longer.access().expose());
    for _ in 0..5 {
        world.session.token_valid_for(2 * LIFE).await.unwrap();
    }
    assert_eq!(world.authority.counts().refreshes, 1, "no token lives that long");
    clock.advance(LIFE / 2);
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let what_there_is = world.session.token_valid_for(LIFE).await.unwrap();
    assert_eq!(what_there_is.access().expose(), longer.access().expose());
}

/// Its save has taken longer than it lives.
#[tokio::test(start_paused = true)]
async fn a_token_that_has_to_last_costs_one_refresh_although_that_has_expired_when_it_comes() {
    let (clock, store, saving) = (TestClock::new(), Watched::default(), Gate::new());
    store.set(|store| store.hold_save = Some(saving.clone()));
    let fetches = Arc::new(AtomicUsize::new(0));
    let counted = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Token::new("short").expires_in(2 * SECOND)) }
    });
    let session = Session::builder(source).clock(clock.clone()).store(store.clone()).build();
    let mut token = task::spawn(session.token_valid_for(60 * SECOND));
    assert_pending!(token.poll());
    within(saving.waiting(1)).await;
    clock.advance(3 * SECOND);
    saving.open();
    assert_eq!(within(token).await.unwrap().access().expose(), "short");
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_due_and_expires_at_its_moment_to_the_nanosecond() {
    const NANOSECOND: Duration = Duration::from_nanos(1);
    let (renewed, clock) = world(|session| session).await;
    clock.advance(LIFE - 60 * SECOND - NANOSECOND);
    renewed.get("/").await.unwrap();
    renewed.session.settle().await.unwrap();
    assert_eq!(renewed.authority.counts().refreshes, 0);
    clock.advance(NANOSECOND);
    renewed.get("/").await.unwrap();
    renewed.session.settle().await.unwrap();
    assert_eq!(renewed.authority.counts().refreshes, 1);

    for by_request in [true, false] {
        let (world, clock) = world(|session| session.renewal(RenewalMode::Off)).await;
        let first = world.session.token().await.unwrap();
        clock.advance(LIFE - NANOSECOND);
        assert_eq!(world.session.token().await.unwrap().access().expose(), first.access().expose());
        clock.advance(NANOSECOND);
        if by_request {
            world.get("/").await.unwrap();
            assert_eq!(world.api.requests().len(), 1, "nothing was sent with the dead token");
        }
        assert_ne!(world.session.token().await.unwrap().access().expose(), first.access().expose());
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_is_drawn_anew_for_each_token() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (clock, fetches) = (TestClock::new(), Arc::new(AtomicUsize::new(0)));
    let counted = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, FetchError>(Token::new("token").expires_in(LIFE)) }
    });
    let session =
        Session::builder(source).clock(clock.clone()).renew_before(MINUTE).renewal_jitter(MINUTE).build();
    session.token().await.unwrap();
    let mut early = 0;
    for _ in 0..40 {
        let before = fetches.load(Ordering::SeqCst);
        // Due two minutes before its end at the earliest, and one minute at the latest.
        clock.advance(LIFE - 90 * SECOND);
        session.token().await.unwrap();
        session.settle().await.unwrap();
        if fetches.load(Ordering::SeqCst) > before {
            early += 1;
        } else {
            clock.advance(30 * SECOND);
            session.token().await.unwrap();
            session.settle().await.unwrap();
        }
        assert_eq!(fetches.load(Ordering::SeqCst), before + 1);
    }
    assert!((1..40).contains(&early), "{early} of 40 came early");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unknown_life_is_never_renewed() {
    let (clock, fetches) = (TestClock::new(), Arc::new(AtomicUsize::new(0)));
    let counted = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, FetchError>(Token::new("for-ever")) }
    });
    let session = Session::builder(source).clock(clock.clone()).build();
    let keeper = tokio::spawn(session.keep_fresh());
    for _ in 0..100 {
        session.token().await.unwrap();
        session.settle().await.unwrap();
        clock.advance(Duration::from_secs(365 * 86_400));
        tokio::time::sleep(60 * SECOND).await;
    }
    keeper.abort();
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_for_more_than_the_clock() {
    let (world, _clock) = world(|session| session).await;
    world.authority.revoke_access();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1, "long before it was due");
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_that_does_not_last_is_refreshed_whatever_its_whole_life_was() {
    let store = MemoryStore::new();
    let (before, clock) = world(|session| session.store(store.clone())).await;
    clock.advance(LIFE - 600 * SECOND);
    let after = Session::builder(before.authority.source()).store(store).clock(clock).build();
    let stored = after.token().await.unwrap();
    let longer = after.token_valid_for(LIFE / 2).await.unwrap();
    assert_ne!(stored.access().expose(), longer.access().expose());
    after.token_valid_for(2 * LIFE).await.unwrap();
    assert_eq!(before.authority.counts().refreshes, 1, "and no other lives longer");
}

/// As a helper of git does, which is a new process each time.
#[tokio::test(start_paused = true)]
async fn the_first_token_of_a_process_lasts_as_long_as_is_asked_for() {
    let (clock, store) = (TestClock::new(), Watched::default());
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(LIFE);
    let process = || Session::builder(authority.source()).store(store.clone()).clock(clock.clone()).build();
    let stored = process().token().await.unwrap();
    for (passes, left, refreshes) in [(LIFE - 301 * SECOND, 301, 0), (291 * SECOND, 10, 1)] {
        clock.advance(passes);
        let token = process().token_valid_for(300 * SECOND).await.unwrap();
        assert_eq!(authority.counts().refreshes, refreshes, "{left} s were left");
        assert_eq!(token.access().expose() == stored.access().expose(), refreshes == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_refresh_of_a_process_is_one() {
    let store = Watched::default();
    let authority = ModelAuthority::new();
    let process = || Session::builder(authority.source()).store(store.clone()).build();
    let stored = process().token().await.unwrap();
    let session = process();
    let (refreshed, meanwhile) = tokio::join!(session.refresh(), session.token());
    let refreshed = refreshed.unwrap();
    assert_ne!(refreshed.access().expose(), stored.access().expose());
    assert_eq!(meanwhile.unwrap().access().expose(), stored.access().expose(), "which is good enough");
    assert_eq!((authority.counts().logins, authority.counts().refreshes), (1, 1));

    authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let session = process();
    assert!(session.refresh().await.unwrap_err().is_transient());
    let stored = session.token().await.unwrap();
    assert_eq!(stored.access().expose(), refreshed.access().expose());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_handed_over_late_in_its_life_does_not_last() {
    for by_login in [true, false] {
        let (before, clock) = world(|session| session).await;
        clock.advance(LIFE - 600 * SECOND);
        let late = before.session.token().await.unwrap();
        let session = Session::builder(before.authority.source()).clock(clock).build();
        let handed = late.clone();
        let changed = if by_login { session.login(handed).await } else { session.replace(handed).await };
        changed.unwrap();
        let longer = session.token_valid_for(LIFE / 2).await.unwrap();
        assert_ne!(late.access().expose(), longer.access().expose());
        session.token_valid_for(2 * LIFE).await.unwrap();
        assert_eq!(before.authority.counts().refreshes, 1, "and no other lives longer");
    }
}

/// Two processes on a store that tells of nothing, whose tokens `one-1`, `other-1` and so on live for an hour.
struct Siblings {
    one: Session,
    other: Session,
    clock: TestClock,
    fetches: Arc<AtomicUsize>,
    is_away: Arc<AtomicBool>,
}

impl Siblings {
    fn new() -> Self {
        let (store, clock) = (Watched::default(), TestClock::new());
        let (fetches, is_away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let session = |name: &'static str| {
            let (own, all, is_away) = (AtomicUsize::new(0), fetches.clone(), is_away.clone());
            let source = source_fn(move |_| {
                all.fetch_add(1, Ordering::SeqCst);
                let number = own.fetch_add(1, Ordering::SeqCst) + 1;
                let is_away = is_away.load(Ordering::SeqCst);
                async move {
                    let token = Token::new(format!("{name}-{number}")).expires_in(3600 * SECOND);
                    if is_away { Err(FetchError::transient("away")) } else { Ok(token) }
                }
            });
            let builder = Session::builder(source).store(store.clone()).clock(clock.clone());
            builder.renewal_jitter(Duration::ZERO).build()
        };
        Siblings { one: session("one"), other: session("other"), clock, fetches, is_away }
    }

    /// The other one has the first token of the one, which has refreshed it 600 s later.
    async fn that_have_refreshed_once() -> Self {
        let siblings = Siblings::new();
        siblings.one.token().await.unwrap();
        siblings.other.token().await.unwrap();
        siblings.clock.advance(600 * SECOND);
        siblings.one.refresh().await.unwrap();
        siblings
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

async fn access(token: impl Future<Output = Result<Token, Error>>) -> String {
    token.await.unwrap().access().expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_token_found_by_a_refresh_is_not_taken_for_a_young_one() {
    let siblings = Siblings::that_have_refreshed_once().await;
    siblings.clock.advance(2900 * SECOND);
    let mut lasts = Vec::new();
    for _ in 0..3 {
        lasts.push(access(siblings.other.token_valid_for(2000 * SECOND)).await);
    }
    assert_eq!(lasts, ["other-1"; 3], "one-2 had 700 s left when it was found");
}

#[tokio::test(start_paused = true)]
async fn what_a_refresh_finds_in_the_store_is_no_answer_where_it_lives_too_short() {
    // `one-2` has 601 s left when it is found.
    for (time, is_away, expected, fetches) in
        [(601, false, "one-2", 2), (602, false, "other-1", 3), (602, true, "one-2", 3)]
    {
        let siblings = Siblings::that_have_refreshed_once().await;
        siblings.clock.advance(2999 * SECOND);
        siblings.is_away.store(is_away, Ordering::SeqCst);
        let token = access(siblings.other.token_valid_for(time * SECOND)).await;
        assert_eq!((token.as_str(), siblings.fetches()), (expected, fetches), "{time} {is_away}");
    }
    let siblings = Siblings::that_have_refreshed_once().await;
    siblings.clock.advance(2999 * SECOND);
    assert_eq!(access(siblings.other.refresh()).await, "one-2", "whoever wants another one has it");
}

#[tokio::test(start_paused = true)]
async fn what_is_found_after_a_fetch_costs_no_second_one() {
    let (store, clock, fetches) = (Watched::default(), TestClock::new(), Arc::new(AtomicUsize::new(0)));
    let (memory, times, now) = (store.memory.clone(), fetches.clone(), clock.clone());
    // Its refresh token is refused, because a sibling has just spent it and has saved what it has got.
    let source = source_fn(move |_| {
        times.fetch_add(1, Ordering::SeqCst);
        let (memory, now) = (memory.clone(), now.clone());
        async move {
            let mut record = memory.load().await.unwrap().unwrap();
            record.revision += 1;
            let mut token = StoredToken::new("siblings");
            token.expires_at = Some(now.wall() + 10 * SECOND);
            record.token = Some(token);
            memory.save(&record, None).await.unwrap();
            Err(FetchError::login_required("spent"))
        }
    });
    let session = Session::builder(source).store(store).clock(clock.clone()).build();
    session.login(Token::new("ours").refresh_token("R").expires_in(LIFE)).await.unwrap();
    clock.advance(LIFE - 100 * SECOND);
    assert_eq!(access(session.token_valid_for(300 * SECOND)).await, "siblings");
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn processes_that_ask_for_more_than_any_token_lives_fetch_no_oftener_than_they_would_alone() {
    let mut fetches = Vec::new();
    for processes in [1, 2] {
        let siblings = Siblings::new();
        for _ in 0..600 {
            for (at, session) in [&siblings.one, &siblings.other].into_iter().enumerate() {
                if at < processes {
                    session.token_valid_for(7200 * SECOND).await.unwrap();
                }
                siblings.clock.advance(30 * SECOND);
            }
        }
        fetches.push(siblings.fetches());
    }
    assert!(fetches[1] <= 2 * fetches[0], "{fetches:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_failed_after_a_refusal_cools_down_for_a_renewal_too() {
    let (world, clock) = world(|session| session).await;
    let _ = world.api.clone().route("/refused", Route::Always(Refusal::Unauthorized));
    let later = Failure::RetryAfter(StatusCode::SERVICE_UNAVAILABLE, 30 * SECOND);
    world.authority.fail_next(Endpoint::Refresh, later);
    clock.advance(LIFE - 61 * SECOND);
    assert_eq!(world.get("/refused").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // It is due after a second.
    for (passes, refreshes) in [(1, 1), (28, 1), (10, 2)] {
        clock.advance(passes * SECOND);
        assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
        world.session.settle().await.unwrap();
        assert_eq!(world.authority.counts().refreshes, refreshes);
    }
}
