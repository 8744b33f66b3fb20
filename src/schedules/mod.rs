//! Requests, changes of the session, failures and cancellations, in many orders of the same steps.
//!
//! Nothing here is left to the order in which tokio polls its tasks: those of the library and those of the test take
//! turns by the dice, and so do the store and the authority. A run follows from its seed. `SCHEDULES=10000 cargo test
//! --lib schedules` tries more of them.

mod body;
mod world;

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, thread, time::Duration};

use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::world::{ANSWERED_WITHIN, Answer, Failing, World};
use crate::{
    ErrorKind,
    random::repeat_random_numbers,
    sync::turns::{Dice, below, in_turn},
};

/// Plays a scene in as many orders as `SCHEDULES` says, or 200.
fn in_many_orders(scene: impl AsyncFn(Arc<World>)) {
    struct Named(u64);

    impl Drop for Named {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("the order follows from the seed {}", self.0);
            }
        }
    }

    let orders = std::env::var("SCHEDULES").map_or(200, |orders| orders.parse().expect("a number"));
    for seed in 0..orders {
        let _named = Named(seed);
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        Dice::cast(seed);
        repeat_random_numbers(seed);
        runtime.block_on(async {
            let world = World::new().await;
            scene(world.clone()).await;
            world.rest().await;
        });
    }
}

/// Callers that make requests all at once.
struct Callers(JoinSet<Option<Answer>>);

impl Callers {
    fn of(world: &Arc<World>, count: usize) -> Self {
        Self::leaving(world, count, 0)
    }

    /// The same, but of 100 turns they leave at that many.
    fn leaving(world: &Arc<World>, count: usize, of_100: u64) -> Self {
        let mut callers = JoinSet::new();
        for _ in 0..count {
            callers.spawn(in_turn(leaving(world.clone().request(), of_100)));
        }
        Callers(callers)
    }

    /// What those got who have stayed.
    async fn answers(self) -> Vec<Answer> {
        let answers = timeout(ANSWERED_WITHIN, self.0.join_all()).await;
        answers.expect("every caller is answered").into_iter().flatten().collect()
    }
}

/// A future that is dropped at any of its turns.
async fn leaving<F: Future>(future: F, of_100: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if below(100) < of_100 {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

fn are_all(answers: &[Answer], allowed: &[Answer]) -> bool {
    answers.iter().all(|answer| allowed.contains(answer))
}

#[test]
fn burst_of_refusals_costs_one_fetch() {
    in_many_orders(async |world| {
        world.revoke();
        let answers = Callers::of(&world, 6).answers().await;
        assert!(are_all(&answers, &[Answer::Accepted]), "{answers:?}");
        assert_eq!(world.fetches(), 1);
    });
}

#[test]
fn callers_that_leave_cancel_nothing_and_leave_nothing_behind() {
    in_many_orders(async |world| {
        world.revoke();
        let leavers = Callers::leaving(&world, 5, 10);
        let stayers = Callers::of(&world, 1);
        let answers = [leavers.answers().await, stayers.answers().await].concat();
        assert!(are_all(&answers, &[Answer::Accepted]), "{answers:?}");
        assert_eq!(world.fetches(), 1);
    });
}

#[test]
fn refresh_that_everybody_has_left_ends() {
    in_many_orders(async |world| {
        world.revoke();
        let before = world.current();
        let answers = Callers::leaving(&world, 4, 20).answers().await;
        assert!(are_all(&answers, &[Answer::Accepted]), "{answers:?}");
        world.session.settle().await.expect("nothing fails");
        assert_eq!(world.current() != before, world.fetches() == 1);
    });
}

#[test]
fn nothing_comes_after_a_logout() {
    in_many_orders(async |world| {
        world.revoke();
        let callers = Callers::of(&world, 4);
        let logout = tokio::spawn(in_turn(world.clone().logout()));
        let answers = callers.answers().await;
        let ended = ErrorKind::SessionEnded;
        let allowed = [Answer::Accepted, Answer::Refused(Some(ended)), Answer::Failed(ended)];
        assert!(are_all(&answers, &allowed), "{answers:?}");
        logout.await.expect("it does not panic");
        assert!(world.session.token().await.is_err());
        world.session.settle().await.expect("nothing fails");
        assert_eq!(world.current(), None);
        assert!(world.fetches() <= 1);
    });
}

#[test]
fn logout_reaches_a_store_that_fails() {
    in_many_orders(async |world| {
        world.revoke();
        world.fail_store(30);
        let callers = Callers::of(&world, 2);
        let logout = tokio::spawn(in_turn(world.clone().logout()));
        callers.answers().await;
        logout.await.expect("it does not panic");
        world.heal();
        assert_eq!(world.current(), None);
    });
}

#[test]
fn no_request_goes_on_as_somebody_else() {
    in_many_orders(async |world| {
        world.revoke();
        let callers = Callers::of(&world, 4);
        let login = tokio::spawn(in_turn(world.clone().login("second")));
        let answers = callers.answers().await;
        let allowed = [Answer::Accepted, Answer::Refused(Some(ErrorKind::SessionChanged))];
        assert!(are_all(&answers, &allowed), "{answers:?}");
        login.await.expect("it does not panic");
        assert_eq!(world.identity().as_deref(), Some("second"));
        assert!(world.fetches() <= 1);
    });
}

#[test]
fn replaced_token_answers_whoever_was_refused_with_the_one_before() {
    in_many_orders(async |world| {
        world.revoke();
        let callers = Callers::of(&world, 4);
        let replace = tokio::spawn(in_turn(world.clone().replace()));
        let answers = callers.answers().await;
        replace.await.expect("it does not panic");
        assert!(are_all(&answers, &[Answer::Accepted]), "{answers:?}");
        assert!(world.fetches() <= 1);
    });
}

#[test]
fn failed_fetch_is_shared_and_not_tried_again_at_once() {
    for failing in [Failing::Transient, Failing::Panic, Failing::Hang] {
        in_many_orders(async |world| {
            world.revoke();
            world.fail_fetches([failing]);
            let start = Instant::now();
            let answers = Callers::of(&world, 4).answers().await;
            assert!(start.elapsed() < Duration::from_secs(31), "it was known after 30 seconds");
            let kind = match failing {
                Failing::Transient => ErrorKind::Transient,
                Failing::Panic => ErrorKind::Panic,
                Failing::Hang => ErrorKind::Timeout,
            };
            assert!(are_all(&answers, &[Answer::Refused(Some(kind))]), "{answers:?}");
            assert_eq!(world.fetches(), 1);
            recovers(&world).await;
        });
    }
}

#[test]
fn store_that_fails_costs_nobody_an_answer_and_gets_all_of_it_later() {
    in_many_orders(async |world| {
        world.revoke();
        world.fail_store(30);
        let answers = Callers::of(&world, 4).answers().await;
        assert!(!answers.is_empty());
        recovers(&world).await;
    });
}

#[test]
fn panic_in_any_task_of_the_library_leaves_nobody_waiting() {
    in_many_orders(async |world| {
        world.revoke();
        world.make_tasks_panic(100);
        let callers = Callers::of(&world, 4);
        // Which would put an end to what is left of a flight.
        let login = (below(2) == 0).then(|| tokio::spawn(in_turn(world.clone().login("second"))));
        callers.answers().await;
        if let Some(login) = login {
            login.await.expect("it does not panic");
        }
        recovers(&world).await;
    });
}

#[test]
fn everything_at_once() {
    in_many_orders(async |world| {
        world.revoke();
        world.fail_store(below(20));
        world.fail_fetches(
            [Failing::Panic, Failing::Hang, Failing::Transient].into_iter().take(below(4) as usize),
        );
        let leavers = Callers::leaving(&world, 3, 5);
        let stayers = Callers::of(&world, 3);
        let mut changes = JoinSet::new();
        changes.spawn(in_turn(world.clone().replace()));
        changes.spawn(in_turn(world.clone().logout()));
        changes.spawn(in_turn(world.clone().login("second")));
        leavers.answers().await;
        stayers.answers().await;
        timeout(ANSWERED_WITHIN, changes.join_all()).await.expect("every change is answered");
        recovers(&world).await;
    });
}

/// Once nothing fails any more, and after the longest cooling, a refresh succeeds, unless nobody is logged in.
async fn recovers(world: &World) {
    world.heal();
    sleep(Duration::from_secs(600)).await;
    let refreshed = world.session.refresh().await;
    assert!(refreshed.is_ok() || world.current().is_none(), "{refreshed:?}");
}
