//! One save that failed, an authority that ends the family of a refresh token that comes back, and an expiry.

use std::time::Duration;

use http::StatusCode;
use tower_token_refresh::{
    Error, Outcome,
    test_util::{ModelAuthority, TestClock},
};

use crate::{
    watched::{Fault, Watched},
    world::World,
};

/// A session whose last refresh was not saved, and whose access token has expired since.
struct Unsaved {
    clock: TestClock,
    store: Watched,
    world: World,
}

impl Unsaved {
    async fn with(authority: ModelAuthority) -> Self {
        let (clock, store) = (TestClock::new(), Watched::default());
        let authority = authority.clock(clock.clone());
        let unsaved = Unsaved { world: process(&authority, &clock, &store), clock, store };
        unsaved.world.session.token().await.unwrap();
        unsaved.store.set(|store| store.save = Fault::Error);
        unsaved.expire_and_get().await;
        unsaved.store.set(|store| store.save = Fault::None);
        unsaved
    }

    async fn expire_and_get(&self) {
        self.clock.advance(Duration::from_secs(2 * 3600));
        let response = self.world.get("/").await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.extensions().get::<Outcome>().is_none(), "it went out once, with a fresh token");
    }

    fn next_process(&self) -> World {
        process(&self.world.authority, &self.clock, &self.store)
    }
}

fn process(authority: &ModelAuthority, clock: &TestClock, store: &Watched) -> World {
    World::with(authority.clone(), |session| session.store(store.clone()).clock(clock.clone()), |layer| layer)
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_saved_is_saved_before_the_next_fetch_and_no_spent_refresh_token_is_presented() {
    let unsaved = Unsaved::with(ModelAuthority::new()).await;
    let in_memory = unsaved.world.session.token().await.unwrap().access().expose().to_owned();
    let in_store = unsaved.store.access().await.unwrap();
    assert_ne!(in_store, in_memory, "memory wins over an older record");
    unsaved.expire_and_get().await;
    let newest = unsaved.world.session.token().await.unwrap().access().expose().to_owned();
    assert_eq!(unsaved.store.saved(), [in_store, in_memory, newest].map(Some));
    let counts = unsaved.world.authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 2));
    assert_eq!((counts.presented_again(), counts.family_deaths), (0, 0));
    println!("a save failed, then an expiry: 1 login, 2 refreshes, 3 saves, 0 families ended");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_settles_saves_what_it_owed_and_the_next_one_goes_on() {
    let unsaved = Unsaved::with(ModelAuthority::new()).await;
    unsaved.world.session.settle().await.unwrap();
    let next = Unsaved { world: unsaved.next_process(), ..unsaved };
    assert_eq!(next.world.get("/").await.unwrap().status(), StatusCode::OK);
    next.expire_and_get().await;
    let counts = next.world.authority.counts();
    assert_eq!(
        (counts.logins, counts.refreshes),
        (1, 2),
        "what the first process had fetched last was in use"
    );
    assert_eq!((counts.presented_again(), counts.family_deaths), (0, 0));
}

/// The store has the refresh token before, and nobody is left who knows the next.
#[tokio::test(start_paused = true)]
async fn a_process_that_ends_without_saving_costs_the_next_one_a_login_unless_the_authority_has_grace() {
    for grace in [Duration::ZERO, Duration::from_secs(60)] {
        let unsaved = Unsaved::with(ModelAuthority::new().grace(grace)).await;
        let world = unsaved.next_process();
        drop(unsaved.world);
        let next = Unsaved { world, ..unsaved };
        let answer = next.world.get("/").await;
        let counts = next.world.authority.counts();
        assert_eq!(counts.presented_again(), 1);
        if grace.is_zero() {
            assert!(Error::find(&*answer.unwrap_err()).unwrap().is_login_required());
            assert_eq!(counts.family_deaths, 1);
            next.world.session.login(next.world.authority.login().await.unwrap()).await.unwrap();
        } else {
            assert_eq!((answer.unwrap().status(), counts.family_deaths), (StatusCode::OK, 0));
        }
        next.expire_and_get().await;
        let logins = next.world.authority.counts().logins;
        assert_eq!(logins, if grace.is_zero() { 2 } else { 1 });
        println!("ended without the save that had failed, grace of {} s: logins: {logins}", grace.as_secs());
    }
}
