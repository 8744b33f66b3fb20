//! A replacement without a refresh token, which keeps the session's, while that is being spent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    ErrorKind, FetchContext, FetchError, Secret, Session, Token, TokenSource,
    session::State,
    source_fn,
    store::{MemoryStore, TokenStore},
    test_util::{Endpoint, Failure, Gate, ModelAuthority, Rotation},
};

use crate::{
    identity::{orphans_end, stored_access},
    script::within,
    watched::{Fault, Watched, Watching, failures, siblings},
    world::World,
};

async fn refresh_token_ends(store: &MemoryStore) -> Option<SystemTime> {
    store.load().await.unwrap()?.token?.refresh_expires_at
}

/// A session on this store, the answers to whose refreshes are on their way until the gate opens.
fn with_slow_answers(authority: &ModelAuthority, store: &(impl TokenStore + Clone), gate: &Gate) -> Session {
    let (source, gate) = (authority.source(), gate.clone());
    let slow = source_fn(move |context: FetchContext| {
        let (source, gate, refreshes) = (source.clone(), gate.clone(), context.refresh_token().is_some());
        async move {
            let token = source.fetch(context).await?;
            if refreshes {
                gate.pass().await;
            }
            Ok::<_, FetchError>(token.refresh_expires_in(Duration::from_secs(24 * 60 * 60)))
        }
    });
    Session::builder(slow).store(store.clone()).build()
}

/// The same with a token, and with a refresh under way that nobody waits for.
async fn refreshing(authority: &ModelAuthority, store: &MemoryStore, gate: &Gate) -> Session {
    let session = with_slow_answers(authority, store, gate);
    session.token().await.unwrap();
    assert_pending!(task::spawn(session.refresh()).poll());
    within(gate.waiting(1)).await;
    session
}

/// A session that has been replaced, and a sibling of it that has refreshed before, which its memory has not seen.
async fn behind_a_sibling(authority: &ModelAuthority, store: &Watched, gate: &Gate) -> (Session, Session) {
    let ours = with_slow_answers(authority, store, gate);
    let sibling = Session::builder(authority.source()).store(store.clone()).build();
    within(ours.token()).await.unwrap();
    within(sibling.token()).await.unwrap();
    within(sibling.refresh()).await.unwrap();
    ours.replace(Token::new("elsewhere")).await.unwrap();
    (ours, sibling)
}

/// Two sessions with a token, each by a store of its own on the same memory.
async fn with_stores_of_their_own(authority: &ModelAuthority) -> [(Session, Watched); 2] {
    let (ours, mut sibling) = (Watched::default(), Watched::default());
    sibling.memory = ours.memory.clone();
    let both = [ours, sibling]
        .map(|store| (Session::builder(authority.source()).store(store.clone()).build(), store));
    for (session, _) in &both {
        within(session.token()).await.unwrap();
    }
    both
}

fn presented_again_and_logins(authority: &ModelAuthority) -> (usize, usize) {
    (authority.counts().presented_again(), authority.counts().logins)
}

/// The refresh token that the replacement keeps is the one that this fetch spends.
#[tokio::test(start_paused = true)]
async fn a_replacement_without_a_refresh_token_gets_the_one_that_the_refresh_under_way_brings() {
    for by_the_sibling in [false, true] {
        for says_it_again in [false, true] {
            let (authority, store, gate) = (ModelAuthority::new(), MemoryStore::new(), Gate::new());
            let session = refreshing(&authority, &store, &gate).await;
            let kept = session.token().await.unwrap().refresh().cloned();
            let elsewhere = Token::new("elsewhere");
            let elsewhere = if says_it_again { elsewhere.refresh_token(kept) } else { elsewhere };
            session.replace(elsewhere).await.unwrap();
            let present = within(session.token()).await.unwrap();
            assert_eq!(present.access().expose(), "elsewhere", "nobody waits");
            let sibling = Session::builder(authority.source()).store(store.clone()).build();
            within(sibling.token()).await.unwrap();
            let spent_one_ends = refresh_token_ends(&store).await;
            gate.open();
            orphans_end().await;
            assert!(refresh_token_ends(&store).await > spent_one_ends);
            let present = within(session.token()).await.unwrap();
            assert_eq!(present.access().expose(), "elsewhere", "the fetch has lost");
            assert_eq!(stored_access(&store).await.as_deref(), Some("elsewhere"));

            let session = if by_the_sibling { sibling } else { session };
            let next = within(session.refresh()).await.unwrap();
            assert!(authority.is_alive(next.access().expose()));
            assert_eq!(presented_again_and_logins(&authority), (0, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_is_handed_down_undoes_no_logout_and_no_login_of_a_sibling() {
    for logs_in in [false, true] {
        let authority = ModelAuthority::new().account("bob", "builder");
        let (store, gate) = (MemoryStore::new(), Gate::new());
        let session = refreshing(&authority, &store, &gate).await;
        session.replace(Token::new("elsewhere")).await.unwrap();
        let sibling = Session::builder(authority.source()).store(store.clone()).build();
        within(sibling.token()).await.unwrap();
        let bob = authority.login_as("bob", "builder").await.unwrap();
        if logs_in {
            sibling.login(bob.clone()).await.unwrap();
        } else {
            sibling.logout().await.unwrap();
        }
        gate.open();
        orphans_end().await;
        let bobs = logs_in.then(|| bob.access().expose());
        assert_eq!(stored_access(&store).await.as_deref(), bobs);
        assert_eq!(sibling.token().await.ok().as_ref().map(|token| token.access().expose()), bobs);
    }
}

/// A push that comes twice, or out of order: the refresh that has spent it was aborted, and brought no other.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_being_spent_when_another_came_is_not_taken_again() {
    for logs_in in [false, true] {
        let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
        let session = Session::builder(authority.source()).build();
        let (first, second) = (authority.login().await.unwrap(), authority.login().await.unwrap());
        session.login(first.clone()).await.unwrap();
        let gate = authority.hold(Endpoint::Refresh);
        assert_pending!(task::spawn(session.refresh()).poll());
        within(gate.waiting(1)).await;
        if logs_in { session.login(second).await } else { session.replace(second).await }.unwrap();
        session.replace(first).await.unwrap();
        gate.open();
        within(session.refresh()).await.unwrap();
        assert_eq!(authority.counts().presented_again(), 0, "{logs_in}");
    }
}

/// It may not have been spent: the authority need not rotate, nor have heard of the refresh.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_may_have_been_spent_is_better_than_none_and_than_one_that_was_refused() {
    for has_none in [true, false] {
        let authority = ModelAuthority::new().rotation(Rotation::Off);
        let source = Arc::new(authority.source());
        let source = source_fn(move |context: FetchContext| {
            let source = source.clone();
            async move {
                if context.refresh_token().is_none() {
                    return Err(FetchError::login_required("it only refreshes"));
                }
                source.fetch(context).await
            }
        });
        let session = Session::builder(source).build();
        let first = authority.login().await.unwrap();
        session.login(first.clone()).await.unwrap();
        let gate = authority.hold(Endpoint::Refresh);
        assert_pending!(task::spawn(session.refresh()).poll());
        within(gate.waiting(1)).await;
        let pushed = Token::new("pushed");
        let pushed = if has_none { pushed.without_refresh_token() } else { pushed.refresh_token("revoked") };
        session.replace(pushed).await.unwrap();
        gate.open();
        within(session.refresh()).await.unwrap_err();
        session.replace(first).await.unwrap();
        within(session.refresh()).await.unwrap();
    }
}

/// What is presented comes from the store then, and what the replacement keeps from memory.
#[tokio::test(start_paused = true)]
async fn a_replacement_gets_the_next_refresh_token_although_the_one_that_was_spent_was_a_siblings() {
    let (authority, store, gates) =
        (ModelAuthority::new(), MemoryStore::new(), [(); 2].map(|()| Gate::new()));
    let session = refreshing(&authority, &store, &gates[0]).await;
    session.replace(Token::new("elsewhere")).await.unwrap();
    let sibling = with_slow_answers(&authority, &store, &gates[1]);
    within(sibling.token()).await.unwrap();
    gates[0].open();
    orphans_end().await;

    assert_pending!(task::spawn(sibling.refresh()).poll());
    within(gates[1].waiting(1)).await;
    sibling.replace(Token::new("from-elsewhere-again")).await.unwrap();
    gates[1].open();
    orphans_end().await;
    let next = within(sibling.refresh()).await.unwrap();
    assert!(authority.is_alive(next.access().expose()));
    assert_eq!(presented_again_and_logins(&authority), (0, 1));
}

/// What is presented is a sibling's, which memory has not seen, and another replacement of the sibling's keeps it.
#[tokio::test(start_paused = true)]
async fn a_siblings_replacement_gets_the_refresh_token_that_is_handed_down_although_memory_was_behind() {
    let (authority, store, gate) = (ModelAuthority::new(), Watched::default(), Gate::new());
    let (ours, sibling) = behind_a_sibling(&authority, &store, &gate).await;
    assert_pending!(task::spawn(ours.refresh()).poll());
    within(gate.waiting(1)).await;
    ours.replace(Token::new("elsewhere-again")).await.unwrap();
    sibling.replace(Token::new("from-elsewhere-there")).await.unwrap();
    gate.open();
    orphans_end().await;
    assert_eq!(store.access().await.as_deref(), Some("from-elsewhere-there"));
    goes_on(&sibling, &authority).await;
}

/// And where memory has none, while it is presented or while what it has brought is being saved.
#[tokio::test(start_paused = true)]
async fn a_replacement_gets_the_next_refresh_token_although_only_the_store_had_the_one_that_is_presented() {
    for is_answered in [false, true] {
        let (authority, store, gate) = (ModelAuthority::new(), Watched::default(), Gate::new());
        let ours = with_slow_answers(&authority, &store, &gate);
        let sibling = Session::builder(authority.source()).store(store.clone()).build();
        ours.login(Token::new("without-one")).await.unwrap();
        within(sibling.token()).await.unwrap();
        sibling.replace(authority.login().await.unwrap()).await.unwrap();
        ours.replace(Token::new("elsewhere")).await.unwrap();
        assert!(within(ours.token()).await.unwrap().refresh().is_none());

        let saved = Gate::new();
        if is_answered {
            gate.open();
            store.set(|store| store.hold_save = Some(saved.clone()));
        }
        assert_pending!(task::spawn(ours.refresh()).poll());
        within(if is_answered { &saved } else { &gate }.waiting(1)).await;
        let replaced = tokio::spawn(async move { (ours.replace(Token::new("elsewhere-again")).await, ours) });
        orphans_end().await;
        saved.open();
        gate.open();
        let (replaced, ours) = replaced.await.unwrap();
        replaced.unwrap();
        orphans_end().await;
        assert_eq!(store.access().await.as_deref(), Some("elsewhere-again"));
        goes_on(&ours, &authority).await;
    }
}

/// The refresh that was presenting it has not left the slot by then.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_given_up_does_not_come_back_with_the_next_replacement() {
    let (authority, store) = (ModelAuthority::new(), Watched::default());
    let session = Session::builder(authority.source()).store(store.clone()).build();
    let _gate = refresh_is_held(&session, &authority).await;
    let mut given_up = task::spawn(session.replace(Token::new("first").without_refresh_token()));
    assert_pending!(given_up.poll());
    let mut next = task::spawn(session.replace(Token::new("second")));
    assert_pending!(next.poll());
    within(given_up).await.unwrap();
    within(next).await.unwrap();
    assert!(within(session.token()).await.unwrap().refresh().is_none());
    assert!(store.memory.load().await.unwrap().unwrap().token.unwrap().refresh.is_none());
}

/// Memory's refresh token was spent by the sibling that has saved the one which is presented. Whoever says it again has
/// to get the next one all the same.
#[tokio::test(start_paused = true)]
async fn what_is_handed_down_is_saved_although_the_replacement_says_a_refresh_token_again_that_a_sibling_has_spent()
 {
    for logs_in in [false, true] {
        let (authority, store, gate) = (ModelAuthority::new(), Watched::default(), Gate::new());
        let (ours, _sibling) = behind_a_sibling(&authority, &store, &gate).await;
        let own = within(ours.token()).await.unwrap().refresh().cloned();
        assert_pending!(task::spawn(ours.refresh()).poll());
        within(gate.waiting(1)).await;
        let again = Token::new("again").refresh_token(own);
        let said = if logs_in { ours.login(again).await } else { ours.replace(again).await };
        said.unwrap();
        gate.open();
        orphans_end().await;
        goes_on(&ours, &authority).await;
    }
}

/// What the replacement has kept is the one that the refresh under way has brought, and is handed down to it once more.
#[tokio::test(start_paused = true)]
async fn a_replacement_during_the_save_of_a_refresh_is_no_failure_of_the_store() {
    let (store, gate) = (Watched::default(), Gate::new());
    let (observer, told) = failures();
    let world = World::with(
        ModelAuthority::new(),
        |session| session.store(store.clone()).observer(observer),
        |layer| layer,
    );
    world.session.token().await.unwrap();
    store.set(|store| store.hold_save = Some(gate.clone()));
    assert_pending!(task::spawn(world.session.refresh()).poll());
    within(gate.waiting(1)).await;
    let mut replaced = task::spawn(world.session.replace(Token::new("elsewhere")));
    assert_pending!(replaced.poll());
    gate.open();
    within(replaced).await.unwrap();
    orphans_end().await;
    within(world.session.settle()).await.unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 0);
    goes_on(&world.session, &world.authority).await;
}

/// It has refreshed meanwhile, and that brought no refresh token (RFC 6749 §6): the one that it keeps is the same.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_is_owed_keeps_a_siblings_refresh_token_although_it_was_refreshed() {
    let authority = ModelAuthority::new();
    let [(ours, failing), (sibling, _)] = with_stores_of_their_own(&authority).await;
    failing.set(|store| store.save = Fault::Error);
    ours.replace(Token::new("elsewhere")).await.unwrap_err();
    drop(authority.clone().rotation(Rotation::Omitted));
    within(ours.refresh()).await.unwrap();
    drop(authority.clone().rotation(Rotation::ReuseKillsFamily));
    within(sibling.refresh()).await.unwrap();
    failing.set(|store| store.save = Fault::None);
    within(ours.refresh()).await.unwrap();
    within(sibling.refresh()).await.unwrap();
    let counts = authority.counts();
    assert_eq!((counts.family_deaths, counts.logins), (0, 1));
}

/// The store takes the first late or without an answer, and the second not before a sibling has refreshed the first.
#[tokio::test(start_paused = true)]
async fn of_two_replacements_the_second_keeps_what_a_sibling_has_got_for_the_refresh_token_of_the_first() {
    for is_answered in [true, false] {
        let authority = ModelAuthority::new();
        let [(ours, failing), (sibling, sound)] = with_stores_of_their_own(&authority).await;
        let (own, gate) = (authority.login().await.unwrap(), Gate::new());
        failing.set(|store| {
            store.hold_save = Some(gate.clone());
            store.save_is_unanswered = !is_answered;
        });
        let replace = |token| {
            let session = ours.clone();
            tokio::spawn(async move { session.replace(token).await })
        };
        let first = replace(own);
        within(gate.waiting(1)).await;
        let second = replace(Token::new("elsewhere"));
        orphans_end().await;
        failing.set(|store| {
            store.hold_save = None;
            store.save = Fault::Error;
            // What the store has not answered is to be found there.
            store.load = if is_answered { Fault::Error } else { Fault::None };
        });
        gate.open();
        assert_eq!(within(first).await.unwrap().is_ok(), is_answered);
        within(second).await.unwrap().unwrap_err();
        within(sibling.refresh()).await.unwrap();
        assert_eq!(authority.counts().refreshes, 0, "it has taken over what the store has");
        within(sibling.refresh()).await.unwrap();
        failing.set(|store| *store = Watching::default());
        within(ours.settle()).await.unwrap();
        assert_eq!(sound.access().await.as_deref(), Some("elsewhere"));
        within(ours.refresh()).await.unwrap();
        assert_eq!(authority.counts().presented_again(), 0, "{is_answered}");
    }
}

/// An authority that keeps a refresh token may prolong it with each use, elsewhere, too.
#[tokio::test(start_paused = true)]
async fn a_replacement_says_when_the_refresh_token_that_is_there_ends() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    for second in [Token::new("second").refresh_token("R1"), Token::new("second")] {
        let store = MemoryStore::new();
        let source = source_fn(|_| async { Err::<Token, _>(FetchError::transient("nobody asks")) });
        let session = Session::builder(source).store(store.clone()).build();
        let first = Token::new("first").refresh_token("R1").refresh_expires_in(DAY);
        session.login(first).await.unwrap();
        let before = refresh_token_ends(&store).await.unwrap();
        session.replace(second.refresh_expires_in(30 * DAY)).await.unwrap();
        let prolonged = refresh_token_ends(&store).await.unwrap().duration_since(before).unwrap();
        assert!(prolonged > 28 * DAY, "{prolonged:?}");
        let known = refresh_token_ends(&store).await;
        for third in [Token::new("third").refresh_token("R1"), Token::new("third")] {
            session.replace(third).await.unwrap();
            assert_eq!(refresh_token_ends(&store).await, known, "it says nothing else");
        }
    }
}

/// Nobody has it yet; and what it was of is a sibling's, which memory has not seen.
#[tokio::test(start_paused = true)]
async fn a_replacement_during_the_save_of_a_refresh_keeps_what_that_has_brought_although_memory_was_behind() {
    for rotation in [Rotation::ReuseKillsFamily, Rotation::Omitted] {
        let authority = ModelAuthority::new();
        let [(ours, failing), (sibling, sound)] = with_stores_of_their_own(&authority).await;
        within(sibling.refresh()).await.unwrap();
        sound.expire().await;
        drop(authority.clone().rotation(rotation));
        let gate = Gate::new();
        failing.set(|store| {
            store.hold_save = Some(gate.clone());
            store.save = Fault::Error;
        });
        assert_pending!(task::spawn(ours.refresh()).poll());
        within(gate.waiting(1)).await;
        failing.set(|store| *store = Watching::default());
        let mut replaced = task::spawn(ours.replace(Token::new("elsewhere")));
        assert_pending!(replaced.poll());
        gate.open();
        within(replaced).await.unwrap();
        assert_eq!(sound.access().await.as_deref(), Some("elsewhere"));
        drop(authority.clone().rotation(Rotation::ReuseKillsFamily));
        let next = within(ours.refresh()).await.unwrap();
        assert!(authority.is_alive(next.access().expose()));
        let counts = authority.counts();
        assert_eq!((counts.family_deaths, counts.logins), (0, 1));
    }
}

/// The refresh token that it says again has been spent by a sibling meanwhile. A refresh that has failed may have seen what
/// the sibling has got, of which memory has nothing; or that is what is said again, and has been spent since.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_says_the_stored_refresh_token_again_keeps_what_a_sibling_has_got_for_that() {
    for (is_readable, has_seen, is_siblings) in
        [(true, false, false), (true, true, false), (true, true, true), (false, false, false)]
    {
        let authority = ModelAuthority::new();
        let [(ours, failing), (sibling, sound)] = with_stores_of_their_own(&authority).await;
        let mut said_again = within(ours.token()).await.unwrap().refresh().cloned();
        let of_sibling = within(sibling.refresh()).await.unwrap().refresh().cloned();
        if has_seen {
            sound.expire().await;
            authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "busy"));
            within(ours.refresh()).await.unwrap_err();
        }
        if is_siblings {
            said_again = of_sibling;
            within(sibling.refresh()).await.unwrap();
        }
        failing.set(|store| store.load = if is_readable { Fault::None } else { Fault::Error });
        let replaced = within(ours.replace(Token::new("elsewhere").refresh_token(said_again))).await;
        assert_eq!(replaced.is_ok(), is_readable);
        failing.set(|store| *store = Watching::default());
        within(ours.settle()).await.unwrap();
        assert_eq!(sound.access().await.as_deref(), Some("elsewhere"));
        within(ours.refresh()).await.unwrap();
        let counts = authority.counts();
        assert_eq!((counts.family_deaths, counts.logins), (0, 1));
    }
}

/// Whoever says it has it from a token of before the refreshes.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_says_a_refresh_token_again_which_was_spent_here_keeps_the_next_one() {
    for (is_saved, refreshes) in [(true, 1), (false, 1), (true, 3)] {
        let (authority, store) = (ModelAuthority::new(), Watched::default());
        let session = Session::builder(authority.source()).store(store.clone()).build();
        let spent = within(session.token()).await.unwrap().refresh().cloned();
        store.set(|store| store.save = if is_saved { Fault::None } else { Fault::Error });
        for _ in 0..refreshes {
            within(session.refresh()).await.unwrap();
        }
        store.set(|store| *store = Watching::default());
        let said_again =
            Token::new("elsewhere").refresh_token(spent).refresh_expires_in(Duration::from_secs(1));
        within(session.replace(said_again)).await.unwrap();
        within(session.settle()).await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some("elsewhere"));
        assert_eq!(refresh_token_ends(&store.memory).await, None, "that end is of the one that was spent");
        let token = within(session.token()).await.unwrap();
        assert_eq!((token.refresh_lifetime(), token.refresh_expiry()), (None, None), "so it is in here");
        goes_on(&session, &authority).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_says_a_refresh_token_again_which_a_sibling_has_spent_keeps_what_was_found() {
    for tells in [true, false] {
        let (authority, store) = (ModelAuthority::new(), Watched::default());
        store.set(|store| store.tells = tells);
        let [ours, sibling] =
            [(); 2].map(|()| Session::builder(authority.source()).store(store.clone()).build());
        let spent = within(ours.token()).await.unwrap().refresh().cloned();
        let found = within(sibling.refresh()).await.unwrap();
        if !tells {
            within(ours.refresh()).await.unwrap();
        }
        orphans_end().await;
        within(ours.replace(Token::new("elsewhere").refresh_token(spent))).await.unwrap();
        let kept = within(ours.token()).await.unwrap();
        assert_eq!(kept.refresh().map(Secret::expose), found.refresh().map(Secret::expose), "tells: {tells}");
        goes_on(&ours, &authority).await;
    }
}

/// The source has logged in by itself instead.
#[tokio::test(start_paused = true)]
async fn a_replacement_may_say_a_refresh_token_again_that_nobody_has_spent() {
    let source = source_fn(|_| async { Ok::<_, FetchError>(Token::new("second").refresh_token("of-login")) });
    let session = Session::builder(source).build();
    session.login(Token::new("first").refresh_token("unspent")).await.unwrap();
    assert_eq!(session.refresh().await.unwrap().refresh().map(Secret::expose), Some("of-login"));
    session.replace(Token::new("third").refresh_token("unspent")).await.unwrap();
    assert_eq!(session.token().await.unwrap().refresh().map(Secret::expose), Some("unspent"));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_says_a_refresh_token_again_keeps_the_one_that_was_handed_down_for_it() {
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).build();
    let gate = refresh_is_held(&session, &authority).await;
    let spent = session.token().await.unwrap().refresh().cloned();
    session.replace(Token::new("elsewhere")).await.unwrap();
    gate.open();
    orphans_end().await;
    session.replace(Token::new("once-more").refresh_token(spent)).await.unwrap();
    goes_on(&session, &authority).await;
}

/// A refresh that nobody waits for stands before the authority until the gate opens.
async fn refresh_is_held(session: &Session, authority: &ModelAuthority) -> Gate {
    session.token().await.unwrap();
    let gate = authority.hold(Endpoint::Refresh);
    assert_pending!(task::spawn(session.refresh()).poll());
    within(gate.waiting(1)).await;
    gate
}

/// What the next refresh comes to: one that works, with no refresh token presented twice and without another login.
async fn goes_on(session: &Session, authority: &ModelAuthority) {
    let next = within(session.refresh()).await.unwrap();
    assert!(authority.is_alive(next.access().expose()));
    assert_eq!(presented_again_and_logins(authority), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_refused_is_not_presented_again_for_its_replacement() {
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).build();
    let gate = refresh_is_held(&session, &authority).await;
    authority.revoke_refresh();
    session.replace(Token::new("elsewhere")).await.unwrap();
    gate.open();
    orphans_end().await;
    assert_eq!(session.token().await.unwrap().access().expose(), "elsewhere", "it may still be good");
    let error = within(session.refresh()).await.unwrap_err();
    assert!(error.is_login_required(), "{error:?}");
    assert_eq!(authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_waits_out_what_its_refresh_token_has_to_wait_for() {
    let authority = ModelAuthority::new();
    let session = Session::builder(authority.source()).build();
    let gate = refresh_is_held(&session, &authority).await;
    authority.fail_next(Endpoint::Refresh, Failure::Html(StatusCode::SERVICE_UNAVAILABLE));
    session.replace(Token::new("elsewhere")).await.unwrap();
    let mut waiter = task::spawn(session.refresh());
    assert_pending!(waiter.poll());
    gate.open();
    let error = within(waiter).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let next = within(session.refresh()).await.unwrap();
    assert!(authority.is_alive(next.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_cools_down_after_the_refresh_that_has_spent_its_refresh_token_in_vain() {
    let (gate, calls) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (held, counted) = (gate.clone(), calls.clone());
    let source = source_fn(move |context: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (gate, presents) = (held.clone(), context.refresh_token().is_some());
        async move {
            gate.pass().await;
            assert!(presents);
            Err::<Token, _>(FetchError::transient("later"))
        }
    });
    let session = Session::builder(source).build();
    session.login(Token::new("first").refresh_token("kept")).await.unwrap();
    assert_pending!(task::spawn(session.refresh()).poll());
    within(gate.waiting(1)).await;
    session.replace(Token::new("elsewhere")).await.unwrap();
    gate.open();
    for _ in 0..5 {
        assert_eq!(within(session.refresh()).await.unwrap_err().kind(), ErrorKind::Transient);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "it is left alone meanwhile");
    assert_eq!(session.subscribe().next().await, Some(State::Cooling));
    assert_eq!(session.token().await.unwrap().access().expose(), "elsewhere");
}

/// A login spends no refresh token, although it is handed one.
#[tokio::test(start_paused = true)]
async fn the_failure_of_a_login_is_not_that_of_the_replacement_which_has_overtaken_it() {
    for class in [FetchError::login_required as fn(&'static str) -> FetchError, FetchError::transient] {
        let (gate, calls) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
        let (held, counted) = (gate.clone(), calls.clone());
        let source = source_fn(move |_: FetchContext| {
            let (gate, is_first) = (held.clone(), counted.fetch_add(1, Ordering::SeqCst) == 0);
            async move {
                gate.pass().await;
                if is_first { Err(class("of the login")) } else { Ok(Token::new("next")) }
            }
        });
        let session = Session::builder(source).build();
        session.login(Token::new("first").refresh_token("kept")).await.unwrap();
        assert_pending!(task::spawn(session.refresh()).poll());
        within(gate.waiting(1)).await;
        session.replace(Token::new("elsewhere")).await.unwrap();
        gate.open();
        orphans_end().await;
        let state = session.subscribe().next().await;
        assert!(matches!(state, Some(State::Issued(_))), "{state:?}");
        assert_eq!(within(session.refresh()).await.unwrap().access().expose(), "next");
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_kept_refresh_token_is_over_is_not_believed_if_a_sibling_has_saved_the_next_one() {
    for delay in [Duration::ZERO, Duration::from_millis(400)] {
        let (authority, store) = (ModelAuthority::new(), MemoryStore::new());
        let session = Session::builder(authority.source()).store(store.clone()).build();
        let gate = refresh_is_held(&session, &authority).await;
        authority.revoke_refresh();
        session.replace(Token::new("elsewhere")).await.unwrap();
        gate.open();
        tokio::time::sleep(delay).await;
        let mut record = store.load().await.unwrap().unwrap();
        record.token.as_mut().unwrap().refresh = authority.login().await.unwrap().refresh().cloned();
        store.save(&record, None).await.unwrap();
        let next = within(session.refresh()).await.unwrap();
        assert!(authority.is_alive(next.access().expose()), "{delay:?}");
    }
}

/// What an earlier process leaves in the store: an access token that is over, and a living refresh token.
async fn left_behind(authority: &ModelAuthority, store: &(impl TokenStore + Clone)) {
    let before = Session::builder(authority.source()).store(store.clone()).build();
    within(before.token()).await.unwrap();
    let mut record = store.load().await.unwrap().unwrap();
    let token = record.token.as_mut().unwrap();
    token.expires_at = Some(SystemTime::UNIX_EPOCH);
    store.save(&record, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replacement_keeps_the_refresh_token_in_the_store_although_nobody_has_looked_for_it_yet() {
    for spends_it in [false, true] {
        let (authority, store, gate) = (ModelAuthority::new(), MemoryStore::new(), Gate::new());
        left_behind(&authority, &store).await;
        let identity = store.load().await.unwrap().unwrap().session;
        let session = with_slow_answers(&authority, &store, &gate);
        if spends_it {
            assert_pending!(task::spawn(session.token()).poll());
            within(gate.waiting(1)).await;
        }
        within(session.replace(Token::new("elsewhere"))).await.unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().session, identity, "it is the same identity");
        gate.open();
        orphans_end().await;
        assert_eq!(within(session.token()).await.unwrap().access().expose(), "elsewhere");
        goes_on(&session, &authority).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_keeps_the_refresh_token_that_a_sibling_has_got_meanwhile() {
    for is_saved in [true, false] {
        let store = Watched::default();
        let (ours, sibling) = siblings(&store).await;
        let gate = refresh_is_held(&sibling.session, &ours.authority).await;
        if is_saved {
            gate.open();
            within(sibling.session.settle()).await.unwrap();
        }
        within(ours.session.replace(Token::new("elsewhere"))).await.unwrap();
        gate.open();
        within(sibling.session.settle()).await.unwrap();
        assert_eq!(store.access().await.as_deref(), Some("elsewhere"), "a refresh gives way to it");
        goes_on(&ours.session, &ours.authority).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_that_a_replacement_has_found_is_presented_although_it_could_not_be_saved() {
    let store = Watched::default();
    let (ours, sibling) = siblings(&store).await;
    within(sibling.session.refresh()).await.unwrap();
    store.set(|store| store.save = Fault::Error);
    within(ours.session.replace(Token::new("elsewhere"))).await.unwrap_err();
    store.set(|store| store.load = Fault::Error);
    within(ours.session.refresh()).await.unwrap();
    let counts = ours.authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_with_a_refresh_token_of_its_own_keeps_that() {
    let store = Watched::default();
    let (ours, sibling) = siblings(&store).await;
    within(sibling.session.refresh()).await.unwrap();
    let own = ours.authority.login().await.unwrap();
    within(ours.session.replace(own.clone())).await.unwrap();
    let stored = store.load().await.unwrap().unwrap().token.unwrap().refresh.unwrap();
    assert_eq!(stored.expose(), own.refresh().unwrap().expose());
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_waits_for_the_store_gives_way_to_a_login_and_a_logout() {
    for logs_in in [true, false] {
        let (store, gate) = (Watched::default(), Gate::new());
        store.set(|store| store.hold_load = Some(gate.clone()));
        let session = Session::builder(ModelAuthority::new().source()).store(store.clone()).build();
        let mut replacing = task::spawn(session.replace(Token::new("elsewhere")));
        assert_pending!(replacing.poll());
        within(gate.waiting(1)).await;
        store.set(|store| store.hold_load = None);
        let expected = if logs_in {
            within(session.login(Token::new("of-bob"))).await.unwrap();
            ErrorKind::SessionChanged
        } else {
            within(session.logout()).await.unwrap();
            ErrorKind::SessionEnded
        };
        gate.open();
        assert_eq!(within(replacing).await.unwrap_err().kind(), expected);
        let present = session.token().await.ok();
        assert_eq!(present.is_some_and(|token| token.access().expose() == "of-bob"), logs_in);
        assert_eq!(store.access().await.as_deref(), logs_in.then_some("of-bob"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_cannot_look_for_what_it_is_to_keep_changes_nothing() {
    for fault in [Fault::Error, Fault::Hang, Fault::Panic] {
        let (authority, store) = (ModelAuthority::new(), Watched::default());
        left_behind(&authority, &store).await;
        store.set(|store| store.load = fault);
        let session = Session::builder(authority.source()).store(store.clone()).build();
        let error = within(session.replace(Token::new("elsewhere"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        store.set(|store| store.load = Fault::None);
        let token = within(session.token()).await.unwrap();
        assert!(authority.is_alive(token.access().expose()), "it has refreshed what was stored");
        within(session.replace(Token::new("elsewhere"))).await.unwrap();
        goes_on(&session, &authority).await;
    }
}

/// What a session that has not looked yet gets from its refresh may be of the same grant as the replacement.
#[tokio::test(start_paused = true)]
async fn what_the_first_refresh_brings_is_not_revoked_beside_a_replacement() {
    let (authority, store) = (ModelAuthority::new().rotation(Rotation::Off), MemoryStore::new());
    left_behind(&authority, &store).await;
    let revoked = Arc::new(AtomicUsize::new(0));
    let noted = revoked.clone();
    let revoke = move |_| {
        noted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let session = Session::builder(authority.source()).store(store).revoke_with(revoke).build();
    let gate = authority.hold(Endpoint::Refresh);
    assert_pending!(task::spawn(session.token()).poll());
    within(gate.waiting(1)).await;
    within(session.replace(Token::new("elsewhere"))).await.unwrap();
    gate.open();
    orphans_end().await;
    assert_eq!(authority.counts().refreshes, 1);
    assert_eq!(revoked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn that_a_kept_refresh_token_is_over_is_no_end_if_a_sibling_has_logged_in_or_out() {
    for logs_in in [true, false] {
        let store = Watched::default();
        let (ours, sibling) = siblings(&store).await;
        let gate = refresh_is_held(&ours.session, &ours.authority).await;
        within(ours.session.replace(Token::new("elsewhere"))).await.unwrap();
        ours.authority.revoke_refresh();
        let next = ours.authority.login().await.unwrap();
        if logs_in {
            within(sibling.session.login(next.clone())).await.unwrap();
        } else {
            within(sibling.session.logout()).await.unwrap();
        }
        gate.open();
        within(ours.session.settle()).await.unwrap();
        let found = within(ours.session.refresh()).await;
        if logs_in {
            assert_eq!(found.unwrap().access().expose(), next.access().expose());
        } else {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::SessionEnded);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_logout_a_replacement_is_refused_without_a_look_into_the_store() {
    let store = Watched::default();
    let session = Session::builder(ModelAuthority::new().source()).store(store.clone()).build();
    within(session.logout()).await.unwrap();
    store.set(|store| store.load = Fault::Hang);
    let start = Instant::now();
    let error = within(session.replace(Token::new("elsewhere"))).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::SessionEnded, Duration::ZERO));
}

/// While the lease is kept for what is owed, nobody else may refresh.
#[tokio::test(start_paused = true)]
async fn the_lease_that_was_kept_ends_when_what_is_owed_has_been_outdone() {
    let store = Watched::default();
    let (ours, sibling) = siblings(&store).await;
    store.set(|store| store.save = Fault::Error);
    within(ours.session.refresh()).await.unwrap();
    store.set(|store| store.save = Fault::None);
    let bob = ours.authority.login().await.unwrap();
    within(sibling.session.login(bob)).await.unwrap();
    within(ours.session.settle()).await.unwrap();
    let next = within(sibling.session.refresh()).await.unwrap();
    assert!(ours.authority.is_alive(next.access().expose()));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_has_nothing_to_keep_is_saved_although_the_store_cannot_be_read() {
    let store = Watched::default();
    let source = source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("first")) });
    let session = Session::builder(source).store(store.clone()).build();
    within(session.token()).await.unwrap();
    store.set(|store| store.load = Fault::Error);
    within(session.replace(Token::new("elsewhere"))).await.unwrap();
    assert_eq!(store.access().await.as_deref(), Some("elsewhere"));
}

/// Two replacements of a sibling that has not seen our refresh: one before our save, one between its look and its write.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_outdone_between_its_look_and_its_write_loses_no_refresh_token() {
    let theirs = Watched::default();
    let (sibling, _) = siblings(&theirs).await;
    let mut store = Watched::default();
    store.memory = theirs.memory.clone();
    let ours = World::with(sibling.authority.clone(), |session| session.store(store.clone()), |layer| layer);
    ours.session.token().await.unwrap();
    let gate = ours.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(ours.session.refresh());
    assert_pending!(refresh.poll());
    within(gate.waiting(1)).await;
    sibling.session.replace(Token::new("elsewhere")).await.unwrap();
    let looked = Gate::new();
    store.set(|store| store.hold_load = Some(looked.clone()));
    gate.open();
    within(looked.waiting(1)).await;
    sibling.session.replace(Token::new("elsewhere-again")).await.unwrap();
    store.set(|store| store.hold_load = None);
    looked.open();
    within(refresh).await.unwrap();
    within(ours.session.refresh()).await.unwrap();
    within(ours.session.refresh()).await.unwrap();
    assert_eq!(ours.authority.counts().family_deaths, 0);
}
