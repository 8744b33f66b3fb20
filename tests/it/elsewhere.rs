//! What others have saved while something was owed here that could not be compared with it.

use std::{mem, sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, Session, Token,
    session::{RenewalMode, SessionBuilder},
    source_fn,
    store::{Lease, Record, Superseded, TokenStore},
    test_util::{Endpoint, Gate, ModelAuthority, Rotation},
};

use crate::{
    script::within,
    watched::{Fault, Watched, failures, siblings},
    world::World,
};

/// The login is in the store, which could not say so, with a number that is two higher. Refreshes on top of it are
/// below what the sibling's logout has.
#[tokio::test(start_paused = true)]
async fn a_logout_elsewhere_ends_a_login_that_was_refreshed_while_nobody_knew_that_it_was_there() {
    for lock in [Fault::None, Fault::Error] {
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let store = Watched::default();
        let ours = Session::builder(authority.source()).store(store.clone()).build();
        let sibling = Session::builder(authority.source()).store(store.memory.clone()).build();
        store.set(|store| store.save_is_unanswered = true);
        ours.login(authority.login().await.unwrap()).await.unwrap_err();
        store.set(|store| (store.load, store.save, store.lock) = (Fault::Error, Fault::Error, lock));
        for _ in 0..3 {
            ours.refresh().await.unwrap();
        }
        sibling.token().await.unwrap();
        sibling.logout().await.unwrap();
        store.set(|store| (store.load, store.save, store.lock) = (Fault::None, Fault::None, Fault::None));
        store.set(|store| store.save_is_unanswered = false);
        let error = within(ours.refresh()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionEnded);
        assert_eq!(store.access().await, None);
    }
}

/// The store would compare it by its number, if it had one.
#[tokio::test(start_paused = true)]
async fn a_refresh_without_a_lease_is_not_written_over_a_siblings_login_that_cannot_be_read() {
    for lock in [Fault::Error, Fault::None] {
        let store = Watched::default();
        let (ours, _sibling) = siblings(&store).await;
        let taken = store.memory.lock().await.unwrap();
        let other = Session::builder(ours.authority.source()).store(store.memory.clone()).build();
        other.login(Token::new("of-bob")).await.unwrap();
        store.set(|store| (store.lock, store.load) = (lock, Fault::Error));
        within(ours.session.refresh()).await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some("of-bob"));
        drop(taken);
        store.set(|store| (store.lock, store.load) = (Fault::None, Fault::None));
        assert_eq!(within(ours.session.refresh()).await.unwrap().access().expose(), "of-bob");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_with_the_lease_under_which_settling_could_not_save() {
    let store = Watched::default();
    let (ours, _sibling) = siblings(&store).await;
    store.set(|store| (store.lock, store.save) = (Fault::Error, Fault::Error));
    ours.session.refresh().await.unwrap();
    let gate = Gate::new();
    store.set(|store| (store.lock, store.hold_save) = (Fault::None, Some(gate.clone())));
    let mut settled = task::spawn(ours.session.settle());
    assert_pending!(settled.poll());
    within(gate.waiting(1)).await;
    let refreshed = tokio::spawn({
        let session = ours.session.clone();
        async move { session.refresh().await }
    });
    // It waits for the lease by then.
    tokio::time::sleep(Duration::from_millis(1)).await;
    gate.open();
    within(settled).await.unwrap_err();
    within(refreshed).await.unwrap().unwrap();
    assert_eq!(ours.authority.counts().presented_again(), 0);
}

/// The authority brings a refresh token at times. Ours has brought none and is owed; what the sibling has saved since
/// has the access token that ours was of, and the next refresh token.
#[tokio::test(start_paused = true)]
async fn what_is_owed_gives_way_to_a_later_refresh_token_beside_the_access_token_that_it_was_of() {
    let store = Watched::default();
    let (ours, _sibling) = siblings(&store).await;
    let rotation = |rotation| drop(ours.authority.clone().rotation(rotation));
    rotation(Rotation::Omitted);
    store.set(|store| store.save = Fault::Error);
    ours.session.refresh().await.unwrap();
    store.set(|store| store.save = Fault::None);
    rotation(Rotation::ReuseKillsFamily);
    let lease = store.lock().await.unwrap();
    let before = store.load().await.unwrap().unwrap();
    let mut token = before.token.unwrap();
    let spent = token.refresh.take().unwrap();
    let next = ours.authority.refresh(spent.expose()).await.unwrap();
    token.refresh = next.refresh().cloned();
    let theirs = Record::new(before.session, before.revision + 1, token);
    store.memory.save(&theirs, Some(lease.fence())).await.unwrap();
    drop(lease);
    within(ours.session.settle()).await.unwrap();
    within(ours.session.refresh()).await.unwrap();
    assert_eq!(ours.authority.counts().family_deaths, 0);
}

/// A store that refuses what it was asked to put above its own record, against its contract.
#[derive(Clone)]
struct Stubborn(Watched);

impl TokenStore for Stubborn {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        match self.0.save(record, fence).await {
            Err(_) if fence.is_none() => Err(Superseded.into()),
            saved => saved,
        }
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.0.lock().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_a_store_refuses_as_outdated_stays_owed() {
    let store = Watched::default();
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).store(Stubborn(store.clone())).build();
    store.set(|store| store.save = Fault::Error);
    let error = session.login(Token::new("of-bob")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    store.set(|store| store.save = Fault::None);
    within(session.settle()).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some("of-bob"));
}

/// What the source has said is that it has nothing.
#[tokio::test(start_paused = true)]
async fn an_error_says_why_the_store_could_not_be_read_where_that_is_why_there_is_no_token() {
    let store = Watched::default();
    store.set(|store| store.load = Fault::Error);
    let nobody = source_fn(|_: FetchContext| async { Err(FetchError::login_required("there is nothing")) });
    let session = Session::builder(nobody).store(store).build();
    let error = within(session.token()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_login_required()), (ErrorKind::Store, false));
    let why = std::error::Error::source(&error).unwrap();
    assert_eq!(why.downcast_ref().map(Error::kind), Some(ErrorKind::Store));
    // Who has had a token knows that there is no other.
    session.login(Token::new("without-a-refresh-token")).await.unwrap();
    assert!(within(session.refresh()).await.unwrap_err().is_login_required());
}

/// Two sessions whose token is to be renewed, and is still good.
async fn siblings_with_a_renewal_due(store: &Watched) -> (World, World) {
    let siblings = siblings(store).await;
    tokio::time::advance(Duration::from_secs(2 * 3600 - 30)).await;
    siblings
}

#[tokio::test(start_paused = true)]
async fn a_change_elsewhere_during_a_refresh_is_no_failure_of_the_store() {
    for there in [Some("of-bob"), Some("newer"), None] {
        let store = Watched::default();
        let authority = ModelAuthority::new();
        let (observer, told) = failures();
        let session = || Session::builder(authority.source()).store(store.clone());
        let (ours, sibling) = (session().observer(observer).build(), session().build());
        ours.token().await.unwrap();
        sibling.token().await.unwrap();
        let gate = authority.hold(Endpoint::Refresh);
        let mut refreshed = task::spawn(ours.refresh());
        assert_pending!(refreshed.poll());
        within(gate.waiting(1)).await;
        match there {
            Some("of-bob") => sibling.login(Token::new("of-bob")).await.unwrap(),
            Some(newer) => sibling.replace(Token::new(newer).refresh_token("own")).await.unwrap(),
            None => sibling.logout().await.unwrap(),
        }
        gate.open();
        let _ = within(refreshed).await;
        assert_eq!(store.access().await.as_deref(), there);
        assert_eq!(told.load(Ordering::Relaxed), 0, "{there:?}");
    }
}

/// As most replicas are: a sibling has spent what they have in memory.
#[tokio::test(start_paused = true)]
async fn a_look_that_fails_for_a_moment_makes_nobody_present_what_a_sibling_has_spent() {
    for is_taken in [false, true] {
        let store = Watched::default();
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let sibling = Session::builder(authority.source()).store(store.clone()).build();
        let (observer, told) = failures();
        let ours = Session::builder(authority.source()).store(store.clone()).observer(observer).build();
        sibling.token().await.unwrap();
        ours.token().await.unwrap();
        let newer = sibling.refresh().await.unwrap();
        let lease = store.memory.lock().await.unwrap();
        if !is_taken {
            drop(lease);
        } else {
            mem::forget(lease);
        }
        store.set(|store| store.load = Fault::Error);
        let mut refreshed = task::spawn(ours.refresh());
        assert_pending!(refreshed.poll());
        // A taken lease is waited for first.
        tokio::time::sleep(Duration::from_secs(if is_taken { 11 } else { 1 })).await;
        assert_pending!(refreshed.poll());
        store.set(|store| store.load = Fault::None);
        let refreshed = within(refreshed).await.unwrap();
        assert_eq!(refreshed.access().expose(), newer.access().expose());
        assert_eq!(authority.counts().refreshes, 1);
        assert_eq!(told.load(Ordering::Relaxed), 3, "each failure is reported");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_had_for_a_moment_is_asked_for_again() {
    let store = Watched::default();
    let (ours, _sibling) = siblings(&store).await;
    store.set(|store| store.lock = Fault::Error);
    let mut refreshed = task::spawn(ours.session.refresh());
    assert_pending!(refreshed.poll());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_pending!(refreshed.poll());
    assert_eq!(ours.authority.counts().refreshes, 0);
    store.set(|store| store.lock = Fault::None);
    within(refreshed).await.unwrap();
    let lease = store.memory.lock().await.unwrap();
    assert_eq!(lease.fence(), 4, "the login, the look and the refresh have had one each");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_has_patience_with_a_store_that_fails_while_requests_go_on() {
    for heals in [true, false] {
        let store = Watched::default();
        let (ours, sibling) = siblings_with_a_renewal_due(&store).await;
        if heals {
            sibling.session.refresh().await.unwrap();
        }
        let before = ours.authority.counts().refreshes;
        store.set(|store| (store.lock, store.load) = (Fault::Error, Fault::Error));
        for _ in 0..9 {
            assert_eq!(ours.get("/").await.unwrap().status(), StatusCode::OK);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(ours.authority.counts().refreshes, before, "a third of `refresh_timeout` is not over");
        if heals {
            store.set(|store| (store.lock, store.load) = (Fault::None, Fault::None));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let counts = ours.authority.counts();
        assert_eq!((counts.refreshes - before, counts.presented_again()), (usize::from(!heals), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_ends_the_patience_of_a_renewal() {
    for (mode, left) in [(RenewalMode::Background, 5), (RenewalMode::Inline, 30)] {
        let store = Watched::default();
        let session = |session: SessionBuilder| session.store(store.clone()).renewal(mode);
        let world = World::with(ModelAuthority::new(), session, |layer| layer);
        world.session.token().await.unwrap();
        tokio::time::advance(Duration::from_secs(2 * 3600 - left)).await;
        store.set(|store| (store.lock, store.load) = (Fault::Error, Fault::Error));
        if mode == RenewalMode::Background {
            assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
            // The token expires, and the renewal has half of its time left.
            tokio::time::sleep(Duration::from_secs(left)).await;
            assert_eq!(world.authority.counts().refreshes, 0);
        }
        let asked = Instant::now();
        assert_eq!(world.get("/").await.unwrap().status(), StatusCode::OK);
        assert!(asked.elapsed() <= Duration::from_secs(2), "{mode:?}: {:?}", asked.elapsed());
        assert_eq!(world.authority.counts().refreshes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_renewal_or_asks_for_one_waits_two_seconds_for_a_store_that_fails() {
    for joins in [false, true] {
        let store = Watched::default();
        let (ours, _sibling) = siblings_with_a_renewal_due(&store).await;
        store.set(|store| (store.lock, store.load) = (Fault::Error, Fault::Error));
        let asked = Instant::now();
        if joins {
            assert_eq!(ours.get("/").await.unwrap().status(), StatusCode::OK);
            within(ours.session.refresh()).await.unwrap();
        } else {
            within(ours.session.token_valid_for(Duration::from_secs(60))).await.unwrap();
        }
        assert!(asked.elapsed() <= Duration::from_secs(2), "{joins}: {:?}", asked.elapsed());
        assert_eq!(ours.authority.counts().refreshes, 1);
    }
}

/// Nobody needs it yet, and somebody else may need the lease.
#[tokio::test(start_paused = true)]
async fn a_renewal_does_not_keep_the_lease_for_long_from_a_store_that_cannot_be_read() {
    let store = Watched::default();
    let (ours, _sibling) = siblings_with_a_renewal_due(&store).await;
    store.set(|store| store.load = Fault::Error);
    assert_eq!(ours.get("/").await.unwrap().status(), StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let asked = Instant::now();
    drop(within(store.memory.lock()).await.unwrap());
    assert!(asked.elapsed() <= Duration::from_secs(2), "{:?}", asked.elapsed());
}
