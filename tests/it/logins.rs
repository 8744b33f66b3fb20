//! Logins with passwords and codes, in JSON.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    ErrorKind, FetchError, Secret, Session, Token, TokenRefreshLayer, TokenSource,
    source::{
        AuthorityClient, AuthorityError, Credentials, FailedCall, JsonAnswer, LoginCode, Password,
        Verification,
        login::JsonVerify,
        oauth2::{PasswordGrant, RefreshTokenGrant, TokenEndpoint},
    },
    test_util::{Endpoint, Failure, Gate, ModelApi, ModelAuthority, TestClock},
};

use crate::{
    identity::orphans_end,
    idp::{Bench, Idp, Say, cool_down, json},
    world::{get, origin},
};

const TOKEN: &str = "https://api.test/token";
const LOGIN: &str = "https://id.test/login";
const SECOND: Duration = Duration::from_secs(1);

/// `code-1`, `code-2` … and how many there were.
fn codes() -> (impl Fn() -> std::future::Ready<Result<Secret, FetchError>> + Send + Sync, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let provide = move || {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        std::future::ready(Ok(Secret::from(format!("code-{number}"))))
    };
    (provide, given)
}

fn mini_program(idp: &Idp) -> LoginCode {
    LoginCode::mini_program(idp.clone(), TOKEN.parse().unwrap(), codes().0).unwrap()
}

/// Alice, with whatever password stands there at the moment.
fn alice(
    password: &Arc<Mutex<&'static str>>,
) -> impl Fn() -> std::future::Ready<Result<Credentials, FetchError>> + use<> {
    let password = password.clone();
    move || std::future::ready(Ok(Credentials::new("alice", *password.lock().unwrap())))
}

#[tokio::test(start_paused = true)]
async fn a_mini_program_sends_exactly_what_its_server_expects() {
    let idp = Idp::new([json(200, r#"{"token":"T"}"#)]);
    let token = Bench::new(mini_program(&idp)).session.token().await.unwrap();
    assert_eq!(token.access().expose(), "T");
    let asked = idp.asked().remove(0);
    assert_eq!(asked.body, r#"{"account":"code-1","type":100}"#);
    assert_eq!((asked.head.method.as_str(), asked.head.uri.to_string().as_str()), ("POST", TOKEN));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("accept"), Some("application/json"));
    assert_eq!(asked.head.headers.len(), 3, "no credential in the head");
}

#[tokio::test(start_paused = true)]
async fn the_server_of_a_mini_program_says_by_its_error_code_why_there_is_no_token() {
    let refusals = [json(400, r#"{"error_code":40029}"#), json(200, r#"{"token":"T","error_code":40029}"#)];
    let idp = Idp::new(refusals.into_iter().chain([json(200, r#"{"token":"T","error_code":0}"#)]));
    let bench = Bench::new(mini_program(&idp));
    for _ in 0..2 {
        let error = bench.session.token().await.unwrap_err();
        assert_eq!(AuthorityError::find(&error).unwrap().code(), Some("40029"));
        cool_down().await;
    }
    bench.session.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_login_sends_can_be_named_otherwise_and_each_name_stands_once() {
    let idp = Idp::new(["token", "access_token"].map(|name| json(200, format!(r#"{{"{name}":"T"}}"#))));
    let source = mini_program(&idp).field("js_code").text("app", "a").number("type", 101).text("app", "b");
    Bench::new(source).session.token().await.unwrap();
    let source = Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::new(Mutex::new("secret"))));
    let source = source.number("device", 1).text("account", "bob").text("device", "phone");
    Bench::new(source).session.token().await.unwrap();
    assert_eq!(
        idp.bodies(),
        [
            r#"{"js_code":"code-1","type":101,"app":"b"}"#,
            r#"{"account":"alice","password":"secret","device":"phone"}"#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_that_only_the_user_knows_is_that_of_answers_without_one() {
    let says =
        [r#"{"token":"one"}"#, r#"{"token":"two","expires_in":60}"#, r#"{"token":"three","expires_in":0}"#];
    let idp = Idp::new(says.map(|say| json(200, say)));
    let two_hours = 7200 * SECOND;
    let answer = JsonAnswer::new().access_token("/token").unwrap().default_lifetime(two_hours);
    let bench = Bench::new(mini_program(&idp).answer(answer));
    assert_eq!(bench.session.token().await.unwrap().lifetime(), Some(two_hours));
    tokio::time::advance(7199 * SECOND).await;
    assert_eq!(bench.session.token().await.unwrap().access().expose(), "one");
    tokio::time::advance(SECOND).await;
    let two = bench.session.token().await.unwrap();
    assert_eq!((two.access().expose(), two.lifetime()), ("two", Some(60 * SECOND)));
    assert_eq!(bench.session.refresh().await.unwrap().lifetime(), Some(two_hours));

    let unknown = JsonAnswer::new().access_token("/token").unwrap().default_lifetime(Duration::ZERO);
    let bench = Bench::new(mini_program(&Idp::new([json(200, says[0])])).answer(unknown));
    assert_eq!(bench.session.token().await.unwrap().lifetime(), None);
}

#[tokio::test(start_paused = true)]
async fn a_mini_program_logs_in_with_the_model_authority() {
    let authority = ModelAuthority::new();
    let codes = authority.clone();
    let provide = move || std::future::ready(Ok(Secret::from(codes.issue_code())));
    let source = LoginCode::mini_program(authority.clone(), TOKEN.parse().unwrap(), provide).unwrap();
    let bench = Bench::new(source);
    authority.fail_next(Endpoint::Exchange, Failure::LostAnswer);
    assert_eq!(bench.class().await, "Transient");
    tokio::time::advance(2 * SECOND).await;
    let token = bench.session.token().await.unwrap();
    assert!(authority.is_alive(token.access().expose()), "a new code was taken for the second attempt");
    assert_eq!(authority.counts().exchanges, 2);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_takes_a_code_of_its_own() {
    let says = [Say::Unreachable, Say::Reset, json(503, ""), json(200, "{}"), json(200, r#"{"token":"T"}"#)];
    let idp = Idp::new(says);
    let bench = Bench::new(mini_program(&idp));
    for _ in 0..4 {
        bench.session.refresh().await.unwrap_err();
        cool_down().await;
    }
    bench.session.refresh().await.unwrap();
    let codes: Vec<_> = idp.bodies();
    let expected = [2, 3, 4, 5].map(|number| format!(r#"{{"account":"code-{number}","type":100}}"#));
    assert_eq!(codes, expected, "the first one was never sent, and is not used all the same");
}

#[tokio::test(start_paused = true)]
async fn an_empty_code_is_not_sent_and_ends_no_session() {
    let idp = Idp::new([json(200, r#"{"token":"T"}"#)]);
    let codes = Arc::new(Mutex::new(vec!["code", ""]));
    let next = move || std::future::ready(Ok(Secret::from(codes.lock().unwrap().pop().unwrap())));
    let bench = Bench::new(LoginCode::mini_program(idp.clone(), TOKEN.parse().unwrap(), next).unwrap());
    let error = bench.session.refresh().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(idp.asked().is_empty());
    cool_down().await;
    bench.session.refresh().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_is_verified_by_its_own_request() {
    let idp = Idp::new([json(200, r#"{"isValid":true}"#)]);
    let said = mini_program(&idp).verify(&Token::new("a \"stored\" token")).await;
    assert_eq!(said, Verification::Valid);
    let asked = idp.asked().remove(0);
    assert_eq!(
        (asked.head.method.as_str(), asked.header("content-type")),
        ("POST", Some("application/json"))
    );
    assert_eq!(asked.head.uri.to_string(), "https://api.test/token/verify");
    assert_eq!(asked.body, r#"{"token":"a \"stored\" token"}"#);
    assert_eq!(asked.head.headers.len(), 3, "no credential in the head");
}

#[tokio::test(start_paused = true)]
async fn only_a_clear_no_makes_a_stored_token_invalid() {
    for (say, said) in [
        (json(200, r#"{"isValid":true}"#), Verification::Valid),
        (json(200, r#"{"isValid":false}"#), Verification::Invalid),
        (json(200, r#"{"isValid":"false"}"#), Verification::Unknown),
        (json(200, r#"{"isValid":0}"#), Verification::Unknown),
        (json(200, r#"{"isValid":null}"#), Verification::Unknown),
        (json(200, r#"{"isValid":false,"isValid":false}"#), Verification::Unknown),
        (json(200, "{}"), Verification::Unknown),
        (json(200, ""), Verification::Unknown),
        (Say::Answer(200, "text/html", "<html>".into()), Verification::Unknown),
        (json(302, r#"{"isValid":false}"#), Verification::Unknown),
        (json(401, r#"{"isValid":false}"#), Verification::Unknown),
        (json(500, r#"{"isValid":false}"#), Verification::Unknown),
        (Say::Truncated, Verification::Unknown),
        (Say::Reset, Verification::Unknown),
        (Say::Unreachable, Verification::Unknown),
        (Say::NotReady, Verification::Unknown),
        (Say::Hang, Verification::Unknown),
    ] {
        let idp = Idp::new([say.clone()]);
        assert_eq!(mini_program(&idp).verify(&Token::new("T")).await, said, "{say:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_question_and_its_answer_are_configurable_and_a_chain_asks_whoever_knows() {
    let idp = Idp::new([json(200, r#"{"data":{"ok":false}}"#)]);
    let verify =
        JsonVerify::new("https://id.test/check".parse().unwrap()).field("t").valid("/data/ok").unwrap();
    let silent = Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default()));
    let speaking =
        Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default())).verify_with(verify);
    assert_eq!(silent.or_else(speaking).verify(&Token::new("T")).await, Verification::Invalid);
    assert_eq!(idp.bodies(), [r#"{"t":"T"}"#]);
}

#[tokio::test(start_paused = true)]
async fn the_password_is_read_at_each_login_and_kept_nowhere() {
    let answer = r#"{"access_token":"A","refresh_token":"R","expires_in":7200}"#;
    let idp = Idp::new([json(200, answer), json(200, answer)]);
    let password = Arc::new(Mutex::new("canary-1"));
    let bench = Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&password)));
    bench.session.refresh().await.unwrap();
    *password.lock().unwrap() = "canary-2";
    bench.session.refresh().await.unwrap();
    assert_eq!(
        idp.bodies(),
        [r#"{"account":"alice","password":"canary-1"}"#, r#"{"account":"alice","password":"canary-2"}"#]
    );
    assert_eq!(bench.stored().await, Some(("A".into(), Some("R".into()))));
}

#[tokio::test(start_paused = true)]
async fn the_shape_of_a_login_is_configurable() {
    let idp = Idp::new([
        json(200, r#"{"errcode":0,"data":[{"token":"A"}]}"#),
        json(200, r#"{"errcode":-1}"#),
        json(200, r#"{"errcode":"40013","data":[{"token":"B"}]}"#),
    ]);
    let answer = JsonAnswer::new()
        .access_token("/data/0/token")
        .and_then(|answer| answer.business_code("/errcode"))
        .unwrap()
        .transient_codes([-1]);
    let source = Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::new(Mutex::new("p\"w"))))
        .fields("user", "pwd")
        .text("device", "h5")
        .number("type", -1)
        .answer(answer);
    let bench = Bench::new(source);
    bench.session.refresh().await.unwrap();
    assert_eq!(idp.bodies(), [r#"{"user":"alice","pwd":"p\"w","device":"h5","type":-1}"#]);
    assert_eq!(bench.class().await, "Transient");
    cool_down().await;
    assert_eq!(bench.class().await, "LoginRequired");
    assert_eq!(bench.stored().await.unwrap().0, "A");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_once_however_many_requests_come() {
    let authority = ModelAuthority::new();
    let password = Arc::new(Mutex::new("underland"));
    let source = Password::new(authority.clone(), LOGIN.parse().unwrap(), alice(&password));
    let session = Session::builder(source).build();
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(ModelApi::new(authority.clone()));
    for _ in 0..10 {
        let error = client.clone().oneshot(get("/me")).await.unwrap_err();
        assert!(tower_token_refresh::Error::find(&*error).unwrap().is_login_required());
        cool_down().await;
    }
    assert_eq!(authority.counts().logins, 1);

    // Somebody logs in by hand; the wrong password is not shown again when that token has died.
    session.login(Token::new("by-hand")).await.unwrap();
    client.clone().oneshot(get("/me")).await.unwrap();
    assert_eq!(authority.counts().logins, 1);

    // Others are.
    *password.lock().unwrap() = "wonderland";
    session.login(Token::new("by-hand")).await.unwrap();
    assert!(client.oneshot(get("/me")).await.unwrap().status().is_success());
    assert_eq!(authority.counts().logins, 2);
}

#[tokio::test(start_paused = true)]
async fn several_wrong_passwords_are_all_remembered() {
    let idp = Idp::new((0..3).map(|_| json(401, "")));
    let password = Arc::new(Mutex::new(""));
    let bench = Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&password)));
    for tried in ["a", "b", "a", "c", "b", "c", "a"] {
        *password.lock().unwrap() = tried;
        bench.session.login(Token::new("by-hand")).await.unwrap();
        assert!(bench.session.refresh().await.unwrap_err().is_login_required());
    }
    assert_eq!(idp.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_sixteen_wrong_passwords_are_remembered_and_no_more() {
    let idp = Idp::new((0..18).map(|_| json(401, "")));
    let password = Arc::new(AtomicUsize::new(0));
    let given = password.clone();
    let credentials =
        move || std::future::ready(Ok(Credentials::new("alice", given.load(Ordering::Relaxed).to_string())));
    let bench = Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), credentials));
    // The seventeenth takes the place of the first, which is presented once more.
    for (tried, asked) in (0..16).zip(1..).chain([(0, 16), (16, 17), (1, 17), (0, 18)]) {
        password.store(tried, Ordering::Relaxed);
        bench.session.login(Token::new("by-hand")).await.unwrap();
        assert!(bench.session.refresh().await.unwrap_err().is_login_required());
        assert_eq!(idp.asked().len(), asked, "{tried}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_shown_again_after_a_refusal_that_speaks_of_the_account() {
    let idp = Idp::new([json(403, r#"{"error":"access_denied"}"#), json(200, r#"{"access_token":"A"}"#)]);
    let bench = Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default())));
    assert!(bench.session.refresh().await.unwrap_err().is_login_required());
    bench.session.login(Token::new("by-hand")).await.unwrap();
    bench.session.refresh().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_password_that_was_refused_is_shown_again_when_somebody_says_that_the_credentials_have_changed() {
    let page = Say::Answer(404, "text/html", "default backend".into());
    for grant in [false, true] {
        let idp = Idp::new([page.clone(), page.clone(), json(200, r#"{"access_token":"A"}"#)]);
        let credentials = alice(&Arc::new(Mutex::new("right")));
        let bench = if grant {
            let endpoint = TokenEndpoint::new(idp.clone(), "https://id.test/token".parse().unwrap());
            Bench::new(PasswordGrant::new(endpoint, credentials))
        } else {
            Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), credentials))
        };
        for times in 1..=2 {
            // Once each time: nothing else makes it be shown again.
            for _ in 0..3 {
                assert!(bench.session.refresh().await.unwrap_err().is_login_required());
                cool_down().await;
            }
            assert_eq!(idp.asked().len(), times);
            bench.session.credentials_changed();
        }
        bench.session.refresh().await.unwrap();
    }
}

/// While an attempt waits at the gate, somebody says that the credentials have changed, and logs in by hand.
async fn changes_during_an_attempt(session: &Session, gate: &Gate) {
    tokio::spawn({
        let session = session.clone();
        async move { session.refresh().await }
    });
    gate.waiting(1).await;
    session.credentials_changed();
    session.login(Token::new("by-hand")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_before_the_credentials_have_changed_that_comes_late_does_not_count_after_it() {
    for grant in [false, true] {
        let token = || json(200, r#"{"access_token":"A"}"#);
        let (idp, gate) = (Idp::new([token(), json(401, ""), token()]), Gate::new());
        let client = tower::service_fn({
            let (idp, gate, first) = (idp.clone(), gate.clone(), Arc::new(AtomicBool::new(true)));
            move |request| {
                let (idp, gate, is_first) = (idp.clone(), gate.clone(), first.swap(false, Ordering::Relaxed));
                async move {
                    if is_first {
                        gate.pass().await;
                    }
                    idp.oneshot(request).await
                }
            }
        });
        let credentials = alice(&Arc::default());
        let bench = if grant {
            let endpoint = TokenEndpoint::new(client, "https://id.test/token".parse().unwrap());
            Bench::new(PasswordGrant::new(endpoint, credentials))
        } else {
            Bench::new(Password::new(client, LOGIN.parse().unwrap(), credentials))
        };
        changes_during_an_attempt(&bench.session, &gate).await;
        bench.session.refresh().await.unwrap();
        gate.open();
        orphans_end().await;
        bench.session.refresh().await.unwrap();
        assert_eq!(idp.asked().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_of_before_the_credentials_have_changed_does_not_forget_what_was_refused_after_it() {
    let (idp, gate) = (Idp::new([json(401, ""), json(401, "")]), Gate::new());
    let first = Arc::new(AtomicBool::new(true));
    let credentials = {
        let gate = gate.clone();
        move || {
            let (gate, is_first) = (gate.clone(), first.swap(false, Ordering::Relaxed));
            async move {
                if is_first {
                    gate.pass().await;
                }
                Ok(Credentials::new("alice", "wonderland"))
            }
        }
    };
    let bench = Bench::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), credentials));
    changes_during_an_attempt(&bench.session, &gate).await;
    assert!(bench.session.refresh().await.unwrap_err().is_login_required());
    gate.open();
    orphans_end().await;
    bench.session.login(Token::new("by-hand")).await.unwrap();
    assert!(bench.session.refresh().await.unwrap_err().is_login_required());
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_of_several_sessions_hears_from_each_that_the_credentials_have_changed() {
    let idp = Idp::new([json(401, ""), json(401, ""), json(200, r#"{"access_token":"A"}"#)]);
    let login =
        Arc::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::new(Mutex::new("right")))));
    let [first, second] = [&login, &login].map(|login| Session::builder(login.clone()).build());
    assert!(first.refresh().await.unwrap_err().is_login_required());
    first.credentials_changed();
    assert!(first.refresh().await.unwrap_err().is_login_required());
    assert!(second.refresh().await.unwrap_err().is_login_required());
    assert_eq!(idp.asked().len(), 2, "what the first was refused with is not shown by the second");
    second.credentials_changed();
    second.refresh().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_one_session_is_told_is_forgotten_for_all_by_its_next_fetch_and_wakes_no_other_that_is_dead() {
    let token = || json(200, r#"{"access_token":"A"}"#);
    let idp = Idp::new([json(401, ""), token(), token(), token()]);
    let login = Arc::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default())));
    let [told, dead, early, late] = [&login; 4].map(|login| Session::builder(login.clone()).build());
    assert!(told.refresh().await.unwrap_err().is_login_required());
    assert!(dead.refresh().await.unwrap_err().is_login_required());
    told.credentials_changed();
    assert!(early.refresh().await.unwrap_err().is_login_required());
    assert_eq!(idp.asked().len(), 1);
    told.refresh().await.unwrap();
    late.refresh().await.unwrap();
    cool_down().await;
    assert!(dead.refresh().await.unwrap_err().is_login_required());
    assert_eq!(idp.asked().len(), 3);
    dead.credentials_changed();
    dead.refresh().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_source_of_several_sessions_remembers_what_was_refused_whichever_of_them_knows_of_a_change() {
    let idp = Idp::new([json(200, r#"{"access_token":"A"}"#), json(401, "")]);
    let login = Arc::new(Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default())));
    let [first, second] = [&login, &login].map(|login| Session::builder(login.clone()).build());
    first.credentials_changed();
    first.refresh().await.unwrap();
    for _ in 0..3 {
        for session in [&second, &first] {
            assert!(session.refresh().await.unwrap_err().is_login_required());
            session.login(Token::new("by-hand")).await.unwrap();
        }
        cool_down().await;
    }
    assert_eq!(idp.asked().len(), 2);
}

/// What nobody knows to be a refusal: three strikes, and a try every 15 minutes then.
const SELDOM: &[u64] = &[0, 5, 10, 25, 40, 55];

/// In which minutes of an hour a password is presented to an authority that answers so: by a login of its own kind, and
/// by OAuth.
async fn minutes_of_an_hour(status: u16, body: &'static str) -> [Vec<u64>; 2] {
    let idps = [Idp::new(vec![json(status, body); 100]), Idp::new(vec![json(status, body); 100])];
    let endpoint = TokenEndpoint::new(idps[1].clone(), "https://id.test/token".parse().unwrap());
    let benches = [
        Bench::new(Password::new(idps[0].clone(), LOGIN.parse().unwrap(), alice(&Arc::default()))),
        Bench::new(PasswordGrant::new(endpoint, alice(&Arc::default()))),
    ];
    let mut minutes = [const { Vec::new() }; 2];
    for second in 0..3600 {
        for (at, bench) in benches.iter().enumerate() {
            let before = idps[at].asked().len();
            bench.session.token().await.unwrap_err();
            minutes[at].extend((idps[at].asked().len() > before).then_some(second / 60));
        }
        tokio::time::advance(SECOND).await;
    }
    minutes
}

#[tokio::test(start_paused = true)]
async fn a_password_that_is_refused_by_a_code_is_presented_as_often_as_that_code_says() {
    // As ServiceNow says that a password is wrong.
    let wrong = r#"{"error_description":"access_denied","error":"server_error"}"#;
    for (status, at_minutes) in [(401, &[0][..]), (403, &[0][..]), (400, SELDOM), (200, SELDOM)] {
        assert_eq!(minutes_of_an_hour(status, wrong).await, [at_minutes; 2], "{status}");
    }
    // At a grant these speak of the client or the request, which somebody may correct.
    for code in [
        r#"{"error":"invalid_client"}"#,
        r#"{"error":"unauthorized_client"}"#,
        r#"{"error":"invalid_request"}"#,
    ] {
        let [login, grant] = minutes_of_an_hour(400, code).await;
        assert_eq!(login, [0], "{code}");
        let later = grant.iter().filter(|minute| **minute >= 10).count();
        assert!((35..=70).contains(&later), "{later} times in fifty minutes: {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_that_a_500_answers_by_a_code_is_presented_every_five_minutes() {
    for (body, most) in [
        (r#"{"code":40001,"msg":"wrong password"}"#, 12),
        (r#"{"code":"A0210","msg":"wrong password"}"#, 120),
        (r#"{"code":500}"#, 120),
        (r#"{"code":" 502 "}"#, 120),
        (r#"{"code":0}"#, 120),
    ] {
        let idp = Idp::new(vec![json(500, body); 200]);
        let answer = JsonAnswer::new().business_code("/code").unwrap();
        let login = Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default())).answer(answer);
        let bench = Bench::new(login);
        for _ in 0..3600 {
            assert_eq!(bench.session.token().await.unwrap_err().kind(), ErrorKind::Transient);
            tokio::time::advance(SECOND).await;
        }
        let times = idp.asked().len();
        assert!((most / 2..=most).contains(&times), "{times} times in an hour: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_refused_at_status_200_is_not_presented_over_and_over() {
    for (status, body, at_minutes) in [
        (200, r#"{"error":"wrong_password"}"#, &[0][..]),
        (200, r#"{"error":"invalid_grant"}"#, &[0][..]),
        (200, r#"{"success":false,"message":"wrong password"}"#, SELDOM),
        (200, "<!doctype html><title>Wrong password</title>", SELDOM),
        (200, "", SELDOM),
        (302, "", SELDOM),
    ] {
        assert_eq!(minutes_of_an_hour(status, body).await, [at_minutes; 2], "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_that_may_have_been_refused_waits_for_five_minutes_or_for_another_one() {
    let page = || Idp::new(vec![Say::Answer(200, "text/html", "<title>Sign in</title>".into()); 3]);
    for asked_to_wait in [None, Some(7)] {
        let idp = page();
        let client = AuthorityClient::new(idp.clone()).classify_failures(move |_| {
            let wait = Duration::from_secs(asked_to_wait?);
            Some(FetchError::ambiguous("a page").retry_after(wait))
        });
        let bench = Bench::new(Password::new(client, LOGIN.parse().unwrap(), alice(&Arc::default())));
        let (_, error) = bench.failure().await;
        assert_eq!(error.retry_after(), Some(300 * SECOND), "whoever waits is told");
        tokio::time::advance(299 * SECOND).await;
        bench.session.token().await.unwrap_err();
        assert_eq!(idp.asked().len(), 1);
        tokio::time::advance(SECOND).await;
        bench.session.token().await.unwrap_err();
        assert_eq!(idp.asked().len(), 2);
        bench.session.credentials_changed();
        bench.session.token().await.unwrap_err();
        assert_eq!(idp.asked().len(), 3, "another one is shown at once");
    }
    // A code is another one each time.
    let idp = page();
    let bench = Bench::new(mini_program(&idp));
    for asked in 1..=2 {
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.retry_after(), idp.asked().len()), ("Ambiguous", None, asked));
        tokio::time::advance(2 * SECOND).await;
    }
}

/// `{"code": 200, "data": …}`.
#[tokio::test(start_paused = true)]
async fn a_business_code_of_success_may_be_another_than_0() {
    for [good, dead, wrong] in
        [["200", "401", "500"], ["1", "0", "0"], ["00000", "A0230", "A0210"], ["true", "false", "false"]]
    {
        let quote = if good == "00000" { "\"" } else { "" };
        let say = |code, data| json(200, format!(r#"{{"code":{quote}{code}{quote},"data":{data}}}"#));
        let idp = Idp::new([
            say(good, r#"{"token":"T1","refresh":"R1"}"#),
            say(good, r#"{"token":"T2","refresh":"R2"}"#),
            say(dead, "null"),
            say(wrong, "null"),
        ]);
        let answer = JsonAnswer::new().access_token("/data/token").unwrap().refresh_token("/data/refresh");
        let answer = answer.unwrap().business_code("/code").unwrap().success_codes([good]);
        let endpoint = TokenEndpoint::new(idp.clone(), TOKEN.parse().unwrap());
        let refresh = RefreshTokenGrant::new(endpoint.answer(answer.clone()).dead_codes([dead]));
        let password = Password::new(idp.clone(), TOKEN.parse().unwrap(), || {
            std::future::ready(Ok(Credentials::new("alice", "wonderland")))
        });
        let session = Session::builder(refresh.or_else(password.answer(answer))).build();
        assert_eq!(session.token().await.unwrap().access().expose(), "T1", "{good}");
        assert_eq!(session.refresh().await.unwrap().access().expose(), "T2", "{good}");
        assert!(session.refresh().await.unwrap_err().is_login_required(), "{good}");
        assert_eq!(idp.asked().len(), 4, "{good}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_refused_uses_up_one_code_and_ends_no_session() {
    let answer = || {
        let answer = JsonAnswer::new().access_token("/token").unwrap();
        answer.business_code("/errcode").unwrap()
    };
    for (status, body) in [
        (403, "<!doctype html>"),
        (404, "default backend"),
        (400, ""),
        (401, ""),
        (400, r#"{"errcode":40029}"#),
        (200, r#"{"errcode":40029}"#),
        (200, r#"{"error":"code_used"}"#),
        (401, r#"{"error":"invalid_client"}"#),
    ] {
        let idp = Idp::new([json(status, body), json(200, r#"{"token":"T"}"#)]);
        let bench = Bench::new(mini_program(&idp).answer(answer()));
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.is_transient()), ("Ambiguous", true), "{status} {body}");
        cool_down().await;
        assert_eq!(bench.session.token().await.unwrap().access().expose(), "T", "{status} {body}");
        assert_eq!(idp.bodies()[1], r#"{"account":"code-2","type":100}"#);
    }
    // Unless there is no other code: then it takes a login.
    let idp = Idp::new([json(400, r#"{"errcode":40163}"#), json(200, r#"{"token":"T"}"#)]);
    let only_one = || std::future::ready(Ok(Secret::from("the-only-one")));
    let bench = Bench::new(LoginCode::new(idp.clone(), TOKEN.parse().unwrap(), only_one).answer(answer()));
    assert_eq!(bench.failure().await.0, "Ambiguous");
    cool_down().await;
    assert_eq!(bench.failure().await.0, "LoginRequired");
    assert_eq!(idp.asked().len(), 1, "it was used up");
    let only_one = |idp: &Idp| {
        let busy = |_: &FailedCall<'_>| Some(FetchError::transient("they are busy"));
        let client = AuthorityClient::new(idp.clone()).classify_failures(busy);
        Bench::new(LoginCode::new(client, TOKEN.parse().unwrap(), only_one).answer(answer()))
    };
    let page = |status| Say::Answer(status, "text/html", "a proxy's page".into());
    // Whatever may have reached the authority has used it up, whatever that is called.
    for say in [Say::Reset, Say::Truncated, json(500, ""), page(403)] {
        let idp = Idp::new([say.clone(), json(200, r#"{"token":"T"}"#)]);
        let bench = only_one(&idp);
        assert_eq!(bench.failure().await.0, "Transient", "{say:?}");
        cool_down().await;
        assert_eq!(bench.failure().await.0, "LoginRequired", "{say:?}");
        assert_eq!(idp.asked().len(), 1, "{say:?}");
    }
    for say in [Say::Unreachable, json(503, ""), json(429, ""), page(407)] {
        let idp = Idp::new([say.clone(), json(200, r#"{"token":"T"}"#)]);
        let bench = only_one(&idp);
        assert_eq!(bench.failure().await.0, "Transient", "{say:?}");
        cool_down().await;
        assert_eq!(bench.session.token().await.unwrap().access().expose(), "T", "{say:?}");
    }
    // What OAuth calls the end ends it, and so does what is said to.
    let gone = |failed: &FailedCall<'_>| {
        let code = failed.answer()?.code()?;
        (code == "40013").then(|| FetchError::login_required("the app is gone"))
    };
    for (status, body) in [
        (400, r#"{"error":"invalid_grant"}"#),
        (200, r#"{"error":"invalid_grant"}"#),
        (403, r#"{"error":"access_denied"}"#),
        (400, r#"{"error":"mfa_required"}"#),
        (400, r#"{"errcode":40013}"#),
    ] {
        let idp = Idp::new([json(status, body)]);
        let client = AuthorityClient::new(idp.clone()).classify_failures(gone);
        let source = LoginCode::mini_program(client, TOKEN.parse().unwrap(), codes().0).unwrap();
        let bench = Bench::new(source.answer(answer()));
        for _ in 0..2 {
            assert!(bench.session.refresh().await.unwrap_err().is_login_required(), "{status} {body}");
            cool_down().await;
        }
        assert_eq!(idp.asked().len(), 1, "{status} {body}");
    }
}

/// As a mini program does whose server refuses every code.
#[tokio::test(start_paused = true)]
async fn a_code_whose_exchange_was_given_up_is_used_up_whatever_changes_then() {
    let idp = Idp::new([Say::Hang]);
    let code = || std::future::ready(Ok(Secret::from("code")));
    let source = Arc::new(LoginCode::mini_program(idp.clone(), TOKEN.parse().unwrap(), code).unwrap());
    let bench = Bench::new(source.clone());
    let waiting = tokio::spawn({
        let session = bench.session.clone();
        async move { session.refresh().await }
    });
    while idp.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    bench.session.replace(Token::new("from-elsewhere").refresh_token("of-its-own")).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(bench.class().await, "LoginRequired");
    bench.session.credentials_changed();
    assert_eq!(bench.class().await, "LoginRequired");
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn exchanges_that_are_refused_again_and_again_become_rare() {
    let idp = Idp::new(vec![Say::Answer(403, "text/html", "<title>WAF</title>".into()); 100]);
    let bench = Bench::new(mini_program(&idp));
    let mut minutes = Vec::new();
    for second in 0..3600 {
        let before = idp.asked().len();
        let error = bench.session.token().await.unwrap_err();
        minutes.extend((idp.asked().len() > before).then_some(second / 60));
        assert!(second < 15 * 60 || error.kind() == ErrorKind::Stalled, "{second}: {error}");
        tokio::time::advance(SECOND).await;
    }
    let late = minutes.iter().filter(|minute| **minute >= 15).count();
    assert!((3..=4).contains(&late) && minutes.len() - late <= 25, "{minutes:?}");
}

/// Its monotonic clock stands still meanwhile.
#[tokio::test(start_paused = true)]
async fn a_password_that_may_have_been_refused_is_presented_no_oftener_where_the_machine_sleeps() {
    let idp = Idp::new(vec![Say::Answer(200, "text/html", "<title>Sign in</title>".into()); 6]);
    let clock = TestClock::new();
    let password = Password::new(idp.clone(), LOGIN.parse().unwrap(), alice(&Arc::default()));
    let session = Session::builder(password).clock(clock.clone()).build();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let error = session.token().await.unwrap_err();
        seen.push((idp.asked().len(), error.kind() == ErrorKind::Stalled));
        clock.suspend(300 * SECOND);
        clock.advance(SECOND);
    }
    assert_eq!(seen, [(1, false), (2, false), (3, true), (3, true), (3, true), (4, true)]);
}

#[tokio::test(start_paused = true)]
async fn where_there_are_no_credentials_the_next_source_is_asked() {
    let idp = Idp::new([json(200, r#"{"token":"T"}"#)]);
    let nothing = || std::future::ready(Err(FetchError::login_required("nobody is remembered")));
    let source = Password::new(idp.clone(), LOGIN.parse().unwrap(), nothing).or_else(mini_program(&idp));
    assert!(Bench::new(source).session.token().await.is_ok());
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_preset_needs_a_url_that_can_be_extended() {
    let provide = || codes().0();
    for (url, verify) in [
        ("https://api.test", Some("https://api.test/verify")),
        ("https://api.test/v1/token/", Some("https://api.test/v1/token/verify")),
        ("/token", Some("/token/verify")),
        ("https://api.test/token?app=3&x", Some("https://api.test/token/verify?app=3&x")),
        ("api.test:443", None),
    ] {
        let idp = Idp::new([json(200, r#"{"isValid":true}"#)]);
        match LoginCode::mini_program(idp.clone(), url.parse().unwrap(), provide) {
            Ok(source) => {
                source.verify(&Token::new("T")).await;
                assert_eq!(Some(idp.asked()[0].head.uri.to_string().as_str()), verify, "{url}");
            }
            Err(error) => assert_eq!((error.kind(), verify), (ErrorKind::InvalidValue, None), "{url}"),
        }
    }
}
