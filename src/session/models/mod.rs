//! The published token, the slot, the flight and the store's queue between threads, in every schedule.
//!
//! The threads of a model take the steps of a refresh that are taken in a critical section. What is awaited in between
//! is permuted by `schedules`.

mod world;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use loom::thread;
use tokio::runtime::Builder;

use self::world::{Got, Refresh, World, join, refusal_of};
use super::{Acquire, Changes, State, ask::Ask, flight::Flight, lease::HeldLease};
use crate::{
    ErrorKind,
    error::BoxError,
    secret::Secret,
    store::{Lease, MemoryStore, Record, SessionId, StoredToken, TokenStore},
    sync::kit::{block_on, check, check_all},
};

fn got(token: &str) -> Got {
    Ok(token.to_owned())
}

#[test]
fn refusals_of_one_token_share_one_flight_however_late_they_come() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let callers = [world.ask(refusal_of(&old)), world.ask(refusal_of(&old))];
        let _task = refresh.conclude(&world, "new");
        for caller in callers {
            assert_eq!(join(caller), got("new"));
        }
        assert!(!world.is_flying());
    });
}

#[test]
fn two_refusals_at_once_start_one_flight() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let other = world.clone();
        let ask = refusal_of(&old);
        let other = thread::spawn(move || other.starts(ask));
        let starts = world.starts(ask);
        assert_ne!(starts, join(other));
    });
}

#[test]
fn whoever_was_answered_finds_nothing_older_than_the_answer() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.clone();
        let caller = thread::spawn(move || {
            let before = caller.at_hand();
            assert!(before.is_none_or(|token| token == "new"), "a refused token was sent");
            assert_eq!(join(caller.ask(Ask::Need)), got("new"));
            assert_eq!(caller.at_hand().as_deref(), Some("new"));
        });
        let _task = refresh.conclude(&world, "new");
        assert_eq!(world.at_hand().as_deref(), Some("new"));
        join(caller);
    });
}

#[test]
fn failed_refresh_is_shared_and_gives_the_token_back() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let refused = [world.ask(refusal_of(&old)), world.ask(refusal_of(&old))];
        let _task = refresh.fail(&world);
        for caller in refused {
            assert_eq!(join(caller), Err(ErrorKind::Transient));
        }
        assert_eq!(world.at_hand().as_deref(), Some("old"));
    });
}

#[test]
fn request_that_has_sent_nothing_gets_the_old_token_when_the_refresh_fails() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(Ask::Need);
        let _task = refresh.fail(&world);
        assert_eq!(join(caller), got("old"));
    });
}

#[test]
fn refresh_changes_nothing_after_a_logout() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        let leaver = world.clone();
        let leaver = thread::spawn(move || leaver.logout());
        let _task = refresh.conclude(&world, "new");
        join(leaver);
        assert!([got("new"), Err(ErrorKind::SessionEnded)].contains(&join(caller)));
        assert_eq!(world.current(), None);
        assert_eq!(join(world.ask(Ask::Need)), Err(ErrorKind::SessionEnded));
    });
}

#[test]
fn refused_request_never_gets_the_token_of_another_identity() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        let other = world.clone();
        let other = thread::spawn(move || other.login("other"));
        let _task = refresh.conclude(&world, "new");
        join(other);
        assert!([got("new"), Err(ErrorKind::SessionChanged)].contains(&join(caller)));
        assert_eq!(world.at_hand().as_deref(), Some("other"));
        assert!(!world.is_flying());
    });
}

#[test]
fn refused_request_that_has_waited_twice_gets_no_token_of_another_identity() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        world.replace("replaced");
        let replaced = world.engine.current().expect("it was put there");
        let other = world.ask(refusal_of(&replaced));
        world.login("other");
        assert!([got("replaced"), Err(ErrorKind::SessionChanged)].contains(&join(caller)));
        assert_eq!(join(other), Err(ErrorKind::SessionChanged));
        refresh.vanish();
    });
}

#[test]
fn replaced_token_stays_and_the_flight_that_it_has_overtaken_ends() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        let replacer = world.clone();
        let replacer = thread::spawn(move || replacer.replace("replaced"));
        let _task = refresh.conclude(&world, "new");
        join(replacer);
        assert!([got("new"), got("replaced")].contains(&join(caller)));
        assert_eq!(world.at_hand().as_deref(), Some("replaced"));
        assert!(!world.is_flying());
    });
}

#[test]
fn change_releases_the_waiters_of_a_flight_that_never_ends() {
    let after = |change: fn(&World), expected: Got| {
        check(move || {
            let (world, old) = World::with_token("old");
            let refresh = world.refuse(&old);
            let callers = [world.ask(refusal_of(&old)), world.ask(refusal_of(&old))];
            change(&world);
            for caller in callers {
                assert_eq!(join(caller), expected);
            }
            refresh.vanish();
        });
    };
    after(World::logout, Err(ErrorKind::SessionEnded));
    after(|world| world.login("other"), Err(ErrorKind::SessionChanged));
    after(|world| world.replace("replaced"), got("replaced"));
}

#[test]
fn waiters_of_a_flight_that_takes_too_long_are_told_so() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let callers = [world.ask(refusal_of(&old)), world.ask(refusal_of(&old))];
        Refresh::make_overdue(&refresh.flight, &world);
        for caller in callers {
            assert_eq!(join(caller), Err(ErrorKind::Timeout));
        }
        refresh.vanish();
    });
}

#[test]
fn late_result_counts_and_whoever_gave_up_was_told() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        let (flight, timer) = (refresh.flight.clone(), world.clone());
        let timer = thread::spawn(move || Refresh::make_overdue(&flight, &timer));
        let _task = refresh.conclude(&world, "new");
        join(timer);
        assert!([got("new"), Err(ErrorKind::Timeout)].contains(&join(caller)));
        assert_eq!(world.at_hand().as_deref(), Some("new"));
        assert!(!world.is_flying());
    });
}

#[test]
fn waiters_of_a_flight_whose_runtime_is_gone_decide_again() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let caller = world.ask(refusal_of(&old));
        refresh.vanish();
        // It would start the next one.
        assert_eq!(join(caller), Err(ErrorKind::NoRuntime));
        assert!(!world.is_flying());
    });
}

#[test]
fn waiters_of_a_flight_that_is_replaced_while_its_runtime_goes_are_answered() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let forced = world.ask(Ask::Force);
        let replacer = world.clone();
        let replacer = thread::spawn(move || replacer.replace("replaced"));
        refresh.vanish();
        join(replacer);
        // Whichever flight it has waited for is over; it would start the next one, or takes what has come instead.
        assert!([got("replaced"), Err(ErrorKind::NoRuntime)].contains(&join(forced)));
        assert!(!world.is_flying());
    });
}

#[test]
fn caller_that_leaves_late_takes_nobody_elses_seat() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let mut leaver = Acquire::new(world.engine.clone(), refusal_of(&old));
        poll_once(&mut leaver);
        let leaver = thread::spawn(move || drop(leaver));
        // The flight that has lost makes room for others, who wait for its end.
        world.replace("replaced");
        let newcomer = world.ask(Ask::Force);
        refresh.vanish();
        join(leaver);
        assert_eq!(join(newcomer), Err(ErrorKind::NoRuntime));
    });
}

fn poll_once(acquire: &mut Acquire) {
    block_on(poll_fn(|cx| {
        let _ = Pin::new(&mut *acquire).poll(cx);
        Poll::Ready(())
    }));
}

#[test]
fn whoever_waits_for_the_end_of_the_last_refresh_hears_of_it() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let waiter = world.clone();
        let waiter = thread::spawn(move || {
            let mut changes = Changes::of(&waiter.engine);
            while block_on(changes.next()) == Some(State::Refreshing) {}
        });
        let _task = refresh.conclude(&world, "new");
        join(waiter);
    });
}

#[test]
fn expired_token_is_not_taken_for_fresh_by_whoever_knows_the_time() {
    check_all(|| {
        let (world, _old) = World::with_token("old");
        let clock = world.clock.clone();
        let other = world.clone();
        let other = thread::spawn(move || other.at_hand());
        clock.expire();
        assert_eq!(world.at_hand(), None);
        join(other);
        assert_eq!(world.at_hand(), None);
    });
}

#[test]
fn caller_that_goes_away_takes_nothing_from_the_others() {
    check(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let engine = world.engine.clone();
        let ask = refusal_of(&old);
        let leaver = thread::spawn(move || {
            // One step, then the future is dropped wherever it is.
            poll_once(&mut Acquire::new(engine, ask));
        });
        let caller = world.ask(refusal_of(&old));
        let _task = refresh.conclude(&world, "new");
        join(leaver);
        assert_eq!(join(caller), got("new"));
    });
}

/// A lease, and how often it has been given up.
fn counted_lease() -> (Lease, Arc<AtomicUsize>) {
    struct Kept(Arc<AtomicUsize>);

    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let given_up = Arc::new(AtomicUsize::new(0));
    (Lease::new(1, Kept(given_up.clone())), given_up)
}

#[test]
fn lease_that_is_taken_while_the_flight_is_lost_is_given_up() {
    in_a_runtime(|| {
        check_all(|| {
            let (world, _old) = World::with_token("old");
            world.engine.storage.drain_at_once();
            let flight = Flight::new();
            let (lease, given_up) = counted_lease();
            let loser = flight.clone();
            let loser = thread::spawn(move || {
                loser.disown();
                drop(loser.take_lease());
            });
            let held = HeldLease::by(&flight, lease, &world.engine.storage);
            join(loser);
            assert_eq!(given_up.load(Ordering::Relaxed), 1);
            drop(held);
        })
    });
}

/// It waits for the write, and nothing else would end it.
#[test]
fn lease_that_is_given_back_while_something_is_written_is_given_up_after_that() {
    in_a_runtime(|| {
        check_all(|| {
            let (world, _old) = World::with_token("old");
            let (lease, given_up) = counted_lease();
            let storage = world.engine.storage.clone();
            let lost = Flight::new();
            lost.keep_lease(lease);
            assert!(lost.begin_fetch(vec!["spent".into()]));
            lost.disown();
            let giver = thread::spawn(move || storage.give_back(&lost));
            world.engine.storage.drain_at_once();
            join(giver);
            assert_eq!(given_up.load(Ordering::Relaxed), 1);
        })
    });
}

/// Who joined it would ask and be told to join it, over and over.
#[test]
fn login_with_the_grant_that_is_being_refreshed_leaves_no_flight_in_the_slot_that_has_landed() {
    check_all(|| {
        let (world, old) = World::with_token("old");
        let refresh = world.refuse(&old);
        let grant = Secret::from("grant");
        assert!(refresh.flight.begin_fetch(vec![grant.clone()]));
        let fetch = refresh.flight.clone();
        let fetch = thread::spawn(move || fetch.forget_spent());
        world.login_with(&grant);
        join(fetch);
        let mut landing = refresh.flight.clone().landing();
        let has_landed = Pin::new(&mut landing).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert_ne!(world.is_flying(), has_landed);
        refresh.vanish();
    });
}

#[test]
fn fetch_of_a_kept_refresh_token_does_not_begin_or_is_not_aborted() {
    check_all(|| {
        let flight = Flight::new();
        let kept = Secret::from("kept");
        let fetch = flight.clone();
        let spends = vec![kept.clone()];
        let fetch = thread::spawn(move || fetch.begin_fetch(spends));
        flight.lose();
        let is_aborted = !flight.spends(Some(&kept));
        assert!(!(join(fetch) && is_aborted), "a refresh token is lost");
    });
}

#[test]
fn records_reach_the_store_in_the_order_of_the_changes() {
    in_a_runtime(|| {
        check_all(|| {
            let (world, _old) = World::with_token("old");
            let other = world.clone();
            let other = thread::spawn(move || {
                other.login("other");
                other.engine.storage.drain_at_once();
            });
            world.logout();
            world.engine.storage.drain_at_once();
            join(other);
            assert_eq!(world.stored(), world.current());
            assert!(world.engine.storage.check_settled());
        })
    });
}

#[test]
fn refresh_stores_nothing_after_a_logout() {
    in_a_runtime(|| {
        check(|| {
            let (world, old) = World::with_token("old");
            let refresh = world.refuse(&old);
            let leaver = world.clone();
            let leaver = thread::spawn(move || {
                leaver.logout();
                leaver.engine.storage.drain_at_once();
            });
            refresh.save(&world, "new");
            let _task = refresh.conclude(&world, "new");
            join(leaver);
            assert_eq!((world.stored(), world.current()), (None, None));
            assert!(world.engine.storage.check_settled());
        })
    });
}

/// A store that cannot be written while it is full.
#[derive(Clone, Default)]
struct Disk {
    store: MemoryStore,
    is_full: Arc<AtomicBool>,
}

impl TokenStore for Disk {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.store.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        if self.is_full.load(Ordering::Acquire) {
            Err("full".into())
        } else {
            self.store.save(record, fence).await
        }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.store.lock().await
    }
}

#[test]
fn logout_that_falls_into_the_end_of_another_ends_what_is_there_by_then() {
    in_a_runtime(|| {
        check_all(|| {
            let disk = Disk::default();
            let (world, _old) = World::over(disk.clone(), disk.store.clone(), "old");
            world.engine.storage.drain_at_once();
            disk.is_full.store(true, Ordering::Release);
            world.logout();
            world.engine.storage.drain_at_once();
            disk.is_full.store(false, Ordering::Release);
            // Somebody else logs in, for whom the logout that is owed gives way.
            let record =
                Record { session: SessionId(1), revision: 9, token: Some(StoredToken::new("other")) };
            block_on(disk.store.save(&record, None)).expect("a store that works");
            let leaver = world.clone();
            let leaver = thread::spawn(move || {
                leaver.logout();
                leaver.engine.storage.drain_at_once();
            });
            drop(world.engine.storage.enqueue_owed(None));
            world.engine.storage.drain_at_once();
            join(leaver);
            assert_eq!(world.stored(), None);
            assert!(world.engine.storage.check_settled());
        })
    });
}

/// For the limits of the store's calls. They do not pass, because nobody drives it.
fn in_a_runtime(check: impl FnOnce()) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    check();
}
