//! Waiters come, go and are released.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::AtomicUsize,
    task::{Wake, Waker},
};

use tokio_test::{assert_pending, assert_ready, task};

use super::*;

/// Looks at the flight when it is woken and when it is dropped, and may panic at the first.
struct Probe {
    flight: Flight,
    woken: AtomicUsize,
    panics: bool,
}

impl Probe {
    fn look(&self) {
        assert!(self.flight.0.state.try_lock().is_ok(), "foreign code runs under our lock");
    }
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        self.look();
        self.woken.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics, "a waker that panics");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.look();
    }
}

fn probe(flight: &Flight, panics: bool) -> Arc<Probe> {
    Arc::new(Probe { flight: flight.clone(), woken: AtomicUsize::new(0), panics })
}

fn poll(landing: &mut Landing, probe: &Arc<Probe>) -> Poll<Landed> {
    Pin::new(landing).poll(&mut Context::from_waker(&Waker::from(probe.clone())))
}

fn seated(flight: &Flight) -> usize {
    flight.state().seats.taken()
}

#[test]
fn all_are_woken_although_the_waker_of_one_panics() {
    let flight = Flight::new();
    let mut waiting: Vec<_> = [true, false, true, false]
        .map(|panics| (flight.clone().landing(), probe(&flight, panics)))
        .into_iter()
        .collect();
    for (landing, probe) in &mut waiting {
        assert_pending!(poll(landing, probe));
    }
    assert!(catch_unwind(AssertUnwindSafe(|| flight.land(Landed::Changed))).is_ok());
    for (landing, probe) in &mut waiting {
        assert_eq!(probe.woken.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(landing, probe), Poll::Ready(Landed::Changed)));
    }
}

#[test]
fn a_waiter_keeps_one_seat_and_its_latest_waker_is_woken() {
    let flight = Flight::new();
    let mut landing = flight.clone().landing();
    let first = probe(&flight, false);
    for _ in 0..2 {
        assert_pending!(poll(&mut landing, &first));
        assert_eq!(seated(&flight), 1);
    }
    // The seat's is the last one: it looks where it is dropped.
    drop(first);
    let second = probe(&flight, false);
    assert_pending!(poll(&mut landing, &second));
    assert_eq!(seated(&flight), 1);
    flight.land(Landed::Changed);
    assert_eq!(second.woken.load(Ordering::Relaxed), 1);
}

#[test]
fn a_waiter_that_is_dropped_leaves_its_seat() {
    let flight = Flight::new();
    for _ in 0..3 {
        let probe = probe(&flight, false);
        let mut landing = flight.clone().landing();
        assert_pending!(poll(&mut landing, &probe));
        drop(probe);
        drop(landing);
        assert_eq!(seated(&flight), 0);
    }
}

#[test]
fn a_waiter_of_the_round_before_takes_nobodys_seat_with_it() {
    let flight = Flight::new();
    let before = probe(&flight, false);
    let mut released = flight.clone().landing();
    assert_pending!(poll(&mut released, &before));
    flight.lose();
    assert_eq!(before.woken.load(Ordering::Relaxed), 1);

    let mut landing = task::spawn(flight.clone().landing());
    assert_pending!(landing.poll());
    drop(released);
    assert_eq!(seated(&flight), 1);
    flight.land(Landed::Interrupted);
    assert!(landing.is_woken());
    assert!(matches!(assert_ready!(landing.poll()), Landed::Interrupted));
}

#[test]
fn the_first_landing_counts_and_whoever_comes_later_hears_of_it_at_once() {
    let flight = Flight::new();
    flight.land(Landed::Interrupted);
    flight.land(Landed::Changed);
    let mut landing = task::spawn(flight.landing());
    assert!(matches!(assert_ready!(landing.poll()), Landed::Interrupted));
}
