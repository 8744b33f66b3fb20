//! What could not be saved: who writes it again, when, and who has to wait for that.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use http::StatusCode;
use tokio::runtime::Runtime;
use tokio_test::{assert_pending, assert_ready_err, task};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchContext, FetchError, Session, Token,
    event::Event,
    source::oauth2::ClientCredentialsGrant,
    source_fn,
    store::{Lease, MemoryStore, Record, StoredToken, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority, Rotation},
};

use crate::{
    idp::{Idp, json},
    oauth2::endpoint,
    runtimes::runtime,
    script::{numbered, until, within},
    watched::{Fault, Watched, Wordy, failures, owing, siblings, world},
    world::World,
};

#[tokio::test(start_paused = true)]
async fn settling_saves_what_is_owed() {
    let store = Watched::default();
    let world = world(&store);
    store.set(|store| store.save = Fault::Error);
    let token = world.session.token().await.unwrap();
    assert_eq!(world.session.settle().await.unwrap_err().kind(), ErrorKind::Store);
    store.set(|store| store.save = Fault::None);
    world.session.settle().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(token.access().expose()));
}

/// Who saves a login or logout needs no lease, and whoever has it may be a sibling that takes its time.
#[tokio::test(start_paused = true)]
async fn settling_waits_for_nobodys_lease_to_save_a_login_or_logout() {
    for logs_out in [false, true] {
        let store = Watched::default();
        let world = world(&store);
        world.session.token().await.unwrap();
        store.set(|store| store.save = Fault::Error);
        if logs_out {
            world.session.logout().await.unwrap_err();
        } else {
            world.session.login(Token::new("of-bob")).await.unwrap_err();
        }
        store.set(|store| store.save = Fault::None);
        let _siblings = store.lock().await.unwrap();
        let start = tokio::time::Instant::now();
        world.session.settle().await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO, "logs out: {logs_out}");
        assert_eq!(store.access().await.as_deref(), (!logs_out).then_some("of-bob"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_for_nobodys_lease() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    let _siblings = store.lock().await.unwrap();
    let start = tokio::time::Instant::now();
    world.session.login(Token::new("of-bob").refresh_token("R1")).await.unwrap();
    world.session.replace(Token::new("other").refresh_token("R2")).await.unwrap();
    world.session.replace(Token::new("another")).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some("another"));
    world.session.logout().await.unwrap();
    assert_eq!((store.access().await, start.elapsed()), (None, Duration::ZERO));
}

/// A store that notes what it is asked, and may be out of order.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    asked: Vec<&'static str>,
    cannot_load: bool,
    cannot_save: bool,
}

impl Noting {
    fn saves(&self) -> usize {
        self.0.lock().unwrap().asked.iter().filter(|call| **call == "save").count()
    }

    fn note(&self, call: &'static str, fails: fn(&Notes) -> bool) -> Result<(), BoxError> {
        let mut notes = self.0.lock().unwrap();
        notes.asked.push(call);
        if fails(&notes) { Err(call.into()) } else { Ok(()) }
    }
}

impl TokenStore for Noting {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.note("load", |notes| notes.cannot_load).map(|()| None)
    }

    async fn save(&self, _: &Record, _: Option<u64>) -> Result<(), BoxError> {
        self.note("save", |notes| notes.cannot_save)
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.note("lock", |_| false)?;
        MemoryStore::new().lock().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_looks_once_into_the_store_and_writes_it_once_whether_that_fails_or_not() {
    for cannot_save in [false, true] {
        let store = Noting::default();
        let world = World::with(ModelAuthority::new(), |session| session.store(store.clone()), |layer| layer);
        store.0.lock().unwrap().cannot_save = cannot_save;
        world.session.token().await.unwrap();
        assert_eq!(store.0.lock().unwrap().asked, ["lock", "load", "save"], "{cannot_save}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_is_told_as_itself_although_the_store_cannot_be_read_either() {
    let store = Noting::default();
    let world = World::with(ModelAuthority::new(), |session| session.store(store.clone()), |layer| layer);
    *store.0.lock().unwrap() = Notes { cannot_load: true, cannot_save: true, ..Notes::default() };
    world.session.token().await.unwrap();
    let error = within(world.session.settle()).await.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "save");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_saved_is_tried_again_ever_more_rarely_and_the_next_such_failure_soon() {
    let store = Noting::default();
    let world = World::with(ModelAuthority::new(), |session| session.store(store.clone()), |layer| layer);
    let cannot_save = |cannot| store.0.lock().unwrap().cannot_save = cannot;
    cannot_save(true);
    world.session.login(Token::new("of-bob")).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let saves = store.saves();
    assert!((50..=90).contains(&saves), "{saves} times in an hour, once a minute in the end");
    cannot_save(false);
    tokio::time::sleep(Duration::from_secs(80)).await;

    cannot_save(true);
    world.session.logout().await.unwrap_err();
    cannot_save(false);
    let saves = store.saves();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.saves(), saves + 1);
}

/// Its lease has expired before the save could be made.
#[tokio::test(start_paused = true)]
async fn what_is_owed_of_a_refresh_is_not_written_over_what_a_later_lease_has_saved() {
    let store = Watched::default();
    store.set(|store| store.leases_expire = true);
    let (ours, _sibling) = owing(&store).await;
    store.set(|store| store.save = Fault::None);
    let later = store.lock().await.unwrap();
    let found = store.load().await.unwrap().unwrap();
    let newer = Record::new(found.session, found.revision + 1, StoredToken::new("of-a-later-refresh"));
    store.save(&newer, Some(later.fence())).await.unwrap();
    let error = within(ours.session.settle()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    within(ours.session.settle()).await.expect("it is known by now that it has been outdone");
    assert_eq!(store.access().await.as_deref(), Some("of-a-later-refresh"));
}

/// Whether a refresh brings the next refresh token is the authority's choice each time (RFC 6749 §6). Ours has brought none,
/// so that its lease is not kept, and is owed; the sibling's has, and its record has the same number.
async fn owing_what_has_spent_nothing(store: &Watched) -> (World, Token) {
    let (ours, sibling) = siblings(store).await;
    let rotation = |rotation| drop(ours.authority.clone().rotation(rotation));
    rotation(Rotation::Omitted);
    store.set(|store| store.save = Fault::Error);
    ours.session.refresh().await.unwrap();
    rotation(Rotation::ReuseKillsFamily);
    store.set(|store| store.save = Fault::None);
    (ours, within(sibling.session.refresh()).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_has_spent_nothing_and_is_owed_gives_way_to_one_that_has_spent_the_refresh_token() {
    for how in ["refreshes", "waits", "settles"] {
        let store = Watched::default();
        let (ours, theirs) = owing_what_has_spent_nothing(&store).await;
        match how {
            "waits" => tokio::time::sleep(Duration::from_secs(90)).await,
            "settles" => within(ours.session.settle()).await.unwrap(),
            _ => {}
        }
        let found = within(ours.session.refresh()).await.unwrap();
        assert_eq!(found.access().expose(), theirs.access().expose(), "{how}");
        assert_eq!(store.access().await.as_deref(), Some(theirs.access().expose()), "{how}");
        let before = store.load().await.unwrap().unwrap();
        within(ours.session.refresh()).await.unwrap();
        let after = store.load().await.unwrap().unwrap();
        assert_eq!(after.revision, before.revision + 1, "{how}");
        let counts = ours.authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (3, 1, 0), "{how}");
    }
}

/// The sibling's lease is the later one: ours takes another after it.
#[tokio::test(start_paused = true)]
async fn what_is_owed_of_a_refresh_is_not_written_over_a_siblings_that_cannot_be_read() {
    let store = Watched::default();
    let (ours, theirs) = owing_what_has_spent_nothing(&store).await;
    store.set(|store| store.load = Fault::Error);
    for _ in 0..2 {
        let error = within(ours.session.settle()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
    }
    assert_eq!(store.access().await.as_deref(), Some(theirs.access().expose()));
    store.set(|store| store.load = Fault::None);
    within(ours.session.settle()).await.unwrap();
    assert_eq!(ours.session.refresh().await.unwrap().access().expose(), theirs.access().expose());
}

/// It got there although the store could not say so, and so many have followed it that it is not remembered. While the lease
/// is kept nobody else can have saved anything.
#[tokio::test(start_paused = true)]
async fn what_is_owed_does_not_give_way_to_an_earlier_part_of_it_however_long_ago_that_was() {
    let store = Watched::default();
    let (ours, _sibling) = siblings(&store).await;
    store.set(|store| store.save_is_unanswered = true);
    ours.session.refresh().await.unwrap();
    store.set(|store| {
        (store.load, store.save, store.save_is_unanswered) = (Fault::Error, Fault::Error, false)
    });
    for _ in 0..1100 {
        ours.session.refresh().await.unwrap();
    }
    store.set(|store| (store.load, store.save) = (Fault::None, Fault::None));
    for _ in 0..2 {
        let next = within(ours.session.refresh()).await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some(next.access().expose()));
    }
    assert_eq!(ours.authority.counts().presented_again(), 0);
}

/// The first is in the store, which could not say so: if that raised the number of what is owed, what a sibling saves next
/// would not be later.
#[tokio::test(start_paused = true)]
async fn refreshes_that_are_owed_are_not_counted_although_the_store_has_the_first_of_them() {
    let store = Watched::default();
    store.set(|store| store.leases_expire = true);
    let (ours, _sibling) = siblings(&store).await;
    store.set(|store| store.save_is_unanswered = true);
    let first = ours.session.refresh().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(first.access().expose()));
    store.set(|store| (store.save, store.save_is_unanswered) = (Fault::Error, false));
    ours.session.refresh().await.unwrap();

    store.set(|store| store.save = Fault::None);
    let later = store.lock().await.unwrap();
    let found = store.load().await.unwrap().unwrap();
    let newer = Record::new(found.session, found.revision + 1, StoredToken::new("of-a-later-refresh"));
    store.save(&newer, Some(later.fence())).await.unwrap();
    let newest = within(ours.session.refresh()).await.unwrap();
    assert_eq!(newest.access().expose(), "of-a-later-refresh");
    assert_eq!(ours.authority.counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_there_although_the_store_could_not_say_so_is_not_saved_again_over_what_has_become_of_it()
 {
    for (logs_out, waits) in [(false, false), (false, true), (true, false), (true, true)] {
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let store = Watched::default();
        let session = || Session::builder(authority.source()).store(store.clone()).build();
        let (ours, sibling) = (session(), session());
        store.set(|store| store.save_is_unanswered = true);
        let error = ours.login(authority.login().await.unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        store.set(|store| store.save_is_unanswered = false);
        sibling.token().await.unwrap();
        let expected = if logs_out {
            sibling.logout().await.unwrap();
            Err(ErrorKind::SessionEnded)
        } else {
            Ok(sibling.refresh().await.unwrap().access().expose().to_owned())
        };
        if waits {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        let found = ours.refresh().await.map(|token| token.access().expose().to_owned());
        assert_eq!(found.map_err(|error| error.kind()), expected, "{logs_out} {waits}");
        assert_eq!(store.access().await, expected.ok());
        assert_eq!(authority.counts().presented_again(), 0);
    }
}

/// What would be written over may be the next refresh token, or a login after the logout.
#[tokio::test(start_paused = true)]
async fn a_change_that_may_be_there_is_not_saved_again_while_the_store_cannot_be_read() {
    for change in ["login", "replacement", "two replacements", "logout"] {
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let store = Watched::default();
        let session = || Session::builder(authority.source()).store(store.clone()).build();
        let (ours, sibling) = (session(), session());
        ours.login(authority.login().await.unwrap()).await.unwrap();
        let token = authority.login().await.unwrap();
        store.set(|store| store.save_is_unanswered = true);
        let changed = match change {
            "login" => ours.login(token.clone()).await,
            "logout" => ours.logout().await,
            _ => ours.replace(token.clone()).await,
        };
        assert_eq!(changed.unwrap_err().kind(), ErrorKind::Store);
        store.set(|store| store.save_is_unanswered = false);
        if change == "logout" {
            sibling.login(token).await.unwrap();
        }
        let theirs = sibling.refresh().await.unwrap();
        store.set(|store| store.load = Fault::Error);
        if change == "two replacements" {
            ours.replace(Token::new("with-the-same-refresh-token")).await.unwrap_err();
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(store.access().await.as_deref(), Some(theirs.access().expose()), "{change}");
        store.set(|store| store.load = Fault::None);
        within(ours.settle()).await.unwrap();
        let there = store.memory.load().await.unwrap().and_then(|record| record.token?.refresh);
        assert_eq!(there.unwrap().expose(), theirs.refresh().unwrap().expose(), "{change}");
        sibling.refresh().await.unwrap();
        assert_eq!(authority.counts().presented_again(), 0, "{change}");
    }
}

/// A logout, even. Its lease is kept meanwhile.
#[tokio::test(start_paused = true)]
async fn the_refresh_of_a_change_that_is_owed_is_not_written_while_the_store_cannot_be_read() {
    for (logs_in, logs_out) in [(true, true), (true, false), (false, true), (false, false)] {
        let authority = ModelAuthority::new();
        let store = Watched::default();
        let session = || Session::builder(authority.source()).store(store.clone()).build();
        let (ours, sibling) = (session(), session());
        ours.login(authority.login().await.unwrap()).await.unwrap();
        sibling.token().await.unwrap();
        store.set(|store| store.save_is_unanswered = true);
        let token = authority.login().await.unwrap();
        if logs_in { ours.login(token).await } else { ours.replace(token).await }.unwrap_err();
        store.set(|store| store.save_is_unanswered = false);
        if logs_out {
            sibling.logout().await.unwrap();
        }
        let before = store.access().await;
        store.set(|store| store.load = Fault::Error);
        let next = within(ours.refresh()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(store.access().await, before, "{logs_in} {logs_out}");
        assert!(!logs_out || before.is_none());
        store.set(|store| store.load = Fault::None);
        within(ours.settle()).await.unwrap();
        if !logs_out {
            assert_eq!(store.access().await.as_deref(), Some(next.access().expose()), "{logs_in}");
        }
        assert_eq!(authority.counts().presented_again(), 0);
    }
}

/// It is meant again before the first attempt begins to save, or when that has ended.
#[tokio::test(start_paused = true)]
async fn a_logout_that_is_meant_again_is_saved_although_an_earlier_attempt_has_failed_and_nothing_can_be_read()
 {
    for later in [50, 250].map(Duration::from_millis) {
        let store = Watched::default();
        let world = world(&store);
        world.session.token().await.unwrap();
        store.set(|store| {
            (store.load, store.save, store.delay) = (Fault::Error, Fault::Error, Duration::from_millis(100));
        });
        let mut first = task::spawn(world.session.logout());
        assert_pending!(first.poll());
        tokio::time::sleep(later).await;
        let mut second = task::spawn(world.session.logout());
        assert_pending!(second.poll());
        tokio::time::sleep(Duration::from_millis(150).saturating_sub(later)).await;
        store.set(|store| store.save = Fault::None);
        within(second).await.unwrap();
        assert_eq!(store.access().await, None, "{later:?}");
    }
}

/// A sibling has taken the next one meanwhile, and has come to nothing.
#[tokio::test(start_paused = true)]
async fn a_lease_that_has_ended_by_itself_while_it_was_kept_is_taken_anew() {
    let store = Watched::default();
    store.set(|store| store.leases_expire = true);
    let (ours, _sibling) = owing(&store).await;
    drop(store.lock().await.unwrap());
    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let next = within(ours.session.refresh()).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(next.access().expose()));
    assert_eq!(ours.authority.counts().presented_again(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_taken_anew_although_the_store_says_so_in_its_own_words() {
    let store = Watched::default();
    store.set(|store| store.leases_expire = true);
    let (ours, _sibling) = siblings(&Wordy(store.clone())).await;
    store.set(|store| store.save = Fault::Error);
    ours.session.refresh().await.unwrap();
    drop(store.lock().await.unwrap());
    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let next = within(ours.session.refresh()).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(next.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_login_elsewhere_is_gone_over_to_although_the_store_refuses_a_save_in_its_own_words() {
    let (ours, sibling) = siblings(&Wordy(Watched::default())).await;
    let gate = ours.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(ours.session.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    sibling.session.login(Token::new("of-bob")).await.unwrap();
    gate.open();
    assert_eq!(within(refresh).await.unwrap().access().expose(), "of-bob");
}

/// The refresh that has taken another one has failed, and could not save what was owed either.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_saved_under_the_lease_that_is_kept_in_the_place_of_one_that_was_lost() {
    let store = Watched::default();
    store.set(|store| store.leases_expire = true);
    let (ours, _sibling) = owing(&store).await;
    drop(store.lock().await.unwrap());
    store.set(|store| store.save = Fault::None);
    ours.session.settle().await.unwrap_err();
    store.set(|store| store.save = Fault::Error);
    ours.authority.fail_next(Endpoint::Refresh, Failure::Reset);
    ours.session.refresh().await.unwrap_err();
    store.set(|store| store.save = Fault::None);
    ours.session.settle().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(ours.session.token().await.unwrap().access().expose()));
}

#[tokio::test(start_paused = true)]
async fn while_a_refreshed_token_is_owed_no_sibling_presents_the_one_that_is_spent() {
    let store = Watched::default();
    let (ours, sibling) = owing(&store).await;
    let error = within(sibling.session.refresh()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(ours.authority.counts().refreshes, 1);

    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let adopted = within(sibling.session.refresh()).await.unwrap();
    assert_eq!(adopted.access().expose(), ours.session.token().await.unwrap().access().expose());
    within(sibling.session.refresh()).await.unwrap();
    let counts = ours.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn while_a_refresh_token_that_was_handed_down_is_owed_no_sibling_presents_the_one_that_is_spent() {
    let store = Watched::default();
    let (ours, sibling) = siblings(&store).await;
    let gate = ours.authority.hold(Endpoint::Refresh);
    assert_pending!(task::spawn(ours.session.refresh()).poll());
    within(gate.waiting(1)).await;
    ours.session.replace(Token::new("elsewhere")).await.unwrap();
    store.set(|store| store.save = Fault::Error);
    gate.open();
    let error = within(async {
        // The first finds the replacement in the store.
        sibling.session.refresh().await.unwrap();
        sibling.session.refresh().await.unwrap_err()
    });
    assert!(error.await.is_transient());

    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(90)).await;
    within(sibling.session.refresh()).await.unwrap();
    let counts = ours.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (2, 0, 0));
}

#[test]
fn a_kept_lease_does_not_end_with_a_refresh_that_loses_before_it_begins() {
    let store = Watched::default();
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    // The refresh that has lost begins while the replacement is being announced.
    let home = Arc::new(Mutex::new(None::<Runtime>));
    let drives = home.clone();
    let observer = move |event: &Event<'_>| {
        let Event::Issued { .. } = event else { return };
        let runtime = drives.lock().unwrap().take();
        if let Some(runtime) = runtime {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            *drives.lock().unwrap() = Some(runtime);
        }
    };
    let ours = World::with(
        authority.clone(),
        |session| session.store(store.clone()).observer(observer),
        |layer| layer,
    );
    let sibling = World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    let runtime = runtime();
    runtime.block_on(async {
        ours.session.token().await.unwrap();
        sibling.session.token().await.unwrap();
        store.set(|store| store.save = Fault::Error);
        ours.session.refresh().await.unwrap();
        assert_pending!(task::spawn(ours.session.refresh()).poll());
    });
    *home.lock().unwrap() = Some(runtime);
    let unsaved = assert_ready_err!(task::spawn(ours.session.replace(Token::new("elsewhere"))).poll());
    assert_eq!(unsaved.kind(), ErrorKind::NoRuntime);
    let runtime = home.lock().unwrap().take().unwrap();
    let error = runtime.block_on(within(sibling.session.refresh())).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let counts = authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_for_what_is_owed_serves_our_own_refresh() {
    let store = Watched::default();
    let (ours, _sibling) = owing(&store).await;
    let start = tokio::time::Instant::now();
    within(ours.session.refresh()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "it does not wait for itself");
    let counts = ours.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_kept_lease_ends_with_the_debt_or_the_session() {
    let saved = ["settles", "logs in", "replaces", "logs out", "ends"].map(|how| (how, Fault::None));
    // What they leave behind is owed, but it has spent nothing.
    let owed = ["logs in", "replaces", "logs out"].map(|how| (how, Fault::Error));
    for (how, fault) in saved.into_iter().chain(owed) {
        let store = Watched::default();
        let (ours, sibling) = owing(&store).await;
        store.set(|store| store.save = fault);
        let ended = match how {
            "settles" => ours.session.settle().await,
            "logs in" => ours.session.login(Token::new("of-bob")).await,
            "replaces" => ours.session.replace(Token::new("other").refresh_token("own")).await,
            "logs out" => ours.session.logout().await,
            _ => {
                drop(ours);
                Ok(())
            }
        };
        assert_eq!(ended.is_ok(), fault == Fault::None);
        let start = tokio::time::Instant::now();
        // Whatever comes of it: it does not wait for the lease.
        let _ = within(sibling.session.refresh()).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{how}: {:?}", start.elapsed());
    }
}

/// A refresh token is being presented when the change comes, and a sibling waits to refresh, too.
async fn spending(store: &Watched) -> (World, World, Gate) {
    let (ours, sibling) = siblings(store).await;
    let presenting = ours.authority.hold(Endpoint::Refresh);
    assert_pending!(task::spawn(ours.session.refresh()).poll());
    within(presenting.waiting(1)).await;
    (ours, sibling, presenting)
}

/// The refresh is void, but its refresh token may be spent, and is what the store has.
#[tokio::test(start_paused = true)]
async fn the_lease_of_a_refresh_that_a_change_has_ended_is_held_until_that_has_been_written() {
    for fault in [Fault::None, Fault::Error] {
        for change in ["login", "two logins", "logout", "replacement", "replacement by the last"] {
            let store = Watched::default();
            let (ours, sibling, presenting) = spending(&store).await;
            let mut theirs = task::spawn(sibling.session.refresh());
            assert_pending!(theirs.poll());
            let saving = Gate::new();
            store.set(|store| (store.hold_save, store.save) = (Some(saving.clone()), fault));
            let token = || Token::new("new").refresh_token("own");
            let mut changed = task::spawn(async {
                match change {
                    "login" => ours.session.login(token()).await,
                    "two logins" => {
                        assert_pending!(task::spawn(ours.session.login(token())).poll());
                        ours.session.login(Token::new("newer").refresh_token("other")).await
                    }
                    "logout" => ours.session.logout().await,
                    "replacement" => ours.session.replace(token()).await,
                    _ => ours.session.replace(token().without_refresh_token()).await,
                }
            });
            assert_pending!(changed.poll());
            within(saving.waiting(1)).await;
            presenting.open();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_pending!(theirs.poll());
            assert_eq!(ours.authority.counts().refreshes, 1, "{change}");
            saving.open();
            assert_eq!(within(changed).await.is_ok(), fault == Fault::None, "{change}");
            let start = tokio::time::Instant::now();
            let _ = within(theirs).await;
            assert!(start.elapsed() < Duration::from_secs(1), "{change}: {:?}", start.elapsed());
            if fault == Fault::None {
                assert_eq!(ours.authority.counts().presented_again(), 0, "{change}");
            }
        }
    }
}

/// Whoever takes it meanwhile spends nothing itself.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_held_until_a_change_has_been_written_is_held_on_by_a_refresh_that_takes_it() {
    let store = Watched::default();
    let (ours, sibling, _presenting) = spending(&store).await;
    let saving = Gate::new();
    store.set(|store| store.hold_save = Some(saving.clone()));
    let mut login = task::spawn(ours.session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    within(saving.waiting(1)).await;
    ours.authority.fail_next(Endpoint::Login, Failure::Reset);
    within(ours.session.refresh()).await.unwrap_err();
    let mut theirs = task::spawn(sibling.session.refresh());
    assert_pending!(theirs.poll());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_pending!(theirs.poll());
    assert_eq!(ours.authority.counts().refreshes, 1, "the store has what is being presented");
    saving.open();
    within(login).await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(within(theirs).await.unwrap().access().expose(), "of-bob");
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// The store has the one that was spent before it, until the login is there.
#[tokio::test(start_paused = true)]
async fn the_lease_of_a_refresh_that_is_owed_is_held_until_a_login_in_its_place_has_been_written() {
    let store = Watched::default();
    let (ours, sibling) = owing(&store).await;
    let saving = Gate::new();
    store.set(|store| (store.hold_save, store.save) = (Some(saving.clone()), Fault::None));
    let mut login = task::spawn(ours.session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    let mut theirs = task::spawn(sibling.session.refresh());
    assert_pending!(theirs.poll());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_pending!(theirs.poll());
    saving.open();
    within(login).await.unwrap();
    assert_eq!(within(theirs).await.unwrap().access().expose(), "of-bob");
    assert_eq!(ours.authority.counts().presented_again(), 0);
}

/// Its save waits for a login's, which is being written on a runtime that stands still.
#[test]
fn the_lease_of_a_refresh_that_has_spent_nothing_is_given_back_whatever_is_being_written() {
    let (undriven, here) = (runtime(), runtime());
    let store = Watched::default();
    let session = numbered().0.store(store.clone()).build();
    let saving = Gate::new();
    undriven.block_on(async {
        session.token().await.unwrap();
        store.set(|store| store.hold_save = Some(saving.clone()));
        assert_pending!(task::spawn(session.login(Token::new("of-bob"))).poll());
        within(saving.waiting(1)).await;
    });
    here.block_on(async {
        within(session.refresh()).await.unwrap();
        drop(within(store.lock()).await.unwrap());
    });
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_refresh_that_spends_nothing_waits_for_no_change_that_has_ended_it() {
    let store = Watched::default();
    let source = source_fn(|_: FetchContext| std::future::pending::<Result<Token, FetchError>>());
    let session = Session::builder(source).store(store.clone()).build();
    session.login(Token::new("first")).await.unwrap();
    let mut refreshed = task::spawn(session.refresh());
    assert_pending!(refreshed.poll());
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut lease = task::spawn(store.lock());
    assert_pending!(lease.poll());
    let saving = Gate::new();
    store.set(|store| store.hold_save = Some(saving.clone()));
    assert_pending!(task::spawn(session.login(Token::new("of-bob"))).poll());
    within(saving.waiting(1)).await;
    let start = tokio::time::Instant::now();
    drop(within(lease).await.unwrap());
    assert!(start.elapsed() < Duration::from_millis(100));
}

#[test]
fn nobodys_lease_waits_for_a_change_that_there_is_no_runtime_to_write_on() {
    let runtime = runtime();
    let store = Watched::default();
    let (ours, _sibling, _presenting) = runtime.block_on(spending(&store));
    let unsaved = assert_ready_err!(task::spawn(ours.session.logout()).poll());
    assert_eq!(unsaved.kind(), ErrorKind::NoRuntime);
    runtime.block_on(async { drop(within(store.lock()).await.unwrap()) });
    runtime.block_on(within(ours.session.settle())).unwrap();
    assert_eq!(runtime.block_on(store.access()), None);
}

#[test]
fn a_change_that_there_is_no_runtime_to_write_on_is_written_after_what_is_being_written() {
    let runtime = runtime();
    let store = Watched::default();
    let saving = Gate::new();
    let world = runtime.block_on(async {
        let world = world(&store);
        world.session.token().await.unwrap();
        store.set(|store| store.hold_save = Some(saving.clone()));
        assert_pending!(task::spawn(world.session.login(Token::new("of-bob"))).poll());
        within(saving.waiting(1)).await;
        world
    });
    let unsaved = assert_ready_err!(task::spawn(world.session.logout()).poll());
    assert_eq!(unsaved.kind(), ErrorKind::NoRuntime);
    saving.open();
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    assert_eq!(store.saved()[1..], [Some("of-bob".to_owned()), None]);
}

/// The refresh has got none.
#[tokio::test(start_paused = true)]
async fn a_lease_that_settling_has_taken_and_not_saved_under_is_kept() {
    for is_dropped in [false, true] {
        let store = Watched::default();
        let (ours, sibling) = siblings(&store).await;
        store.set(|store| (store.lock, store.save) = (Fault::Error, Fault::Error));
        ours.session.refresh().await.unwrap();
        let gate = Gate::new();
        store.set(|store| (store.lock, store.hold_save) = (Fault::None, Some(gate.clone())));
        let mut settled = task::spawn(ours.session.settle());
        assert_pending!(settled.poll());
        within(gate.waiting(1)).await;
        if is_dropped {
            drop(settled);
        } else {
            gate.open();
            assert_eq!(within(settled).await.unwrap_err().kind(), ErrorKind::Store);
        }
        let error = within(sibling.session.refresh()).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(ours.authority.counts().refreshes, 1);

        gate.open();
        store.set(|store| store.save = Fault::None);
        within(ours.session.settle()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
        within(sibling.session.refresh()).await.unwrap();
        let counts = ours.authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again()), (1, 0), "it has found what was saved");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_has_spent_no_refresh_token_keeps_no_lease_and_is_written_again_all_the_same() {
    let store = Watched::default();
    let authority = ModelAuthority::new().rotation(Rotation::Omitted);
    let session = || World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    let (ours, sibling) = (session(), session());
    ours.session.token().await.unwrap();
    sibling.session.token().await.unwrap();
    store.set(|store| store.save = Fault::Error);
    ours.session.refresh().await.unwrap();
    let start = tokio::time::Instant::now();
    let theirs = within(sibling.session.refresh()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(store.access().await.as_deref(), Some(theirs.access().expose()), "it has the later lease");
}

/// Nobody presents it, so that nothing is spent (RFC 6749 §4.4.3 only says that there should be none).
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_an_application_is_handed_all_the_same_keeps_no_sibling_from_fetching() {
    let store = Watched::default();
    let pair = |number| {
        json(200, format!(r#"{{"access_token":"access-{number}","refresh_token":"refresh-{number}"}}"#))
    };
    let idp = Idp::new((0..3).map(pair));
    let session =
        || Session::builder(ClientCredentialsGrant::new(endpoint(&idp))).store(store.clone()).build();
    let (ours, sibling) = (session(), session());
    ours.token().await.unwrap();
    sibling.token().await.unwrap();
    store.set(|store| store.save = Fault::Error);
    ours.refresh().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(within(sibling.refresh()).await.unwrap().access().expose(), "access-2");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_could_not_be_saved_is_saved_as_soon_as_the_store_works() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    store.set(|store| store.save = Fault::Error);
    assert_eq!(world.session.logout().await.unwrap_err().kind(), ErrorKind::Store);
    store.set(|store| store.save = Fault::None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.access().await, None);
}

/// The user has logged out where the store failed, and logs in again at another replica.
#[tokio::test(start_paused = true)]
async fn a_logout_that_is_owed_does_not_end_a_later_login_elsewhere() {
    for had in [true, false] {
        for settles in [false, true] {
            let store = Watched::default();
            let [ours, elsewhere] = [&store, &store].map(|store| world(store).session);
            if had {
                ours.login(Token::new("first").refresh_token("R1")).await.unwrap();
            }
            store.set(|store| store.save = Fault::Error);
            assert_eq!(ours.logout().await.unwrap_err().kind(), ErrorKind::Store);
            store.set(|store| store.save = Fault::None);
            elsewhere.login(Token::new("again").refresh_token("R2")).await.unwrap();
            if settles {
                ours.settle().await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert_eq!(store.access().await.as_deref(), Some("again"), "{had} {settles}");
            assert_eq!(ours.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
            ours.settle().await.expect("nothing is owed any more");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_is_there_although_the_store_could_not_say_so_does_not_end_the_next_login() {
    let store = Watched::default();
    let [ours, elsewhere] = [&store, &store].map(|store| world(store).session);
    ours.login(Token::new("first").refresh_token("R1")).await.unwrap();
    store.set(|store| store.save_is_unanswered = true);
    assert_eq!(ours.logout().await.unwrap_err().kind(), ErrorKind::Store);
    store.set(|store| store.save_is_unanswered = false);
    assert_eq!(store.access().await, None, "it is there");
    elsewhere.login(Token::new("again").refresh_token("R2")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(store.access().await.as_deref(), Some("again"));
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_is_meant_again_ends_the_login_that_has_come_between() {
    let store = Watched::default();
    let [ours, elsewhere] = [&store, &store].map(|store| world(store).session);
    ours.login(Token::new("first").refresh_token("R1")).await.unwrap();
    store.set(|store| store.save = Fault::Error);
    ours.logout().await.unwrap_err();
    store.set(|store| store.save = Fault::None);
    elsewhere.login(Token::new("again").refresh_token("R2")).await.unwrap();
    ours.logout().await.unwrap();
    assert_eq!(store.access().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_logout_before_the_answer_to_another_ends_the_login_that_has_come_between() {
    for is_tried_again in [false, true] {
        let (store, gate) = (Watched::default(), Gate::new());
        let [ours, elsewhere] = [&store, &store].map(|store| world(store).session);
        ours.login(Token::new("first")).await.unwrap();
        if is_tried_again {
            store.set(|store| store.save = Fault::Error);
            ours.logout().await.unwrap_err();
            store.set(|store| store.save = Fault::None);
        }
        store.set(|store| store.hold_answer = Some(gate.clone()));
        let mut first: task::Spawn<BoxFuture<'_, _>> =
            task::spawn(if is_tried_again { ours.settle().boxed() } else { ours.logout().boxed() });
        assert_pending!(first.poll());
        within(gate.waiting(1)).await;
        store.set(|store| store.hold_answer = None);
        elsewhere.login(Token::new("again")).await.unwrap();
        let mut second = task::spawn(ours.logout());
        assert_pending!(second.poll());
        gate.open();
        within(first).await.unwrap();
        within(second).await.unwrap();
        assert_eq!(store.access().await, None, "tried again: {is_tried_again}");
        assert_eq!(store.saved().iter().flatten().count(), 2, "the logins");
    }
}

/// It ends what was there when it was made, as far as it can know, whoever had put that there, and what is still saved
/// of that.
#[tokio::test(start_paused = true)]
async fn a_logout_that_is_owed_ends_the_login_that_was_there_before_it() {
    for (is_known, load) in
        [(true, Fault::None), (true, Fault::Error), (true, Fault::Hang), (false, Fault::Error)]
    {
        let store = Watched::default();
        let [ours, elsewhere] = [&store, &store].map(|store| world(store).session);
        if is_known {
            ours.login(Token::new("first").refresh_token("R1")).await.unwrap();
        }
        elsewhere.login(Token::new("second").refresh_token("R2")).await.unwrap();
        store.set(|store| (store.load, store.save) = (load, Fault::Error));
        assert_eq!(ours.logout().await.unwrap_err().kind(), ErrorKind::Store);
        store.set(|store| (store.load, store.save) = (Fault::None, Fault::None));
        elsewhere.replace(Token::new("third").refresh_token("R3")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(store.access().await, None, "known: {is_known}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_is_reported_although_the_caller_has_gone() {
    let store = Watched::default();
    let (observer, told) = failures();
    let source = ModelAuthority::new().source();
    let session = Session::builder(source).store(store.clone()).observer(observer).build();
    let gate = Gate::new();
    store.set(|store| (store.save, store.hold_save) = (Fault::Error, Some(gate.clone())));
    let mut login = task::spawn(session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    gate.waiting(1).await;
    drop(login);
    gate.open();
    until(|| told.load(Ordering::Relaxed) > 0).await;
    store.set(|store| (store.save, store.hold_save) = (Fault::None, None));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.access().await.as_deref(), Some("of-bob"), "and made again");
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn what_could_not_be_saved_is_written_again_where_that_was_seen_last() {
    let store = Watched::default();
    let world = world(&store);
    store.set(|store| store.save = Fault::Error);
    let undriven = runtime();
    undriven.block_on(world.session.login(Token::new("of-bob"))).unwrap_err();
    runtime().block_on(async {
        world.session.logout().await.unwrap_err();
        store.set(|store| store.save = Fault::None);
        tokio::time::sleep(Duration::from_secs(2)).await;
    });
    assert_eq!(store.saved(), [None]);
}

#[test]
fn what_was_not_saved_because_its_runtime_went_away_is_written_by_the_callers() {
    let store = Watched::default();
    let (bound, gate) = (runtime(), Gate::new());
    let session = bound_to(&bound, &store);
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut login = task::spawn(session.login(Token::new("of-bob")));
    assert_pending!(login.poll());
    bound.block_on(gate.waiting(1));
    store.set(|store| store.hold_save = None);
    drop(bound);
    runtime().block_on(async {
        within(login).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.access().await.as_deref(), Some("of-bob"));
    });
}

fn bound_to(runtime: &Runtime, store: &Watched) -> Session {
    let _inside = runtime.enter();
    let builder = Session::builder(ModelAuthority::new().source()).store(store.clone());
    builder.on_current_runtime().unwrap().build()
}

#[test]
fn what_could_not_be_saved_is_written_again_by_the_runtime_that_lives() {
    for is_bound in [false, true] {
        let store = Watched::default();
        let (home, passing) = (runtime(), runtime());
        let session = if is_bound { bound_to(&home, &store) } else { world(&store).session };
        home.block_on(session.login(Token::new("of-alice"))).unwrap();
        store.set(|store| store.save = Fault::Error);
        home.block_on(session.login(Token::new("of-bob"))).unwrap_err();
        let mut logout = task::spawn(session.logout());
        passing.block_on(async { assert_pending!(logout.poll()) });
        home.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        passing.block_on(logout).unwrap_err();
        drop(passing);
        store.set(|store| store.save = Fault::None);
        home.block_on(async { tokio::time::sleep(Duration::from_secs(5)).await });
        assert_eq!(store.saved(), [Some("of-alice".to_owned()), None], "bound: {is_bound}");
    }
}

/// A sibling needs the lease that is kept for it.
#[test]
fn what_a_runtime_left_unsaved_is_written_where_the_session_is_used_next() {
    let (store, gate) = (Watched::default(), Gate::new());
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    let world = || World::with(authority.clone(), |session| session.store(store.clone()), |layer| layer);
    let (ours, sibling) = (world(), world());
    let (first, second) = (runtime(), runtime());
    first.block_on(ours.session.token()).unwrap();
    second.block_on(sibling.session.token()).unwrap();
    store.set(|store| store.hold_save = Some(gate.clone()));
    let session = ours.session.clone();
    first.block_on(async {
        tokio::spawn(async move { session.refresh().await });
        gate.waiting(1).await;
    });
    drop(first);
    store.set(|store| store.hold_save = None);
    second.block_on(async {
        assert_eq!(ours.get("/me").await.unwrap().status(), StatusCode::OK);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(store.saved().len(), 2);
        sibling.session.refresh().await.unwrap();
        assert_eq!(authority.counts().presented_again(), 0);
    });
}

#[test]
fn a_logout_that_a_runtime_left_unsaved_is_written_where_the_session_is_asked_next() {
    for ends in [true, false] {
        let store = Watched::default();
        let world = world(&store);
        let left = runtime();
        left.block_on(world.session.token()).unwrap();
        store.set(|store| store.save = Fault::Error);
        left.block_on(world.session.logout()).unwrap_err();
        store.set(|store| store.save = Fault::None);
        let undriven = Some(left).filter(|_| !ends);
        runtime().block_on(async {
            world.session.token().await.unwrap_err();
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(store.access().await, None, "its runtime ends: {ends}");
        });
        drop(undriven);
    }
}

#[test]
fn what_is_queued_behind_a_write_whose_runtime_goes_away_is_written_on_its_own() {
    let (store, gate) = (Watched::default(), Gate::new());
    let world = world(&store);
    let (first, gone, last) = (runtime(), runtime(), runtime());
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut login = task::spawn(world.session.login(Token::new("of-bob")));
    first.block_on(async {
        assert_pending!(login.poll());
        gate.waiting(1).await;
    });
    let mut replace = task::spawn(world.session.replace(Token::new("elsewhere")));
    gone.block_on(async { assert_pending!(replace.poll()) });
    let mut logout = task::spawn(world.session.logout());
    last.block_on(async { assert_pending!(logout.poll()) });
    drop(gone);
    store.set(|store| store.hold_save = None);
    drop(first);
    last.block_on(async {
        within(logout).await.expect("its runtime is there");
        within(replace).await.expect("the queue goes on as a whole");
        within(login).await.expect_err("what has become of it nobody knows");
    });
    assert_eq!(store.saved(), [None], "the logout is what counts by then");
}

/// Its flight has waited for it long enough, and is gone.
#[test]
fn a_refresh_that_is_queued_behind_a_write_which_stands_still_is_not_made_after_a_logout() {
    let (store, gate) = (Watched::default(), Gate::new());
    let world = world(&store);
    let (undriven, last) = (runtime(), runtime());
    last.block_on(async { world.session.token().await.unwrap() });
    store.set(|store| store.hold_save = Some(gate.clone()));
    let mut replace = task::spawn(world.session.replace(Token::new("elsewhere")));
    undriven.block_on(async {
        assert_pending!(replace.poll());
        gate.waiting(1).await;
    });
    last.block_on(async {
        within(world.session.refresh()).await.expect("it waits for its own write only for so long");
    });
    let mut logout = task::spawn(world.session.logout());
    last.block_on(async { assert_pending!(logout.poll()) });
    store.set(|store| store.hold_save = None);
    drop(undriven);
    last.block_on(async { within(logout).await.expect("its runtime is there") });
    let saved = store.saved();
    assert_eq!((saved.len(), saved.last()), (2, Some(&None)), "the first token, and the logout");
}

/// It might be written over what a sibling has saved meanwhile.
#[tokio::test(start_paused = true)]
async fn a_refresh_without_a_lease_is_written_again_by_the_next_one_only() {
    let store = Watched::default();
    let world = world(&store);
    world.session.token().await.unwrap();
    store.set(|store| (store.lock, store.save) = (Fault::Error, Fault::Error));
    world.session.refresh().await.unwrap();
    store.set(|store| (store.lock, store.save) = (Fault::None, Fault::None));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.saved().len(), 1);
    let next = world.session.refresh().await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some(next.access().expose()));
}

/// A sibling's replacement, which keeps the refresh token that this refresh has spent.
#[tokio::test(start_paused = true)]
async fn a_refresh_stays_owed_while_what_is_in_its_way_cannot_be_read() {
    let store = Watched::default();
    let (ours, sibling) = siblings(&store).await;
    let gate = ours.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(ours.session.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    sibling.session.replace(Token::new("elsewhere")).await.unwrap();
    store.set(|store| store.load = Fault::Error);
    gate.open();
    let refreshed = within(refresh).await.unwrap();
    assert_eq!(ours.session.settle().await.unwrap_err().kind(), ErrorKind::Store);
    store.set(|store| store.load = Fault::None);
    ours.session.settle().await.unwrap();
    let stored = store.load().await.unwrap().and_then(|record| record.token).expect("a token");
    assert_eq!(stored.access.expose(), "elsewhere");
    assert!(
        stored
            .refresh
            .is_some_and(|refresh| Some(refresh.expose()) == refreshed.refresh().map(|it| it.expose()))
    );
}
