//! What is saved, when, and what a store that fails does to requests.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchContext, FetchError, RefreshFailure, Session, Token, TokenRefreshLayer,
    TokenSource,
    session::SessionBuilder,
    source::Cause,
    source_fn,
    store::{Lease, MemoryStore, Record, SessionId, StoredToken, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority, Rotation, TestClock},
};

use crate::{
    runtimes::runtime,
    script::{numbered, status, within},
    watched::{Fault, Watched, failures, siblings, throw_a_bomb, world},
    world::{World, get, origin},
};

#[tokio::test(start_paused = true)]
async fn a_token_is_saved_before_anybody_sees_it() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut request = task::spawn(world.get("/"));
    assert_pending!(request.poll());
    gate.waiting(1).await;
    let before = world.session.token();
    let mut reader = task::spawn(before);
    assert_pending!(reader.poll());
    assert_eq!(world.api.requests().len(), 1, "the resend waits for the save");
    gate.open();
    assert_eq!(within(request).await.unwrap().status(), StatusCode::OK);
    let seen = within(reader).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(seen.access().expose()));
}

/// A store whose leases panic when they end.
struct Brittle(MemoryStore);

impl TokenStore for Brittle {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.0.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        struct Panics;

        impl Drop for Panics {
            fn drop(&mut self) {
                throw_a_bomb();
            }
        }

        let lease = self.0.lock().await?;
        Ok(Lease::new(lease.fence(), (lease, Panics)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_panics_when_it_ends_stops_neither_a_refresh_nor_a_logout() {
    let store = MemoryStore::new();
    let world =
        World::with(ModelAuthority::new(), |session| session.store(Brittle(store.clone())), |layer| layer);
    world.session.token().await.unwrap();
    let gate = world.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    within(world.session.logout()).await.unwrap();
    assert!(store.load().await.unwrap().unwrap().token.is_none());
    assert_eq!(within(refresh).await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_in_whatever_way_stops_no_request() {
    for fault in [Fault::Error, Fault::Hang, Fault::Panic, Fault::Bomb] {
        let store = Watched::default();
        let (observer, told) = failures();
        let world = World::with(
            ModelAuthority::new(),
            |session| session.store(store.clone()).observer(observer),
            |layer| layer,
        );
        store.set(|store| (store.save, store.load, store.lock) = (fault, fault, fault));
        assert_eq!(within(world.get("/")).await.unwrap().status(), StatusCode::OK);
        world.authority.revoke_access();
        assert_eq!(within(world.get("/")).await.unwrap().status(), StatusCode::OK);
        let told = told.load(Ordering::Relaxed);
        assert!(told >= 4, "and each failure is reported: {told}");
        assert_eq!(world.authority.counts().token_calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn settling_waits_for_the_refresh_that_is_on() {
    let store = Watched::default();
    let world = world(&store);
    let gate = world.authority.hold(Endpoint::Login);
    let mut only = task::spawn(world.session.token());
    assert_pending!(only.poll());
    drop(only);
    let mut settled = task::spawn(world.session.settle());
    assert_pending!(settled.poll());
    gate.open();
    within(settled).await.unwrap();
    assert!(store.access().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_session_has_ended_meanwhile_is_never_begun() {
    let store = Watched::default();
    let world = world(&store);
    let gate = world.authority.hold(Endpoint::Login);
    let mut token = task::spawn(world.session.token());
    assert_pending!(token.poll());
    gate.waiting(1).await;
    world.session.logout().await.unwrap();
    gate.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.saved(), [None]);
}

#[tokio::test(start_paused = true)]
async fn a_queued_save_is_left_out_when_its_session_has_ended_meanwhile() {
    let store = Watched::default();
    let world = world(&store);
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut login = task::spawn(world.session.login(world.authority.login().await.unwrap()));
    assert_pending!(login.poll());
    gate.waiting(1).await;
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    // The refresh has its token and waits for its turn in the queue.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.authority.counts().refreshes, 1);
    let mut logout = task::spawn(world.session.logout());
    assert_pending!(logout.poll());
    gate.open();
    within(logout).await.unwrap();
    assert_eq!(store.saved().len(), 2, "the login's and the tombstone");
    assert_eq!(store.saved()[1], None);
}

/// Each of them hears of it, and how the last one has ended hears whoever has made that.
#[tokio::test(start_paused = true)]
async fn changes_that_a_later_one_has_overtaken_are_left_out_and_hold_a_logout_up_no_longer() {
    let store = Watched::default();
    let session = numbered().0.store(store.clone()).build();
    let gate = Gate::new();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut login = task::spawn(session.login(Token::new("first")));
    assert_pending!(login.poll());
    within(gate.waiting(1)).await;
    store.set(|store| store.hold_save = None);
    let mut changes: Vec<_> =
        (0..20).map(|number| task::spawn(session.replace(Token::new(format!("pushed-{number}"))))).collect();
    for change in &mut changes {
        assert_pending!(change.poll());
    }
    let mut logout = task::spawn(session.logout());
    assert_pending!(logout.poll());
    store.set(|store| store.save = Fault::Error);
    gate.open();
    for change in changes {
        within(change).await.unwrap();
    }
    within(login).await.unwrap();
    assert_eq!(within(logout).await.unwrap_err().kind(), ErrorKind::Store);
    store.set(|store| store.save = Fault::None);
    within(session.settle()).await.unwrap();
    assert_eq!(store.saved(), [Some("first".to_owned()), None]);
}

#[tokio::test(start_paused = true)]
async fn whoever_logs_out_twice_hears_each_time_what_becomes_of_it_in_the_store() {
    let store = Watched::default();
    let session = numbered().0.store(store.clone()).build();
    session.token().await.unwrap();
    store.set(|store| store.save = Fault::Error);
    let (first, second) = tokio::join!(session.logout(), session.logout());
    assert_eq!([first, second].map(|end| end.unwrap_err().kind()), [ErrorKind::Store; 2]);
    assert_eq!(store.access().await.as_deref(), Some("token-1"));

    store.set(|store| (store.save, store.delay) = (Fault::None, Duration::from_millis(50)));
    let mut first = task::spawn(session.logout());
    assert_pending!(first.poll());
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut second = task::spawn(session.logout());
    assert_pending!(second.poll());
    within(first).await.unwrap();
    assert_eq!(store.access().await, None, "its caller may end the process now");
    within(second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_logout_holds_in_memory_although_the_store_fails() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    store.set(|store| store.save = Fault::Hang);
    let start = tokio::time::Instant::now();
    assert_eq!(within(world.session.logout()).await.unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(start.elapsed(), Duration::from_secs(5), "bounded by the store's timeout");
    assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn a_new_process_goes_on_with_what_was_saved() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let before = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    let token = before.session.token().await.unwrap();
    drop(before);
    let after = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    assert_eq!(after.session.token().await.unwrap().access().expose(), token.access().expose());
    assert_eq!(authority.counts().token_calls(), 1);
    authority.revoke_access();
    assert_eq!(after.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(
        (authority.counts().logins, authority.counts().refreshes),
        (1, 1),
        "its refresh token is used"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_process_uses_the_refresh_token_of_a_token_that_has_expired() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let before = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    before.session.token().await.unwrap();
    let mut record = store.load().await.unwrap().unwrap();
    record.token.as_mut().unwrap().expires_at = Some(SystemTime::UNIX_EPOCH);
    store.save(&record, None).await.unwrap();
    authority.revoke_access();
    let after = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    assert_eq!(after.get("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!((authority.counts().logins, authority.counts().refreshes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_process_finds_nothing_after_a_logout_during_a_refresh() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let before = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    before.session.token().await.unwrap();
    let gate = authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(before.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    before.session.logout().await.unwrap();
    gate.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.load().await.unwrap().unwrap().token.is_none());
}

#[tokio::test(start_paused = true)]
async fn sessions_on_one_store_refresh_once_between_them() {
    let store = MemoryStore::new();
    let authority = ModelAuthority::new().newest_only();
    let one = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    one.session.token().await.unwrap();
    let other = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    other.session.token().await.unwrap();
    authority.revoke_access();
    let (first, second) = tokio::join!(one.get("/"), other.get("/"));
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes, counts.presented_again()), (1, 1, 0));
}

/// Sessions on one store, each with the first token, whose authority prolongs it and never changes it; the number of its
/// calls.
pub(crate) async fn prolonged(
    store: impl TokenStore + Clone,
    clock: &TestClock,
) -> (Vec<Session>, Arc<AtomicUsize>) {
    let fetches = Arc::new(AtomicUsize::new(0));
    let session = || {
        let fetches = fetches.clone();
        let source = source_fn(move |_: FetchContext| {
            fetches.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, FetchError>(Token::new("the-same").expires_in(Duration::from_secs(7200))) }
        });
        Session::builder(source).store(store.clone()).clock(clock.clone()).build()
    };
    let sessions: Vec<_> = std::iter::repeat_with(session).take(5).collect();
    for session in &sessions {
        session.token().await.unwrap();
    }
    (sessions, fetches)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_sibling_has_had_prolonged_is_not_fetched_again() {
    let clock = TestClock::new();
    let (sessions, fetches) = prolonged(Watched::default(), &clock).await;
    clock.advance(Duration::from_secs(7201));
    for session in &sessions {
        within(session.token()).await.unwrap();
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 2, "the first, and the one at its end");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_refused_is_fetched_again_although_a_sibling_has_had_it_prolonged() {
    for is_refused in [false, true] {
        let clock = TestClock::new();
        let (sessions, fetches) = prolonged(Watched::default(), &clock).await;
        for (before, session) in (1..).zip(&sessions) {
            clock.advance(Duration::from_secs(1));
            if is_refused {
                let refuses = service_fn(|_| std::future::ready(status(401)));
                let client = TokenRefreshLayer::new(session.clone(), origin()).layer(refuses);
                assert_eq!(
                    within(client.oneshot(get("/"))).await.unwrap().status(),
                    StatusCode::UNAUTHORIZED
                );
            } else {
                within(session.refresh()).await.unwrap();
            }
            assert_eq!(fetches.load(Ordering::Relaxed), before + 1, "refused: {is_refused}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_on_one_session_ends_the_others_on_its_store_at_their_next_refresh() {
    let store = Watched::default();
    let authority = ModelAuthority::new();
    let one = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    one.session.token().await.unwrap();
    let other = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    other.session.token().await.unwrap();
    one.session.logout().await.unwrap();
    assert_eq!(other.session.refresh().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(authority.counts().refreshes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_login_or_logout_of_a_process_that_has_never_looked_into_the_store_is_news_to_the_others() {
    for logs_in in [false, true] {
        let store = Watched::default();
        let authority = ModelAuthority::new().account("bob", "builder");
        let running = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
        running.session.token().await.unwrap();
        running.session.refresh().await.unwrap();
        let command = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
        let bob = authority.login_as("bob", "builder").await.unwrap();
        if logs_in {
            command.session.login(bob.clone()).await.unwrap();
        } else {
            command.session.logout().await.unwrap();
        }
        drop(command);
        let refreshed = running.session.refresh().await;
        if logs_in {
            assert_eq!(refreshed.unwrap().access().expose(), bob.access().expose());
        } else {
            assert_eq!(refreshed.unwrap_err().kind(), ErrorKind::SessionEnded);
        }
        let stored = store.load().await.unwrap().unwrap().token;
        assert_eq!(
            stored.map(|token| token.access.expose() == bob.access().expose()),
            logs_in.then_some(true)
        );
    }
}

/// A process that has never looked into the store counts from one: what it reads there is later to it than its own login.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_saved_while_a_refresh_reads_the_store_does_not_give_way_to_what_was_there_before() {
    let store = Watched::default();
    let others = Record::new(SessionId(7), 9, StoredToken::new("of-the-one-before"));
    store.save(&others, None).await.unwrap();
    let world = world(&store);
    let (save, load) = (Gate::new(), Gate::new());
    store.set(|store| store.hold_save = Some(save.clone()));
    let mut login = task::spawn(world.session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    within(save.waiting(1)).await;
    store.set(|store| store.hold_load = Some(load.clone()));
    let mut refresh = task::spawn(world.session.refresh());
    assert_pending!(refresh.poll());
    within(load.waiting(1)).await;
    store.set(|store| store.hold_load = None);
    save.open();
    within(login).await.unwrap();
    load.open();
    let refreshed = within(refresh).await.unwrap();
    assert_ne!(refreshed.access().expose(), "of-the-one-before");
    assert_eq!(store.access().await.as_deref(), Some(refreshed.access().expose()));
}

/// A store without rules: the last record is what it has.
#[derive(Clone, Default)]
struct Plain(Arc<Mutex<Option<Record>>>);

impl TokenStore for Plain {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn save(&self, record: &Record, _: Option<u64>) -> Result<(), BoxError> {
        *self.0.lock().unwrap() = Some(record.clone());
        Ok(())
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        MemoryStore::new().lock().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_is_saved_above_what_a_store_has_that_raises_nothing() {
    let store = Plain::default();
    let others = Record::new(SessionId(7), 9, None);
    store.save(&others, None).await.unwrap();
    let world = World::with(ModelAuthority::new(), |session| session.store(store.clone()), |layer| layer);
    world.session.login(Token::new("of-bob")).await.unwrap();
    assert_eq!(store.load().await.unwrap().map(|record| record.revision), Some(10));
}

#[tokio::test(start_paused = true)]
async fn that_no_token_can_be_had_is_not_believed_while_the_store_cannot_be_read() {
    let store = Watched::default();
    let authority = ModelAuthority::new();
    let tokens = authority.source();
    let refreshing_only = source_fn(move |cx: FetchContext| {
        let tokens = tokens.clone();
        async move {
            if cx.refresh_token().is_none() {
                return Err(FetchError::login_required("nothing to refresh with"));
            }
            TokenSource::fetch(&tokens, cx).await
        }
    });
    let session = || Session::builder(refreshing_only.clone()).store(store.clone()).build();
    session().login(authority.login().await.unwrap()).await.unwrap();
    let restarted = session();
    store.set(|store| store.load = Fault::Error);
    let error = restarted.token().await.unwrap_err();
    assert_eq!((error.kind(), error.is_login_required()), (ErrorKind::Store, false));
    store.set(|store| store.load = Fault::None);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(restarted.token().await.is_ok());
}

/// It was read before, and what the authority says of it does not depend on what is there now.
#[tokio::test(start_paused = true)]
async fn that_a_refresh_token_is_over_is_believed_although_the_store_cannot_be_read() {
    let store = Watched::default();
    let World { authority, session, .. } = world(&store);
    let before = numbered().0.store(store.clone()).build();
    before.login(authority.login().await.unwrap()).await.unwrap();
    store.expire().await;
    authority.fail_next(Endpoint::Refresh, Failure::Reset);
    assert!(session.token().await.unwrap_err().is_transient());
    authority.revoke_all();
    store.set(|store| store.load = Fault::Error);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(within(session.token()).await.unwrap_err().is_login_required());
    }
    assert_eq!(authority.counts().refreshes, 2, "one got no answer, and one was refused");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_without_a_refresh_token_keeps_the_one_before() {
    let world = World::new();
    let first = world.session.token().await.unwrap();
    world.session.replace(Token::new("elsewhere")).await.unwrap();
    let kept = world.session.token().await.unwrap();
    assert_eq!(kept.refresh().unwrap().expose(), first.refresh().unwrap().expose());
    world.session.refresh().await.unwrap();
    assert_eq!(world.authority.counts().logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_record_is_taken_whatever_its_number() {
    for revision in [0, 1, u64::MAX] {
        let store = MemoryStore::new();
        let record = Record::new(SessionId(1), revision, StoredToken::new("seeded"));
        store.save(&record, Some(0)).await.unwrap();
        let world = World::with(ModelAuthority::new(), |session| session.store(store), |layer| layer);
        assert_eq!(world.session.token().await.unwrap().access().expose(), "seeded", "{revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_identity_in_the_store_replaces_ours_at_the_next_refresh() {
    let store = Watched::default();
    let authority = ModelAuthority::new().account("bob", "builder");
    let one = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    one.session.token().await.unwrap();
    let other = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    other.session.token().await.unwrap();
    let bob = authority.login_as("bob", "builder").await.unwrap();
    one.session.login(bob.clone()).await.unwrap();
    authority.revoke_access();
    let response = other.get("/").await.unwrap();
    let failure = response.extensions().get::<RefreshFailure>().unwrap().error();
    assert_eq!(failure.kind(), ErrorKind::SessionChanged, "alice's request is not sent again as bob");
    assert_eq!(other.session.token().await.unwrap().access().expose(), bob.access().expose());
    assert_eq!(authority.counts().refreshes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_over_is_not_believed_before_a_sibling_has_had_time_to_save_what_it_got_for_it() {
    for delay in [Duration::ZERO, Duration::from_millis(400)] {
        let store = Watched::default();
        let world = world(&store);
        world.session.token().await.unwrap();
        let before = store.load().await.unwrap().unwrap();
        let gate = world.authority.hold(Endpoint::Refresh);
        let mut refresh = task::spawn(world.session.refresh());
        assert_pending!(refresh.poll());
        gate.waiting(1).await;
        world.authority.revoke_refresh();
        let siblings = world.authority.login().await.unwrap();
        let token = StoredToken::new(siblings.access().expose());
        let theirs = Record::new(before.session, before.revision + 1, token);
        let saving = async {
            gate.open();
            tokio::time::sleep(delay).await;
            store.save(&theirs, None).await.unwrap();
        };
        let (refreshed, ()) = within(async { tokio::join!(refresh, saving) }).await;
        assert_eq!(refreshed.unwrap().access().expose(), siblings.access().expose(), "{delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_saved_above_the_record_of_another_identity_that_is_of_no_use() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    let unusable = StoredToken::new("a line\nbreak");
    store.save(&Record::new(SessionId(7), 9, unusable), None).await.unwrap();
    let fresh = world.session.refresh().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(fresh.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_keeps_is_waited_for_and_no_longer_than_it_may() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    let lease = store.lock().await.unwrap();
    let start = tokio::time::Instant::now();
    let error = within(world.session.refresh()).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(world.authority.counts().refreshes, 0, "its holder is spending the refresh token");
    drop(lease);
    tokio::time::advance(Duration::from_secs(2)).await;
    world.session.refresh().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_keeps_stops_nobody_who_has_no_refresh_token_to_spend() {
    let store = Watched::default();
    let (builder, fetches) = numbered();
    let session = builder.store(store.clone()).build();
    session.token().await.unwrap();
    let _kept = store.lock().await.unwrap();
    let start = tokio::time::Instant::now();
    within(session.refresh()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(fetches.load(Ordering::Relaxed), 2);
    assert_eq!(store.access().await.as_deref(), Some("token-2"));
}

/// A future that is polled where it is woken, which may be in the midst of what wakes it.
struct PolledAtOnce<F>(Mutex<Option<Pin<Box<F>>>>);

impl<F: Future<Output: Send> + Send + 'static> Wake for PolledAtOnce<F> {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        let Ok(mut future) = self.0.try_lock() else { return };
        let polled = future.as_mut().map(|future| future.as_mut().poll(&mut Context::from_waker(&waker)));
        if polled.is_some_and(|polled| polled.is_ready()) {
            *future = None;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settling_goes_on_although_it_looks_while_the_last_write_is_being_ended() {
    let store = Watched::default();
    let world = world(&store);
    store.set(|store| store.save = Fault::Error);

    // It is first polled when the login hears of its write, and then at every news of the store.
    let (ended, end) = tokio::sync::oneshot::channel();
    let session = world.session.clone();
    let settling = async move { ended.send(session.settle().await) };
    let waker = Waker::from(Arc::new(PolledAtOnce(Mutex::new(Some(Box::pin(settling))))));
    let mut login = pin!(world.session.login(Token::new("of-bob")));
    assert_pending!(login.as_mut().poll(&mut Context::from_waker(&waker)));
    let error = within(end).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_replaces_the_old_one_and_an_omitted_one_keeps_it() {
    for (rotation, changes) in [(Rotation::ReuseKillsFamily, true), (Rotation::Omitted, false)] {
        let world = World::with(ModelAuthority::new().rotation(rotation), |session| session, |layer| layer);
        let refresh = |token: &Token| token.refresh().unwrap().expose().to_owned();
        let first = refresh(&world.session.token().await.unwrap());
        let second = refresh(&world.session.refresh().await.unwrap());
        assert_eq!(first != second, changes);
        world.session.refresh().await.unwrap();
        assert_eq!(world.authority.counts().family_deaths, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_refresh_token_is_none() {
    let session = Session::builder(source_fn(|cx: FetchContext| async move {
        assert!(cx.refresh_token().is_none_or(|token| token.expose() == "of-alice"));
        Ok::<_, FetchError>(Token::new("token").refresh_token(Some("")))
    }))
    .build();
    assert!(session.token().await.unwrap().refresh().is_none());
    session.login(Token::new("token").refresh_token("of-alice")).await.unwrap();
    let refreshed = session.refresh().await.unwrap();
    assert_eq!(refreshed.refresh().map(|token| token.expose()), Some("of-alice"));
}

#[tokio::test(start_paused = true)]
async fn an_empty_refresh_token_in_the_store_is_none() {
    let store = MemoryStore::new();
    let mut token = StoredToken::new("expired");
    (token.refresh, token.expires_at) = (Some("".into()), Some(SystemTime::UNIX_EPOCH));
    store.save(&Record::new(SessionId(1), 1, token), None).await.unwrap();
    let session = Session::builder(source_fn(|cx: FetchContext| async move {
        assert!(cx.refresh_token().is_none(), "there is nothing to present");
        Ok::<_, FetchError>(Token::new("fetched"))
    }))
    .store(store)
    .build();
    assert_eq!(session.token().await.unwrap().access().expose(), "fetched");

    let cx = FetchContext::new(Cause::Refused).with_refresh_token("");
    assert!(cx.refresh_token().is_none(), "in a test of a source's own, too");
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_usable_token_is_never_stored() {
    for failure in [
        Failure::Status(StatusCode::INTERNAL_SERVER_ERROR, "oops"),
        Failure::EmptyObject,
        Failure::NullToken,
        Failure::Html(StatusCode::OK),
        Failure::Garbage,
    ] {
        let store = Watched::default();
        let world = world(&store);
        let first = world.session.token().await.unwrap();
        world.authority.fail_next(Endpoint::Refresh, failure);
        assert!(world.session.refresh().await.unwrap_err().is_transient());
        assert_eq!(store.access().await.as_deref(), Some(first.access().expose()));
        assert_eq!(world.session.token().await.unwrap().access().expose(), first.access().expose());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_sent_is_never_stored() {
    for bad in ["", "line\r\nbreak", "nul\0"] {
        let store = Watched::default();
        let source = source_fn(move |_| async move { Ok(Token::new(bad)) });
        let session = Session::builder(source).store(store.clone()).build();
        let error = session.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(store.saved().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_came_with_an_access_token_of_no_use_is_the_next_one_presented() {
    let presented = Arc::new(Mutex::new(Vec::new()));
    let source = {
        let presented = presented.clone();
        source_fn(move |cx: FetchContext| {
            let mut presented = presented.lock().unwrap();
            presented.push(cx.refresh_token().map(|refresh| refresh.expose().to_owned()));
            let access = if presented.len() == 1 { "not\nsendable" } else { "good" };
            let refresh = format!("rotated-{}", presented.len());
            std::future::ready(Ok::<_, FetchError>(Token::new(access).refresh_token(refresh)))
        })
    };
    for (restarts, fault) in [(false, Fault::None), (true, Fault::None), (false, Fault::Error)] {
        let (store, clock) = (Watched::default(), TestClock::new());
        let session = || Session::builder(source.clone()).store(store.clone()).clock(clock.clone()).build();
        let mut present = session();
        let first = Token::new("first").refresh_token("issued").expires_in(Duration::from_secs(60));
        present.login(first).await.unwrap();
        clock.advance(Duration::from_secs(61));
        assert_eq!(present.refresh().await.unwrap_err().kind(), ErrorKind::InvalidValue);
        assert_eq!(store.access().await.as_deref(), Some("first"));
        clock.advance(Duration::from_secs(5));
        if restarts {
            present = session();
        }
        store.set(|store| store.load = fault);
        assert_eq!(present.refresh().await.unwrap().access().expose(), "good");
        let presented = std::mem::take(&mut *presented.lock().unwrap());
        assert_eq!(presented, [Some("issued".to_owned()), Some("rotated-1".to_owned())], "{restarts}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_slow_store_has_its_own_time() {
    let store = Watched::default();
    let world = world(&store);
    store.set(|store| store.delay = Duration::from_secs(4));
    world.session.login(Token::new("of-bob")).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some("of-bob"));
    let refreshed = within(world.session.refresh()).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(refreshed.access().expose()));
    let (login, logout) = tokio::join!(world.session.login(Token::new("of-bob")), world.session.logout());
    assert_eq!((login.is_ok(), logout.is_ok()), (true, true), "one waits for the other");
    assert_eq!(store.access().await, None);
}

#[tokio::test(start_paused = true)]
async fn settling_has_the_time_that_a_write_at_a_slow_store_takes() {
    const SECOND: Duration = Duration::from_secs(1);
    let store = Watched::default();
    let limits = |session: SessionBuilder| {
        session.store(store.clone()).refresh_timeout(SECOND).unwrap().abandon_after(SECOND).unwrap()
    };
    let world = World::with(ModelAuthority::new(), limits, |layer| layer);
    store.set(|store| store.delay = 4 * SECOND);
    let mut login = task::spawn(world.session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    within(world.session.settle()).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some("of-bob"));
}

#[test]
fn whoever_is_told_of_a_save_may_look_into_the_store_at_once() {
    let store = MemoryStore::new();
    let (follower, (told, news)) = (store.clone(), std::sync::mpsc::channel());
    let following = async move {
        follower.changed(0).await;
        let _ = told.send(follower.load().await.unwrap().is_some());
    };
    let follower = Arc::new(PolledAtOnce(Mutex::new(Some(Box::pin(following)))));
    follower.clone().wake();
    std::thread::spawn(move || {
        let record = Record::new(SessionId(1), 1, None);
        runtime().block_on(store.save(&record, None)).unwrap();
    });
    assert_eq!(news.recv_timeout(Duration::from_secs(10)), Ok(true));
}

#[test]
fn what_was_saved_after_its_refresh_had_ended_is_gone_on_from_although_the_store_cannot_be_read() {
    let (store, gate) = (Watched::default(), Gate::new());
    let world = world(&store);
    let (first, second) = (runtime(), runtime());
    first.block_on(world.session.token()).unwrap();
    store.set(|store| store.hold_save = Some(gate.clone()));
    first.block_on(async {
        assert_pending!(task::spawn(world.session.refresh()).poll());
        gate.waiting(1).await;
    });
    drop(first);
    store.set(|store| store.hold_save = None);
    second.block_on(async {
        within(world.session.settle()).await.unwrap();
        store.set(|store| store.load = Fault::Error);
        within(world.session.refresh()).await.unwrap();
        within(world.session.refresh()).await.unwrap();
    });
    let counts = world.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again()), (2, 0));
}

/// Somebody logs in elsewhere between the look and the save of a second refresh that would be owed.
#[tokio::test(start_paused = true)]
async fn what_the_store_has_no_more_is_not_gone_back_to_although_it_cannot_be_read() {
    let store = Watched::default();
    let (ours, _sibling) = siblings(&store).await;
    store.set(|store| store.save_is_unanswered = true);
    let second = ours.session.refresh().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(second.access().expose()));

    let gate = Gate::new();
    store.set(|store| (store.save, store.hold_save) = (Fault::Error, Some(gate.clone())));
    let mut refreshes = task::spawn(ours.session.refresh());
    assert_pending!(refreshes.poll());
    within(gate.waiting(1)).await;
    store.set(|store| (store.save, store.save_is_unanswered) = (Fault::None, false));
    gate.let_through(1);
    within(gate.arrived(2)).await;
    let token = StoredToken::new("of-bob");
    store.memory.save(&Record::new(SessionId(1), 1, token), None).await.unwrap();
    store.set(|store| store.load = Fault::Error);
    gate.open();
    within(refreshes).await.unwrap();

    let next = within(ours.session.refresh()).await.unwrap();
    assert_ne!(next.access().expose(), second.access().expose());
    let counts = ours.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again()), (3, 0));
}

/// Somebody else is refreshing for long: the first request of a process has a good token in the store all the same.
#[tokio::test(start_paused = true)]
async fn the_first_request_of_a_process_waits_for_nobodys_lease_if_the_stored_token_is_good() {
    let (store, authority) = (Watched::default(), ModelAuthority::new());
    let process = || {
        let refresh_timeout = Duration::from_secs(5);
        let builder = |session: SessionBuilder| session.store(store.clone()).refresh_timeout(refresh_timeout);
        World::with(authority.clone(), |session| builder(session).unwrap(), |layer| layer)
    };
    let sibling = process();
    sibling.session.token().await.unwrap();
    let gate = authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(sibling.session.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    let start = tokio::time::Instant::now();
    let first = process();
    assert_eq!(within(first.get("/")).await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(authority.counts().token_calls(), 2);
    // One that is expired is no reason to go on without the lease.
    store.expire().await;
    assert_eq!(process().session.token().await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_could_not_be_read_at_the_start_is_gone_on_with() {
    for has_expired in [false, true] {
        let (store, authority) = (Watched::default(), ModelAuthority::new());
        let before = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
        before.session.token().await.unwrap();
        before.session.refresh().await.unwrap();
        let stored = store.access().await.unwrap();
        if has_expired {
            store.expire().await;
        }
        let revoked = Arc::new(AtomicUsize::new(0));
        let count = revoked.clone();
        let revoke = move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        };
        let session = |session: SessionBuilder| session.store(store.clone()).revoke_with(revoke);
        let ours = World::with(authority.clone(), session, |layer| layer);
        store.set(|store| store.load = Fault::Error);
        let gate = authority.hold(Endpoint::Login);
        let mut first = task::spawn(ours.session.token());
        assert_pending!(first.poll());
        within(gate.waiting(1)).await;
        store.set(|store| store.load = Fault::None);
        gate.open();
        let first = within(first).await.unwrap();
        assert_eq!(first.access().expose() == stored, !has_expired);
        within(ours.session.settle()).await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some(first.access().expose()));
        let counts = authority.counts();
        assert_eq!((counts.logins, counts.refreshes), (2, 1 + usize::from(has_expired)));
        assert_eq!(revoked.load(Ordering::Relaxed), 1, "what the login has brought");
    }
}
