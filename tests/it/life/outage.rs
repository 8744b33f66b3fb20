//! An hour without the authority, under load.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Response, StatusCode};
use tokio::time::Instant;
use tower::Service;
use tower_token_refresh::{
    BoxError, Error,
    test_util::{Endpoint, Failure, ModelAuthority, ModelBody, TestClock},
};

use crate::world::{World, get};

const REQUESTS_A_SECOND: usize = 1000;
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// What became of the requests of one second.
#[derive(Default)]
struct Answers {
    at_once: usize,
    with_a_flight: usize,
    accepted: usize,
}

/// All requests of a second at the same moment. Whoever does not wait for a flight is answered in its first poll; no
/// time passes for those who do.
async fn a_second_of(world: &World) -> Answers {
    let (mut client, request, start) = (world.client.clone(), get("/"), Instant::now());
    let mut answers = Answers::default();
    let mut count = |answer: Result<Response<ModelBody>, BoxError>| match answer {
        Ok(response) => {
            assert_eq!(response.status(), StatusCode::OK);
            answers.accepted += 1;
        }
        Err(error) => assert!(Error::find(&*error).expect("an error of ours").is_transient()),
    };
    let mut waiting = Vec::new();
    for _ in 0..REQUESTS_A_SECOND {
        let mut call = client.call(request.clone());
        match Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => count(answer),
            Poll::Pending => waiting.push(call),
        }
    }
    let with_a_flight = waiting.len();
    for call in waiting {
        count(call.await);
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for the end of a cooling");
    Answers { with_a_flight, at_once: REQUESTS_A_SECOND - with_a_flight, ..answers }
}

/// How many fetches fit into that time, if they cool down for this factor of what is documented (1 s, doubling up to
/// 60 s) and nobody asks for so many seconds more.
fn fetches_within(time: Duration, factor: f64, pause: f64) -> usize {
    let coolings = (0..).map(|failures| f64::from(60.min(1_u32 << failures.min(6))) * factor + pause);
    let mut starts = coolings.scan(0.0, |start, cooling| {
        *start += cooling;
        Some(*start)
    });
    1 + starts.position(|start| start >= time.as_secs_f64()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_authority_costs_a_fetch_for_each_step_of_the_back_off_and_holds_nobody_up() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone());
    let world = World::with(authority, |session| session.clock(clock.clone()), |layer| layer);
    world.session.token().await.unwrap();
    clock.advance(2 * HOUR);
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "down"));

    let (start, mut at_once, mut with_a_flight) = (Instant::now(), 0, 0);
    while start.elapsed() < HOUR {
        let answers = a_second_of(&world).await;
        assert_eq!(answers.accepted, 0);
        at_once += answers.at_once;
        with_a_flight += answers.with_a_flight;
        tokio::time::advance(SECOND).await;
    }
    assert_eq!(at_once + with_a_flight, 3_600_000);
    assert!(world.api.requests().is_empty(), "nothing was sent with an expired token");
    let fetches = world.authority.counts().refreshes;
    let (least, most) = (fetches_within(HOUR, 1.25, 1.0), fetches_within(HOUR, 0.75, 0.0));
    assert!((least..=most).contains(&fetches), "{fetches} fetches");

    world.authority.heal(Endpoint::Refresh);
    let recovery = Instant::now();
    let recovered = loop {
        let answers = a_second_of(&world).await;
        if answers.accepted > 0 {
            assert_eq!(answers.accepted, answers.with_a_flight, "all who came at that moment");
            break recovery.elapsed();
        }
        tokio::time::advance(SECOND).await;
    };
    assert!(
        recovered <= Duration::from_secs(76),
        "one step of the back-off and the second between two looks"
    );
    assert_eq!(a_second_of(&world).await.accepted, REQUESTS_A_SECOND);
    let counts = world.authority.counts();
    assert_eq!((counts.refreshes, counts.logins, counts.family_deaths), (fetches + 1, 1, 0));
    println!(
        "authority down for an hour, 1,000 requests/s, all run: {fetches} fetches ({least} to {most} are possible), {at_once} callers \
         answered at once, {with_a_flight} with the flight they came to, 0 s waited by any; first success \
         {} s after the recovery",
        recovered.as_secs()
    );
}
