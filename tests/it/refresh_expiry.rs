//! A refresh token that is known to be dead is not presented.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tower_token_refresh::{
    FetchContext, FetchError, Secret, Session, Token, TokenSource,
    event::Event,
    session::RenewalMode,
    source::{
        AuthorityError, Cause, Credentials, LoginCode, Password,
        oauth2::{AuthorizationCodeGrant, PasswordGrant, RefreshTokenGrant},
    },
    source_fn,
    store::{FileStore, MemoryStore, TokenStore},
    test_util::TestClock,
};

use crate::{
    idp::{Idp, json},
    oauth2::endpoint,
    over::Silent,
};

const NANOSECOND: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// What a refresh and then a login would be answered.
const LOGIN: &str = r#"{"access_token":"from-a-login","refresh_token":"second"}"#;
const REFRESH: &str = r#"{"access_token":"from-a-refresh"}"#;

fn login(idp: &Idp) -> impl TokenSource + use<> {
    Password::new(idp.clone(), "https://id.test/login".parse().unwrap(), || async {
        Ok(Credentials::new("alice", "wonderland"))
    })
}

fn source(idp: &Idp) -> impl TokenSource + use<> {
    RefreshTokenGrant::new(endpoint(idp)).or_else(login(idp))
}

fn session(idp: &Idp, clock: &TestClock, store: &MemoryStore) -> Session {
    Session::builder(source(idp)).clock(clock.clone()).store(store.clone()).build()
}

fn thirty_days() -> Token {
    Token::new("first-access").refresh_token("first").refresh_expires_in(30 * DAY)
}

/// The grants that the authority was asked for.
fn grants(idp: &Idp) -> Vec<&'static str> {
    let is_refresh = |body: &String| body.contains("grant_type=refresh_token");
    idp.bodies().iter().map(|body| if is_refresh(body) { "refresh" } else { "login" }).collect()
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_known_to_be_dead_costs_no_refresh_and_one_login() {
    let (clock, idp) = (TestClock::new(), Idp::new([json(200, LOGIN)]));
    let session = session(&idp, &clock, &MemoryStore::new());
    session.login(thirty_days()).await.unwrap();
    clock.advance(30 * DAY);
    assert_eq!(session.refresh().await.unwrap().access().expose(), "from-a-login");
    assert_eq!(grants(&idp), ["login"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_presented_up_to_its_last_moment() {
    let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH)]));
    let session = session(&idp, &clock, &MemoryStore::new());
    session.login(thirty_days()).await.unwrap();
    clock.advance(30 * DAY - Duration::from_nanos(1));
    assert_eq!(session.refresh().await.unwrap().access().expose(), "from-a-refresh");
    assert_eq!(grants(&idp), ["refresh"]);
}

#[tokio::test(start_paused = true)]
async fn another_process_knows_when_the_refresh_token_dies() {
    for (age, grant) in [(29 * DAY, "refresh"), (31 * DAY, "login")] {
        let (clock, store) = (TestClock::new(), MemoryStore::new());
        let idp = Idp::new([json(200, if grant == "login" { LOGIN } else { REFRESH })]);
        let token = thirty_days().expires_in(Duration::from_secs(7200));
        session(&idp, &clock, &store).login(token).await.unwrap();
        clock.advance(age);
        session(&idp, &clock, &store).refresh().await.unwrap();
        assert_eq!(grants(&idp), [grant]);
    }
}

/// An authority may prolong a refresh token with each use without saying so.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_refresh_token_that_was_used_is_what_the_last_answer_says() {
    for (answer, grant) in [
        (REFRESH.to_owned(), "refresh"),
        (r#"{"access_token":"b","refresh_token":"rotated"}"#.to_owned(), "refresh"),
        (format!(r#"{{"access_token":"b","refresh_expires_in":{}}}"#, 30 * 86_400), "refresh"),
        (r#"{"access_token":"b","refresh_expires_in":60}"#.to_owned(), "login"),
    ] {
        let (clock, idp) = (TestClock::new(), Idp::new([json(200, answer), json(200, LOGIN)]));
        let session = session(&idp, &clock, &MemoryStore::new());
        session.login(thirty_days()).await.unwrap();
        clock.advance(29 * DAY);
        session.refresh().await.unwrap();
        clock.advance(2 * DAY);
        session.refresh().await.unwrap();
        assert_eq!(grants(&idp), ["refresh", grant]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_access_token_leaves_the_refresh_token_its_end() {
    let (clock, idp) = (TestClock::new(), Idp::new([json(200, LOGIN)]));
    let session = session(&idp, &clock, &MemoryStore::new());
    session.login(thirty_days()).await.unwrap();
    session.replace(Token::new("from-elsewhere")).await.unwrap();
    clock.advance(31 * DAY);
    session.refresh().await.unwrap();
    assert_eq!(grants(&idp), ["login"]);
}

#[tokio::test(start_paused = true)]
async fn where_no_login_helps_a_dead_refresh_token_is_presented_once_for_the_authority_to_say_so() {
    let over = || json(400, r#"{"error":"invalid_grant"}"#);
    let (clock, idp) = (TestClock::new(), Idp::new([json(401, r#"{"error":"wrong password"}"#), over()]));
    let session = session(&idp, &clock, &MemoryStore::new());
    session.login(thirty_days()).await.unwrap();
    clock.advance(30 * DAY);
    for _ in 0..3 {
        assert!(session.refresh().await.unwrap_err().is_login_required());
        clock.advance(DAY);
    }
    assert_eq!(grants(&idp), ["login", "refresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_was_refused_is_not_asked_again_when_the_dead_refresh_token_is_presented() {
    let over = || json(400, r#"{"error":"invalid_grant"}"#);
    let wrong = || json(401, r#"{"error":"invalid_grant"}"#);
    // A final refusal speaks of the account: it is not the clock that has ended this session.
    let blocked = || json(403, r#"{"error":"access_denied"}"#);
    for (answers, asked) in
        [(vec![wrong(), over()], vec!["login", "refresh"]), (vec![blocked()], vec!["login"])]
    {
        for kind in ["password", "password grant", "code", "authorization code"] {
            let (clock, idp, prompts) =
                (TestClock::new(), Idp::new(answers.clone()), Arc::new(AtomicUsize::new(0)));
            let counted = prompts.clone();
            let password = move || {
                counted.fetch_add(1, Ordering::Relaxed);
                async { Ok(Credentials::new("alice", "wonderland")) }
            };
            let counted = prompts.clone();
            let code = move || {
                counted.fetch_add(1, Ordering::Relaxed);
                async { Ok(Secret::from("code")) }
            };
            let (refresh, url) =
                (RefreshTokenGrant::new(endpoint(&idp)), "https://id.test/login".parse().unwrap());
            let builder = match kind {
                "password" => Session::builder(refresh.or_else(Password::new(idp.clone(), url, password))),
                "password grant" => {
                    Session::builder(refresh.or_else(PasswordGrant::new(endpoint(&idp), password)))
                }
                "code" => Session::builder(refresh.or_else(LoginCode::new(idp.clone(), url, code))),
                _ => {
                    let url = "http://127.0.0.1:7/";
                    let grant = AuthorizationCodeGrant::new(endpoint(&idp), "code", url);
                    Session::builder(refresh.or_else(grant))
                }
            };
            let session = builder.clock(clock.clone()).build();
            session.login(thirty_days()).await.unwrap();
            clock.advance(30 * DAY);
            let error = session.refresh().await.unwrap_err();
            let refusal = error.source().and_then(|cause| cause.downcast_ref::<AuthorityError>());
            let is_of_the_login =
                refusal.is_some_and(|refusal| [401, 403].contains(&refusal.status().as_u16()));
            assert!(is_of_the_login, "{kind}: {error:?}");
            let prompted = usize::from(kind != "authorization code");
            assert_eq!((grants(&idp), prompts.load(Ordering::Relaxed)), (asked.clone(), prompted), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_of_ones_own_knows_that_it_was_asked_when_the_dead_refresh_token_is_presented() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#)]);
    let (clock, prompts) = (TestClock::new(), Arc::new(AtomicUsize::new(0)));
    let counted = prompts.clone();
    let login = source_fn(move |cx: FetchContext| {
        counted.fetch_add(usize::from(!cx.has_asked()), Ordering::Relaxed);
        async { Err(FetchError::login_required("the user has closed the browser")) }
    });
    let session =
        Session::builder(RefreshTokenGrant::new(endpoint(&idp)).or_else(login)).clock(clock.clone()).build();
    session.login(thirty_days()).await.unwrap();
    clock.advance(30 * DAY);
    assert!(session.refresh().await.unwrap_err().is_login_required());
    assert_eq!((grants(&idp), prompts.load(Ordering::Relaxed)), (vec!["refresh"], 1));
}

/// The login was refused before, which does not speak of the refresh token.
#[tokio::test(start_paused = true)]
async fn an_authority_that_is_away_when_the_dead_refresh_token_is_presented_ends_no_session() {
    for status in [429, 500, 503] {
        let answers = [json(401, r#"{"error":"wrong password"}"#), json(status, "{}"), json(200, REFRESH)];
        let (clock, idp) = (TestClock::new(), Idp::new(answers));
        let session = session(&idp, &clock, &MemoryStore::new());
        session.login(thirty_days()).await.unwrap();
        clock.advance(30 * DAY);
        let error = session.refresh().await.unwrap_err();
        assert!(error.is_transient(), "{status}: {error:?}");
        clock.advance(DAY);
        assert_eq!(session.refresh().await.unwrap().access().expose(), "from-a-refresh");
        assert_eq!(grants(&idp), ["login", "refresh", "refresh"]);
    }
}

/// A wall clock that was wrong has kept it back, and the login was refused for good.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_not_presented_is_not_taken_for_refused() {
    let answers = [json(403, r#"{"error":"mfa_required"}"#), json(200, REFRESH)];
    let (clock, idp) = (TestClock::new(), Idp::new(answers));
    let session = session(&idp, &clock, &MemoryStore::new());
    session.login(thirty_days()).await.unwrap();
    clock.suspend(31 * DAY);
    assert!(session.refresh().await.unwrap_err().is_login_required());
    clock.set_wall_back(31 * DAY);
    session.credentials_changed();
    assert_eq!(session.refresh().await.unwrap().access().expose(), "from-a-refresh");
    assert_eq!(grants(&idp), ["login", "refresh"]);
}

/// A token that lives for so long, with a refresh token that does.
fn dying_after(life: Option<Duration>, refresh: Option<Duration>) -> Token {
    Token::new("first-access").expires_in(life).refresh_token("first").refresh_expires_in(refresh)
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_dies_before_its_access_token_is_used_in_time() {
    let hour = Some(60 * MINUTE);
    let usual = 59 * MINUTE;
    for (life, refresh, due) in [
        (hour, Some(30 * MINUTE), 15 * MINUTE),
        (None, Some(30 * MINUTE), 15 * MINUTE),
        (None, Some(60 * DAY), 30 * DAY),
        // Just before the access token: it is as near to its end, then, as that would be.
        (hour, Some(60 * MINUTE - 10 * SECOND), usual - 10 * SECOND),
        (hour, Some(59 * MINUTE), 59 * MINUTE / 2),
        // It outlives the access token, or nobody knows, or it is too late for it.
        (hour, Some(60 * MINUTE), usual),
        (hour, Some(90 * DAY), usual),
        (hour, None, usual),
        (hour, Some(MINUTE - SECOND), usual),
        (hour, Some(Duration::ZERO), usual),
    ] {
        let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH), json(200, LOGIN)]));
        let builder = Session::builder(source(&idp)).clock(clock.clone());
        let session = builder.renewal_jitter(Duration::ZERO).build();
        session.login(dying_after(life, refresh)).await.unwrap();
        let mut asked = Vec::new();
        for wait in [due - NANOSECOND, NANOSECOND] {
            clock.advance(wait);
            assert_eq!(session.token().await.unwrap().access().expose(), "first-access");
            session.settle().await.unwrap();
            asked.push(idp.asked().len());
        }
        assert_eq!(asked, [0, 1], "{life:?} {refresh:?}");
    }
}

/// A command that is called every hour for a month, and asks for one token.
#[tokio::test(start_paused = true)]
async fn half_of_a_refresh_tokens_life_counts_from_when_it_came_however_short_each_process_lives() {
    async fn refreshed_in(
        life: Option<Duration>,
        store: impl TokenStore + Clone,
        mode: RenewalMode,
        is_to_last: bool,
    ) -> usize {
        let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH)]));
        let process = || {
            let builder = Session::builder(source(&idp)).clock(clock.clone()).store(store.clone());
            builder.renewal(mode).renewal_jitter(Duration::ZERO).build()
        };
        process().login(dying_after(life, Some(30 * DAY))).await.unwrap();
        let mut hours = 0;
        while idp.asked().is_empty() && hours < 30 * 24 {
            clock.advance(60 * MINUTE);
            hours += 1;
            let session = process();
            let token = if is_to_last {
                session.token_valid_for(60 * MINUTE).await.unwrap()
            } else {
                session.token().await.unwrap()
            };
            let waits = mode == RenewalMode::Inline && !is_to_last && hours == 15 * 24;
            assert_eq!(token.access().expose(), if waits { "from-a-refresh" } else { "first-access" });
            session.settle().await.unwrap();
        }
        hours
    }

    let directory = tempfile::tempdir().unwrap();
    for mode in [RenewalMode::Background, RenewalMode::Inline] {
        for life in [None, Some(60 * DAY)] {
            for is_to_last in [false, true] {
                let how = format!("{mode:?} {life:?} {is_to_last}");
                let file = FileStore::new(directory.path().join(&how));
                assert_eq!(refreshed_in(life, file, mode, is_to_last).await, 15 * 24, "{how}");
                let memory = MemoryStore::new();
                assert_eq!(refreshed_in(life, memory, mode, is_to_last).await, 15 * 24, "{how}");
            }
        }
    }
}

/// It has come ten days before, and lives for thirty.
#[tokio::test(start_paused = true)]
async fn half_of_a_refresh_tokens_life_counts_from_when_it_came_whoever_takes_it_over() {
    for by in ["another session", "a replacement", "a replacement that says its end again"] {
        let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH)]));
        let first = session(&idp, &clock, &MemoryStore::new());
        first.login(thirty_days()).await.unwrap();
        clock.advance(10 * DAY);
        let token = first.token().await.unwrap();
        let session = if by == "another session" {
            let another = session(&idp, &clock, &MemoryStore::new());
            another.login(token).await.unwrap();
            another
        } else {
            let end = token.refresh_expiry().filter(|_| by != "a replacement");
            first.replace(Token::new("another").refresh_expires_at(end)).await.unwrap();
            first
        };
        for (wait, refreshes) in [(5 * DAY - SECOND, 0), (SECOND, 1)] {
            clock.advance(wait);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(idp.asked().len(), refreshes, "{by}");
        }
    }
}

/// The authority of the session that it is from is away.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_session_counts_as_having_come_when_it_was_fetched() {
    let (clock, idp) = (TestClock::new(), Idp::new([json(503, "")]));
    let first = session(&idp, &clock, &MemoryStore::new());
    first.login(dying_after(Some(60 * DAY), Some(30 * DAY))).await.unwrap();
    clock.advance(20 * DAY);
    let (fetches, token) = (Arc::new(AtomicUsize::new(0)), first.token().await.unwrap());
    let counted = fetches.clone();
    let copying = source_fn(move |cx: FetchContext| {
        let _looked_at = cx.refresh_token();
        counted.fetch_add(1, Ordering::Relaxed);
        let token = token.clone();
        async { Ok(token) }
    });
    let second = Session::builder(copying).clock(clock.clone()).build();
    for _ in 0..3 {
        second.token().await.unwrap();
        second.settle().await.unwrap();
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

/// Until somebody says when it dies.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_whose_end_was_unknown_has_no_beginning() {
    let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH)]));
    let first = session(&idp, &clock, &MemoryStore::new());
    first.login(dying_after(None, None)).await.unwrap();
    clock.advance(40 * DAY);
    let second = session(&idp, &clock, &MemoryStore::new());
    second.login(first.token().await.unwrap().refresh_expires_in(30 * DAY)).await.unwrap();
    for (wait, refreshes) in [(15 * DAY - SECOND, 0), (SECOND, 1)] {
        clock.advance(wait);
        second.token().await.unwrap();
        second.settle().await.unwrap();
        assert_eq!(idp.asked().len(), refreshes);
    }
}

/// The first refresh of a process finds a token that is due. This hub makes a new one only if that is forced.
#[tokio::test(start_paused = true)]
async fn who_forces_a_new_token_gets_none_that_was_only_renewed() {
    let (clock, store) = (TestClock::new(), MemoryStore::new());
    let process = || {
        let hub = source_fn(|cx: FetchContext| async move {
            let token = if cx.cause() == Cause::Forced { "new" } else { "first-access" };
            let presented = cx.refresh_token().cloned();
            Ok(Token::new(token).refresh_token(presented).refresh_expires_in(30 * DAY))
        });
        Session::builder(hub).clock(clock.clone()).store(store.clone()).build()
    };
    process().login(thirty_days()).await.unwrap();
    clock.advance(16 * DAY);
    assert_eq!(process().refresh().await.unwrap().access().expose(), "new");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_token_that_lives_for_long_renews_what_is_due() {
    for mode in [RenewalMode::Background, RenewalMode::Inline] {
        let (clock, idp) = (TestClock::new(), Idp::new([json(200, REFRESH)]));
        let session = Session::builder(source(&idp)).clock(clock.clone()).renewal(mode).build();
        session.login(dying_after(None, Some(30 * DAY))).await.unwrap();
        for expected in [0, 1] {
            session.token_valid_for(60 * MINUTE).await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(idp.asked().len(), expected, "{mode:?}");
            clock.advance(15 * DAY);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_has_died_hurries_nobody() {
    for mode in [RenewalMode::Background, RenewalMode::Inline] {
        for (life, usual) in [(Some(60 * MINUTE), Some(59 * MINUTE)), (None, None)] {
            let (clock, idp) = (TestClock::new(), Idp::new([json(200, LOGIN)]));
            let builder = Session::builder(source(&idp)).clock(clock.clone()).renewal(mode);
            let session = builder.renewal_jitter(Duration::ZERO).build();
            session.login(dying_after(life, Some(30 * MINUTE))).await.unwrap();
            clock.advance(30 * MINUTE + SECOND);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(grants(&idp), [""; 0], "{mode:?} {life:?}");
            clock.advance(usual.unwrap_or(DAY) - 30 * MINUTE - SECOND);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(grants(&idp).len(), usize::from(usual.is_some()), "{mode:?} {life:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_brings_no_refresh_token_keeps_none_of_before() {
    let (second, third) = (r#"{"access_token":"second"}"#, r#"{"access_token":"third"}"#);
    for is_chain in [true, false] {
        let refused = is_chain.then(|| json(400, r#"{"error":"invalid_grant"}"#));
        let (idp, store) =
            (Idp::new(refused.into_iter().chain([json(200, second), json(200, third)])), MemoryStore::new());
        let builder = if is_chain { Session::builder(source(&idp)) } else { Session::builder(login(&idp)) };
        let session = builder.store(store.clone()).build();
        session.login(Token::new("first").refresh_token("of-the-first")).await.unwrap();
        for access in ["second", "third"] {
            session.refresh().await.unwrap();
            let stored = store.load().await.unwrap().unwrap().token.unwrap();
            assert_eq!((stored.access.expose(), stored.refresh.is_some()), (access, false));
        }
        assert_eq!(grants(&idp), ["refresh", "login", "login"][usize::from(!is_chain)..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_refused_hurries_nobody() {
    for mode in [RenewalMode::Background, RenewalMode::Inline] {
        for (life, has_usual) in [(Some(60 * MINUTE), true), (None, false)] {
            let (clock, store) = (TestClock::new(), Silent::default());
            let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#)]);
            let builder = Session::builder(RefreshTokenGrant::new(endpoint(&idp))).store(store.clone());
            let builder = builder.clock(clock.clone()).renewal(mode).renewal_jitter(Duration::ZERO);
            let session = builder.build();
            session.login(dying_after(life, Some(30 * MINUTE))).await.unwrap();
            clock.advance(15 * MINUTE);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(grants(&idp), ["refresh"], "{mode:?} {life:?}");
            // What was refused stays so whatever other credentials there are.
            session.credentials_changed();
            let looks = store.loads.load(Ordering::SeqCst);
            for _ in 0..10 {
                clock.advance(6 * SECOND);
                session.token().await.unwrap();
                session.settle().await.unwrap();
            }
            assert_eq!(store.loads.load(Ordering::SeqCst), looks, "{mode:?} {life:?}");
            // When it is due as it usually is, somebody may have logged in elsewhere.
            clock.advance(43 * MINUTE);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            assert_eq!(store.loads.load(Ordering::SeqCst) > looks, has_usual, "{mode:?} {life:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_refused_hurries_nobody_beside_another_access_token_either() {
    for mode in [RenewalMode::Background, RenewalMode::Inline] {
        for is_siblings in [false, true] {
            let (clock, store, required) =
                (TestClock::new(), Silent::default(), Arc::new(AtomicUsize::new(0)));
            let counted = required.clone();
            let observer = move |event: &Event<'_>| {
                let is_one = matches!(event, Event::LoginRequired { .. });
                counted.fetch_add(usize::from(is_one), Ordering::SeqCst);
            };
            let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#)]);
            let builder = Session::builder(RefreshTokenGrant::new(endpoint(&idp))).store(store.clone());
            let session = builder.clock(clock.clone()).renewal(mode).observer(observer).build();
            session.login(dying_after(None, Some(30 * MINUTE))).await.unwrap();
            clock.advance(15 * MINUTE);
            session.token().await.unwrap();
            session.settle().await.unwrap();
            if is_siblings {
                let mut record = store.load().await.unwrap().unwrap();
                record.revision += 1;
                record.token.as_mut().unwrap().access = "elsewhere".into();
                store.save(&record, None).await.unwrap();
                clock.advance(6 * SECOND);
                session.refresh().await.unwrap();
            } else {
                session.replace(Token::new("elsewhere")).await.unwrap();
            }
            let looks = store.loads.load(Ordering::SeqCst);
            for _ in 0..10 {
                clock.advance(MINUTE);
                assert_eq!(session.token().await.unwrap().access().expose(), "elsewhere");
                session.settle().await.unwrap();
            }
            assert_eq!(store.loads.load(Ordering::SeqCst), looks, "{mode:?} {is_siblings}");
            assert_eq!((grants(&idp), required.load(Ordering::SeqCst)), (vec!["refresh"], 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_lives_on_after_a_login_was_required_is_used_in_time() {
    for life in [Some(60 * MINUTE), None] {
        let (clock, presented) = (TestClock::new(), Arc::new(AtomicUsize::new(0)));
        let (has_client, counted) = (Arc::new(AtomicBool::new(false)), presented.clone());
        let knows = has_client.clone();
        let source = source_fn(move |context: FetchContext| {
            let (knows, counted) = (knows.load(Ordering::SeqCst), counted.clone());
            async move {
                if !knows {
                    return Err(FetchError::login_required("no client secret is configured"));
                }
                counted.fetch_add(context.refresh_token().map_or(0, |_| 1), Ordering::SeqCst);
                Ok(Token::new("second"))
            }
        });
        let session = Session::builder(source).clock(clock.clone()).renewal_jitter(Duration::ZERO).build();
        session.login(dying_after(life, Some(30 * MINUTE))).await.unwrap();
        clock.advance(15 * MINUTE);
        session.token().await.unwrap();
        session.settle().await.unwrap();
        // While it is dead nothing is due.
        session.token().await.unwrap();
        has_client.store(true, Ordering::SeqCst);
        session.credentials_changed();
        // For so long it is remembered that nothing is due.
        clock.advance(SECOND);
        session.token().await.unwrap();
        session.settle().await.unwrap();
        assert_eq!(presented.load(Ordering::SeqCst), 1, "{life:?}: half of what was left of it has gone by");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_kept_fresh_outlives_refresh_tokens_that_die_before_their_access_tokens() {
    let answer = r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"refresh_expires_in":1800}"#;
    let idp = Idp::new((0..8).map(|_| json(200, answer)));
    let session = Session::builder(RefreshTokenGrant::new(endpoint(&idp))).build();
    session.login(dying_after(Some(60 * MINUTE), Some(30 * MINUTE))).await.unwrap();
    let keeper = tokio::spawn(session.keep_fresh());
    tokio::time::sleep(121 * MINUTE).await;
    assert_eq!(grants(&idp), ["refresh"; 8]);
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_the_source_does_not_look_at_hurries_nobody() {
    let answer = r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"refresh_expires_in":1800}"#;
    let idp = Idp::new((0..12).map(|_| json(200, answer)));
    let login = Password::new(idp.clone(), "https://id.test/login".parse().unwrap(), || async {
        Ok(Credentials::new("alice", "wonderland"))
    });
    let login = Arc::new(login);
    let store = MemoryStore::new();
    let siblings = [(); 2].map(|()| Session::builder(login.clone()).store(store.clone()).build());
    siblings[0].token().await.unwrap();
    let keepers = siblings.each_ref().map(|session| tokio::spawn(session.keep_fresh()));
    tokio::time::sleep(121 * MINUTE).await;
    assert_eq!(grants(&idp), ["login"; 3]);
    keepers.iter().for_each(JoinHandle::abort);
}

/// The time of day of a machine that has just been switched on comes from the network, later than the login.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_wrong_for_a_moment_or_set_right_ends_no_session() {
    for restarts in [false, true] {
        let (clock, idp, store) = (TestClock::new(), Idp::new([json(200, REFRESH)]), MemoryStore::new());
        let build = || {
            let source = RefreshTokenGrant::new(endpoint(&idp));
            Session::builder(source).clock(clock.clone()).store(store.clone()).build()
        };
        let mut session = build();
        session.login(thirty_days().expires_in(DAY)).await.unwrap();
        clock.suspend(2000 * DAY);
        if restarts {
            session = build();
        }
        assert_eq!(session.refresh().await.unwrap().access().expose(), "from-a-refresh");
        assert_eq!(grants(&idp), ["refresh"]);
    }
}
