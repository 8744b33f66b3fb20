//! One refresh for everybody: who starts it, who joins, who is told what.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::TryFutureExt;
use http::StatusCode;
use tokio::{
    sync::Barrier,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, NotResent, Outcome, RefreshFailure, Session, Token,
    TokenRefreshLayer,
    event::Event,
    session::{RenewalMode, SessionBuilder},
    source_fn,
    store::MemoryStore,
    test_util::{Endpoint, Failure, Gate, ModelAuthority, ModelBody, Phase, Refusal, Route, TestClock},
};

use crate::{
    script::outcome,
    script::within,
    world::{World, get, origin},
};

fn failure_of(response: &http::Response<ModelBody>) -> &Error {
    response.extensions().get::<RefreshFailure>().expect("a failed refresh").error()
}

/// N requests whose refusals are all out before anything goes on, and a first one that leads: its refusal alone has
/// started the refresh when `meddle` is called.
async fn storm<F: Future<Output = ()>>(
    requests: usize,
    fault: Option<Failure>,
    meddle: impl FnOnce(JoinHandle<Answered>) -> F,
) -> (World, Vec<Answered>) {
    let world = World::with(ModelAuthority::new().newest_only(), |session| session, |layer| layer);
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let leaders = world.api.hold_path(Phase::Answer, "/leader");
    let others = world.api.hold_path(Phase::Answer, "/");
    let fetches = world.authority.hold(Endpoint::Refresh);
    if let Some(fault) = fault {
        world.authority.fail_next(Endpoint::Refresh, fault);
    }
    let barrier = Arc::new(Barrier::new(requests));
    let mut calls = JoinSet::new();
    for _ in 0..requests {
        let (client, barrier) = (world.client.clone(), barrier.clone());
        calls.spawn(async move {
            barrier.wait().await;
            client.oneshot(get("/")).await.map(answered)
        });
    }
    let leader = tokio::spawn(world.client.clone().oneshot(get("/leader")).map_ok(answered));
    leaders.waiting(1).await;
    others.waiting(requests).await;
    leaders.open();
    fetches.waiting(1).await;
    meddle(leader).await;
    others.open();
    fetches.open();
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), requests, "every caller has an answer");
    (world, answers)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_refresh_has_failed_can_be_made_an_error() {
    let world = World::revoked().await;
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let error = RefreshFailure::into_err(world.get("/").await).unwrap_err();
    assert!(Error::find(&*error).unwrap().is_transient());
    let world = World::new();
    let response = RefreshFailure::into_err(world.get("/").await).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

type Answered = Result<(StatusCode, Option<ErrorKind>), BoxError>;

fn answered(response: http::Response<ModelBody>) -> (StatusCode, Option<ErrorKind>) {
    (response.status(), response.extensions().get::<RefreshFailure>().map(|failure| failure.error().kind()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_refusals_at_once_cost_one_token_call() {
    for _ in 0..100 {
        let (world, answers) = storm(1000, None, async |leader| drop(leader)).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok((StatusCode::OK, None)))));
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_refusals_cost_one_token_call_when_their_leader_gives_up() {
    for _ in 0..20 {
        let give_up = async |leader: JoinHandle<Answered>| {
            leader.abort();
            assert!(leader.await.unwrap_err().is_cancelled());
        };
        let (world, answers) = storm(1000, None, give_up).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok((StatusCode::OK, None)))));
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_refusals_are_answered_when_the_authority_fails() {
    for (fault, kind) in [
        (Failure::Status(StatusCode::BAD_GATEWAY, "down"), ErrorKind::Transient),
        (Failure::LostAnswer, ErrorKind::Transient),
        (Failure::Garbage, ErrorKind::Transient),
        (Failure::OAuth("invalid_grant"), ErrorKind::LoginRequired),
    ] {
        let (world, answers) = storm(1000, Some(fault), async |leader| drop(leader)).await;
        let refused =
            |answer: &Answered| matches!(answer, Ok((StatusCode::UNAUTHORIZED, Some(why))) if *why == kind);
        assert!(answers.iter().all(refused));
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refusals_are_answered_when_the_authority_hangs() {
    let (world, answers) = storm(1000, Some(Failure::Hang), async |leader| drop(leader)).await;
    let overdue =
        |answer: &Answered| matches!(answer, Ok((StatusCode::UNAUTHORIZED, Some(ErrorKind::Timeout))));
    assert!(answers.iter().all(overdue));
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_give_up_cancel_no_refresh_and_leave_the_others_their_answer() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut leader = task::spawn(world.get("/"));
    assert_pending!(leader.poll());
    gate.waiting(1).await;
    let [mut gone, mut waiter] = [(); 2].map(|()| task::spawn(world.get("/")));
    assert_pending!(gone.poll());
    assert_pending!(waiter.poll());
    drop((leader, gone));
    gate.open();
    assert_eq!(within(waiter).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().presented_again(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_whose_callers_are_all_gone_is_finished_and_used() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut only = task::spawn(world.get("/"));
    assert_pending!(only.poll());
    gate.waiting(1).await;
    drop(only);
    gate.open();
    world.session.settle().await.unwrap();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_before_its_refusal_starts_no_refresh() {
    let world = World::revoked().await;
    let refusals = world.api.hold(Phase::Answer);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    refusals.waiting(1).await;
    drop(request);
    refusals.open();
    world.session.settle().await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_during_its_resend_ends_the_resend_and_nothing_else() {
    let world = World::revoked().await;
    let answers = world.api.hold(Phase::Answer);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    answers.let_through(1);
    while world.api.requests().len() < 2 {
        assert_pending!(request.poll());
        tokio::task::yield_now().await;
    }
    answers.waiting(1).await;
    drop(request);
    answers.waiting(0).await;
    answers.open();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_after_the_success_causes_no_error_and_no_event() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let authority = ModelAuthority::new();
    let world = World::with(
        authority,
        |session| session.observer(move |event: &Event<'_>| seen.lock().unwrap().push(format!("{event:?}"))),
        |layer| layer,
    );
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    world.session.settle().await.unwrap();
    assert!(request.is_woken(), "its refresh has succeeded");
    drop(request);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = told.lock().unwrap();
    assert!(told.len() == 2 && told.iter().all(|event| event.starts_with("Issued")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_that_dies_a_second_after_the_start_is_recovered_from_by_the_resend_alone() {
    // Our clock knows of two hours; the server is a second ahead.
    let (ours, theirs, store) = (TestClock::new(), TestClock::new(), MemoryStore::new());
    let authority = ModelAuthority::new().clock(theirs.clone());
    let process = || {
        let options = |session: SessionBuilder| {
            session.clock(ours.clone()).store(store.clone()).renewal(RenewalMode::Off)
        };
        World::with(authority.clone(), options, |layer| layer)
    };
    process().session.token().await.unwrap();
    ours.advance(Duration::from_secs(7198));
    theirs.advance(Duration::from_secs(7198));
    let world = process();
    world.session.start().await.unwrap();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    ours.advance(Duration::from_secs(1));
    theirs.advance(Duration::from_secs(2));
    assert_eq!(world.authority.counts().refreshes, 0);
    let response = world.get("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_joins_the_refresh_in_flight() {
    let world = World::revoked().await;
    let late = world.api.hold_path(Phase::Answer, "/late");
    let mut second = task::spawn(world.get("/late"));
    assert_pending!(second.poll());
    late.waiting(1).await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut first = task::spawn(world.get("/"));
    assert_pending!(first.poll());
    gate.waiting(1).await;
    late.open();
    assert_pending!(second.poll());
    gate.open();
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn late_refusal_of_an_old_generation_does_not_refresh() {
    let world = World::revoked().await;
    let late = world.api.hold_path(Phase::Answer, "/late");
    let mut request = task::spawn(world.get("/late"));
    assert_pending!(request.poll());
    late.waiting(1).await;
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    late.open();
    let response = within(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 1, "the late refusal was of a token that is gone");
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_is_not_resent_with_a_newer_token_that_has_expired_meanwhile() {
    const LIFE: Duration = Duration::from_secs(300);
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(LIFE);
    let world = World::with(authority, |session| session.clock(clock.clone()), |layer| layer);
    world.session.token().await.unwrap();
    let slow = world.api.hold_path(Phase::Judge, "/slow");
    let mut request = task::spawn(world.get("/slow"));
    assert_pending!(request.poll());
    slow.waiting(1).await;
    clock.advance(LIFE - Duration::from_secs(1));
    world.session.refresh().await.unwrap();
    clock.advance(LIFE);
    slow.open();
    let response = within(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn late_refusals_of_many_generations_do_not_refresh() {
    let world = World::revoked().await;
    let late = world.api.hold_path(Phase::Answer, "/late");
    let mut requests = Vec::new();
    for generation in 1..=5 {
        let mut request = task::spawn(world.get("/late"));
        assert_pending!(request.poll());
        late.waiting(generation).await;
        requests.push(request);
        world.session.refresh().await.unwrap();
        world.authority.revoke_access();
        world.session.refresh().await.unwrap();
    }
    let before = world.authority.counts().refreshes;
    late.open();
    for request in requests {
        assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().refreshes, before);
}

#[tokio::test(start_paused = true)]
async fn after_a_success_the_next_refusal_starts_a_new_flight() {
    let world = World::revoked().await;
    world.get("/").await.unwrap();
    world.authority.revoke_access();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_reaches_every_waiter_with_the_same_error() {
    let world = World::revoked().await;
    world.authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut requests: Vec<_> = (0..20).map(|_| task::spawn(world.get("/"))).collect();
    for request in &mut requests {
        assert_pending!(request.poll());
    }
    gate.waiting(1).await;
    gate.open();
    let mut causes = Vec::new();
    for request in requests {
        let response = within(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let error = failure_of(&response).clone();
        assert!(error.is_transient());
        causes.push(std::error::Error::source(&error).map(|cause| std::ptr::from_ref(cause).cast::<()>()));
    }
    assert!(causes.iter().all(|cause| cause.is_some() && *cause == causes[0]));
    assert_eq!(world.authority.counts().refreshes, 1);
}

/// All of them are refused before it fails, and its failure is not remembered.
#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_the_answer_of_all_who_were_refused_although_nothing_cools_down() {
    let world = World::with(
        ModelAuthority::new(),
        |session| session.cooling(Duration::ZERO, Duration::ZERO).unwrap(),
        |layer| layer,
    );
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    world.authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    let (answers, gate) = (world.api.hold(Phase::Answer), world.authority.hold(Endpoint::Refresh));
    let mut requests: Vec<_> = (0..20).map(|_| task::spawn(world.get("/"))).collect();
    requests.iter_mut().for_each(|request| assert_pending!(request.poll()));
    within(answers.waiting(20)).await;
    answers.open();
    requests.iter_mut().for_each(|request| assert_pending!(request.poll()));
    within(gate.waiting(1)).await;
    gate.open();
    for request in requests {
        let response = within(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(failure_of(&response).is_transient());
    }
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_cools_down_and_is_then_tried_again() {
    let world = World::revoked().await;
    world.authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    for _ in 0..50 {
        let response = world.get("/").await.unwrap();
        assert!(failure_of(&response).is_transient());
    }
    assert_eq!(world.authority.counts().refreshes, 1, "the failure is remembered while it cools down");
    tokio::time::advance(Duration::from_millis(1251)).await;
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn several_failures_in_a_row_leave_no_trace_after_a_success() {
    let world = World::revoked().await;
    let fail =
        || world.authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    for _ in 0..5 {
        fail();
        world.session.refresh().await.unwrap_err();
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    world.session.refresh().await.unwrap();
    fail();
    world.session.refresh().await.unwrap_err();
    tokio::time::advance(Duration::from_millis(1251)).await;
    world.session.refresh().await.unwrap();
    assert_eq!(world.authority.counts().refreshes, 8);
}

#[tokio::test(start_paused = true)]
async fn cooling_lasts_as_long_as_the_authority_asks() {
    let world = World::revoked().await;
    let wait = Failure::RetryAfter(StatusCode::TOO_MANY_REQUESTS, Duration::from_secs(90));
    world.authority.fail_next(Endpoint::Refresh, wait);
    let response = world.get("/").await.unwrap();
    assert_eq!(failure_of(&response).retry_after(), Some(Duration::from_secs(90)));
    tokio::time::advance(Duration::from_secs(89)).await;
    assert!(failure_of(&world.get("/").await.unwrap()).is_transient());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_through_the_cooling_asks_again() {
    let second = Duration::from_secs(1);
    for (slept, set_back, succeeds) in
        [(600 * second, false, true), (590 * second, false, false), (Duration::ZERO, true, false)]
    {
        let (clock, authority) = (TestClock::new(), ModelAuthority::new());
        let world = World::with(authority, |session| session.clock(clock.clone()), |layer| layer);
        let wait = Failure::RetryAfter(StatusCode::TOO_MANY_REQUESTS, 600 * second);
        world.authority.fail_next(Endpoint::Login, wait);
        world.session.token().await.unwrap_err();
        clock.suspend(slept);
        if set_back {
            clock.set_wall_back(3600 * second);
        }
        // The wall clock is read once a second.
        clock.advance(second);
        assert_eq!(world.session.token().await.is_ok(), succeeds, "{slept:?}");
        clock.advance(600 * second);
        world.session.token().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_cooling_each_ask_is_a_fetch_unless_the_failure_has_a_wait_of_its_own() {
    type Failing = fn(&'static str) -> FetchError;
    let cases: [(Failing, &str, usize); 5] = [
        (FetchError::transient, "transient", 3),
        (FetchError::configuration, "configuration", 3),
        (FetchError::ambiguous, "ambiguous", 3),
        (FetchError::unanswered, "unanswered", 1),
        (|cause| FetchError::transient(cause).retry_after(Duration::from_secs(1)), "asks for a wait", 1),
    ];
    for (failure, name, expected) in cases {
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        let source = source_fn(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err(failure(name)))
        });
        let session = Session::builder(source).cooling(Duration::ZERO, Duration::ZERO).unwrap().build();
        for _ in 0..3 {
            session.token().await.unwrap_err();
        }
        assert_eq!(fetches.load(Ordering::Relaxed), expected, "{name}");
        if name == "ambiguous" {
            // Two strikes more, and it is stalled.
            for _ in 0..2 {
                tokio::time::advance(Duration::from_secs(5 * 60)).await;
                session.token().await.unwrap_err();
            }
            assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Stalled);
            assert_eq!(fetches.load(Ordering::Relaxed), expected + 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_no_word_of_the_authority_is_told_at_once() {
    let world = World::revoked().await;
    world.authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    let start = Instant::now();
    assert!(failure_of(&within(world.get("/")).await.unwrap()).is_transient());
    assert_eq!(start.elapsed(), Duration::ZERO, "no sibling has to be looked for");
}

/// A world in which each new token is refused, by another request, before those see it that have waited for it.
struct Unlucky {
    world: World,
    refreshes: Gate,
}

impl Unlucky {
    async fn new() -> Self {
        let world = World::revoked().await;
        let refreshes = world.authority.hold(Endpoint::Refresh);
        Unlucky { world, refreshes }
    }

    /// Lets the refresh that is on land, and has the next one started.
    async fn again(&self) {
        self.refreshes.let_through(1);
        self.world.session.settle().await.unwrap();
        self.world.authority.revoke_access();
        // Past every damping: nobody has seen yet what the refreshes before were good for.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_pending!(task::spawn(self.world.get("/other")).poll());
        self.refreshes.waiting(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_two_refreshes_in_a_row_and_takes_what_they_brought() {
    let unlucky = Unlucky::new().await;
    let mut waiter = task::spawn(unlucky.world.session.refresh());
    assert_pending!(waiter.poll());
    unlucky.again().await;
    assert_pending!(waiter.poll());
    unlucky.again().await;
    let std::task::Poll::Ready(Ok(token)) = waiter.poll() else { panic!("it waits for a third") };
    let refused = unlucky.world.api.requests().last().unwrap().head.headers["authorization"].clone();
    assert_eq!(refused, format!("Bearer {}", token.access().expose()), "the latest, though it is refused");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_sent_again_however_often_its_token_is_condemned_meanwhile() {
    let unlucky = Unlucky::new().await;
    let mut waiter = task::spawn(unlucky.world.get("/waiter"));
    let sent =
        || unlucky.world.api.requests().iter().filter(|sent| sent.head.uri.path() == "/waiter").count();
    assert_pending!(waiter.poll());
    for refreshes in 0.. {
        assert!(refreshes <= 4, "it waits for ever");
        if waiter.poll().is_ready() {
            break;
        }
        unlucky.again().await;
    }
    assert_eq!(sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_over_is_asked_for_once() {
    let world = World::revoked().await;
    world.authority.revoke_all();
    let late = world.api.hold_path(Phase::Answer, "/late");
    let mut request = task::spawn(world.get("/late"));
    assert_pending!(request.poll());
    late.waiting(1).await;
    assert!(failure_of(&world.get("/").await.unwrap()).is_login_required());
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(600)).await;
        let start = Instant::now();
        assert!(failure_of(&world.get("/").await.unwrap()).is_login_required());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
    late.open();
    let response = within(request).await.unwrap();
    assert!(failure_of(&response).is_login_required(), "a late refusal gets the remembered answer");
    assert!(world.session.refresh().await.unwrap_err().is_login_required());
    assert_eq!(world.authority.counts().token_calls(), 2, "one login, one refresh");
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_for_one_login() {
    let world = World::new();
    let gate = world.authority.hold(Endpoint::Login);
    let mut requests: Vec<_> = (0..50).map(|_| task::spawn(world.get("/"))).collect();
    for request in &mut requests {
        assert_pending!(request.poll());
    }
    gate.waiting(1).await;
    assert!(world.api.requests().is_empty(), "nothing goes out without a token");
    gate.open();
    for request in requests {
        assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.authority.counts().logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_and_a_refresh_by_hand_share_one_flight() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    let mut by_hand = task::spawn(world.session.refresh());
    assert_pending!(by_hand.poll());
    let mut other = task::spawn(world.session.refresh());
    assert_pending!(other.poll());
    gate.waiting(1).await;
    gate.open();
    let (response, first, second) = tokio::join!(request, by_hand, other);
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    assert!(world.authority.is_alive(first.unwrap().access().expose()));
    assert!(world.authority.is_alive(second.unwrap().access().expose()));
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_by_hand_always_reports_its_failure() {
    let world = World::new();
    world.session.token().await.unwrap();
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    assert!(world.session.refresh().await.unwrap_err().is_transient());
    assert!(world.session.refresh().await.unwrap_err().is_transient(), "it respects the cooling");
    assert!(world.session.token().await.is_ok(), "the present token is as good as before");
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn new_requests_wait_after_a_reject_and_go_on_after_a_suspect() {
    for (refusal, waits) in [(Refusal::Unauthorized, true), (Refusal::Status(StatusCode::FORBIDDEN), false)] {
        let mut world = World::new();
        world.api = world.api.clone().route("/refused", Route::Always(refusal));
        world.session.token().await.unwrap();
        let gate = world.authority.hold(Endpoint::Refresh);
        let mut refused = task::spawn(world.get("/refused"));
        assert_pending!(refused.poll());
        gate.waiting(1).await;
        let mut healthy = task::spawn(world.get("/"));
        match healthy.poll() {
            std::task::Poll::Pending => assert!(waits),
            std::task::Poll::Ready(response) => {
                assert!(!waits);
                assert_eq!(response.unwrap().status(), StatusCode::OK);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reject_that_joins_a_suspects_flight_makes_new_requests_wait() {
    let mut world = World::new();
    world.api = world
        .api
        .clone()
        .route("/suspect", Route::Always(Refusal::Status(StatusCode::FORBIDDEN)))
        .route("/reject", Route::Always(Refusal::Unauthorized));
    world.session.token().await.unwrap();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut suspect = task::spawn(world.get("/suspect"));
    assert_pending!(suspect.poll());
    let mut before = task::spawn(world.get("/"));
    assert!(before.poll().is_ready());
    let mut reject = task::spawn(world.get("/reject"));
    assert_pending!(reject.poll());
    let mut after = task::spawn(world.get("/"));
    assert_pending!(after.poll());
    gate.open();
    assert_eq!(within(after).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn requests_go_out_again_when_the_refresh_that_condemned_their_token_fails() {
    let mut world = World::new();
    world.api = world.api.clone().route("/refused", Route::Always(Refusal::Unauthorized));
    world.session.token().await.unwrap();
    world.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refused = task::spawn(world.get("/refused"));
    assert_pending!(refused.poll());
    let mut healthy = task::spawn(world.get("/"));
    assert_pending!(healthy.poll());
    gate.open();
    assert!(failure_of(&within(refused).await.unwrap()).is_transient());
    assert_eq!(within(healthy).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_by_hand_after_a_replacement_is_not_content_with_what_was_there() {
    let world = World::new();
    world.session.token().await.unwrap();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut before = task::spawn(world.session.refresh());
    assert_pending!(before.poll());
    gate.waiting(1).await;
    let mut replaced = task::spawn(world.session.replace(Token::new("replaced")));
    assert_pending!(replaced.poll());
    // The fetch that has lost is still on.
    let mut after = task::spawn(world.session.refresh());
    assert_pending!(after.poll());
    gate.open();
    within(replaced).await.unwrap();
    assert_eq!(within(before).await.unwrap().access().expose(), "replaced");
    assert!(world.authority.is_alive(within(after).await.unwrap().access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_an_error_for_its_waiters_and_the_next_call_works() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(call > 0, "the first call panics");
            Ok::<_, FetchError>(Token::new("second"))
        }
    }))
    .build();
    let (first, second) = tokio::join!(session.token(), session.token());
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Panic);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Panic);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(session.token().await.unwrap().access().expose(), "second");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_before_its_future_is_an_error_too() {
    let session = Session::builder(source_fn(|cx: FetchContext| {
        assert!(cx.refresh_token().is_some(), "before the future");
        std::future::ready(Ok::<_, FetchError>(Token::new("never")))
    }))
    .build();
    assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Panic);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_an_error_within_the_refresh_timeout_for_newcomers_too() {
    let world = World::revoked().await;
    world.authority.fail_next(Endpoint::Refresh, Failure::Hang);
    let start = Instant::now();
    let response = within(world.get("/")).await.unwrap();
    assert_eq!(failure_of(&response).kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    let response = world.get("/").await.unwrap();
    assert_eq!(failure_of(&response).kind(), ErrorKind::Timeout);
    assert_eq!(world.session.refresh().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_secs(30), "newcomers do not wait at all");
    assert_eq!(world.authority.counts().refreshes, 1);

    tokio::time::sleep(Duration::from_secs(119)).await;
    let response = world.get("/").await.unwrap();
    assert_eq!(failure_of(&response).kind(), ErrorKind::Timeout);
    assert_eq!(
        world.authority.counts().refreshes,
        1,
        "given up after two minutes, and left alone for half of one"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_blocks_its_thread_is_an_error_within_the_refresh_timeout() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let _ = blocked.lock().unwrap().recv();
        std::future::ready(Ok::<_, FetchError>(Token::new("late")))
    }))
    .refresh_timeout(Duration::from_millis(50))
    .unwrap()
    .build();
    assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Timeout);
    release.send(()).unwrap();
    session.settle().await.unwrap();
    assert_eq!(session.token().await.unwrap().access().expose(), "late");
}

#[tokio::test(start_paused = true)]
async fn a_late_result_is_used_because_with_rotation_it_is_the_only_living_token() {
    let world = World::revoked().await;
    let gate = world.authority.hold(Endpoint::Refresh);
    let response = within(world.get("/")).await.unwrap();
    assert_eq!(failure_of(&response).kind(), ErrorKind::Timeout);
    gate.open();
    world.session.settle().await.unwrap();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    let counts = world.authority.counts();
    assert_eq!((counts.refreshes, counts.family_deaths), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn at_most_one_fetch_runs_whatever_is_asked() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new();
    let (counted, peak, held) = (running.clone(), most.clone(), gate.clone());
    let session = Session::builder(source_fn(move |_: FetchContext| {
        let (running, peak, gate) = (counted.clone(), peak.clone(), held.clone());
        async move {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            // Also counted when the fetch is dropped.
            let _running = Leaving(running);
            gate.pass().await;
            Ok::<_, FetchError>(Token::new("fetched"))
        }
    }))
    .build();
    let mut asks = JoinSet::new();
    let first = session.clone();
    asks.spawn(async move { first.token().await.map(drop) });
    gate.waiting(1).await;
    for round in 0..60 {
        let session = session.clone();
        asks.spawn(async move {
            match round % 3 {
                0 => session.token().await.map(drop),
                1 => session.refresh().await.map(drop),
                _ => session.replace(Token::new("replaced")).await,
            }
        });
    }
    gate.open();
    within(async { while asks.join_next().await.is_some() {} }).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_may_take_no_longer_than_its_waiters_is_given_up_with_them() {
    let running = Arc::new(AtomicUsize::new(0));
    let (counted, fetches) = (running.clone(), Gate::new());
    let held = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        let running = Leaving(counted.clone());
        let held = held.clone();
        async move {
            let _running = running;
            held.pass().await;
            Ok::<_, FetchError>(Token::new("never"))
        }
    });
    let builder = Session::builder(source).refresh_timeout(Duration::from_secs(5)).unwrap();
    let session = builder.abandon_after(Duration::from_secs(1)).unwrap().build();
    let start = Instant::now();
    let after = async |seconds| {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let error = within(session.token()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(running.load(Ordering::SeqCst), 0, "nothing is left of it");
        start.elapsed().as_secs()
    };
    assert_eq!(after(0).await, 5, "both limits are the longer of the two");
    assert_eq!(after(29).await, 34, "what has become of it is remembered");
    fetches.arrived(1).await;
    assert_eq!(after(2).await, 41, "it is asked again");
    fetches.arrived(2).await;
}

struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_never_share_a_flight_or_a_token() {
    let (mine, yours) = (World::revoked().await, World::new());
    let gate = mine.authority.hold(Endpoint::Refresh);
    let mut request = task::spawn(mine.get("/"));
    assert_pending!(request.poll());
    gate.waiting(1).await;
    assert_eq!(yours.get("/").await.unwrap().status(), StatusCode::OK);
    gate.open();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!((mine.authority.counts().logins, yours.authority.counts().logins), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn two_stacks_on_one_session_share_one_flight() {
    let world = World::revoked().await;
    let other = TokenRefreshLayer::new(world.session.clone(), origin()).layer(world.api.clone());
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut first = task::spawn(world.get("/"));
    let mut second = task::spawn(other.oneshot(get("/")));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    gate.waiting(1).await;
    gate.open();
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(world.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_token_is_resent_once_all_the_same() {
    // Some platforms answer the same string with a longer life.
    let session =
        Session::builder(source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("same")) }))
            .build();
    session.token().await.unwrap();
    let sends = Arc::new(AtomicUsize::new(0));
    let counted = sends.clone();
    let inner = tower::service_fn(move |_: http::Request<tower_token_refresh::ReplayBody<ModelBody>>| {
        let status = if counted.fetch_add(1, Ordering::SeqCst) == 0 { 401 } else { 200 };
        async move {
            Ok::<_, BoxError>(http::Response::builder().status(status).body(ModelBody::from("")).unwrap())
        }
    });
    let client = TokenRefreshLayer::new(session, origin()).layer(inner);
    let response = client.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(sends.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_real_revocation_recovers_at_once_although_another_endpoint_always_refuses() {
    let mut world = World::new();
    world.api = world.api.clone().route("/sick", Route::Always(Refusal::Unauthorized));
    world.session.token().await.unwrap();
    for _ in 0..3 {
        world.get("/sick").await.unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
    }
    world.authority.revoke_access();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    world.authority.revoke_access();
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK, "an accepted resend ends the damping");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_always_refuses_keeps_no_other_from_its_recovery() {
    for refusal in [Refusal::Unauthorized, Refusal::Status(StatusCode::FORBIDDEN)] {
        let mut world = World::new();
        world.api = world.api.clone().route("/sick", Route::Always(refusal));
        world.session.token().await.unwrap();
        let refreshes = || world.authority.counts().refreshes;
        for _ in 0..6 {
            let before = refreshes();
            while refreshes() == before {
                tokio::time::advance(Duration::from_secs(1)).await;
                world.get("/sick?and=more").await.unwrap();
            }
        }
        world.authority.revoke_access();
        let before = refreshes();
        assert_eq!(outcome(&world.get("/sick").await.unwrap()).not_resent(), Some(NotResent::Damped));
        assert_eq!(refreshes(), before);
        assert_eq!(
            world.get("/").await.unwrap().status(),
            StatusCode::OK,
            "it has been refused for the first time"
        );
        assert_eq!(refreshes(), before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn many_endpoints_that_always_refuse_are_damped_as_one() {
    let mut world = World::new();
    for item in 0..100 {
        world.api = world
            .api
            .clone()
            .route(&format!("/{item}"), Route::Always(Refusal::Status(StatusCode::FORBIDDEN)));
    }
    world.session.token().await.unwrap();
    for _ in 0..60 {
        for item in 0..100 {
            world.get(&format!("/{item}")).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let fetches = world.authority.counts().refreshes;
    assert_eq!(fetches, 8, "fetches in a minute: one each for the first eight, and none then");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_replaced_before_it_is_sent() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone());
    let world = World::with(authority, |session| session.clock(clock.clone()), |layer| layer);
    assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
    for (pass, refreshes) in [
        (TestClock::advance as fn(&TestClock, Duration), 1),
        (TestClock::suspend as fn(&TestClock, Duration), 2),
    ] {
        pass(&clock, Duration::from_secs(2 * 3600));
        // The wall clock is read once a second.
        clock.advance(Duration::from_secs(1));
        let mut requests: Vec<_> = (0..10).map(|_| task::spawn(world.get("/"))).collect();
        for request in &mut requests {
            let _ = request.poll();
        }
        for request in requests {
            let response = within(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.extensions().get::<Outcome>().is_none(), "it was sent once");
        }
        assert_eq!(world.authority.counts().refreshes, refreshes);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_always_expired_cost_one_fetch_a_request_and_no_loop() {
    let calls = Arc::new(AtomicUsize::new(0));
    let clock = TestClock::new();
    let (counted, moved) = (calls.clone(), clock.clone());
    let session = Session::builder(source_fn(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        let clock = moved.clone();
        async move {
            let token = Token::new("short").expires_in(Duration::from_nanos(1));
            // By the time anybody looks it has expired.
            tokio::spawn(async move { clock.advance(Duration::from_secs(1)) });
            tokio::task::yield_now().await;
            Ok::<_, FetchError>(token)
        }
    }))
    .clock(clock)
    .build();
    let token = pin!(session.token());
    assert_eq!(within(token).await.unwrap().access().expose(), "short");
    assert!(calls.load(Ordering::SeqCst) <= 2);
}
