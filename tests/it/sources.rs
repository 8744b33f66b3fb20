//! What all sources that speak HTTP have in common: limits, failures, answers that are no token.

use std::{
    convert::Infallible,
    error::Error as _,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::yield_now,
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_token_refresh::{
    Error, ErrorKind, FetchContext, FetchError, Secret, Session, Token, TokenRefreshLayer, TokenSource,
    source::{
        AppToken, AuthorityClient, AuthorityError, Cause, Content, FailedCall, LoginCode, RefreshToken,
        oauth2::{AuthorizationCodeGrant, ClientCredentialsGrant, RefreshTokenGrant, TokenEndpoint},
    },
    source_fn,
    store::{MemoryStore, TokenStore},
    test_util::{Endpoint, Gate, ModelAuthority, Phase},
};

use crate::{
    identity::orphans_end,
    idp::{Bench, Idp, Say, UNSENDABLE, cool_down, json},
    oauth2::{endpoint, of_model},
    script::within,
    world::{World, get, origin},
};

fn grant(client: impl Into<AuthorityClient>) -> RefreshTokenGrant {
    RefreshTokenGrant::new(TokenEndpoint::new(client, "https://id.test/token".parse().unwrap()))
}

/// Answers that are no token, with the class of the failure for a refresh and for a login with a code.
fn bad_answers() -> Vec<(Say, &'static str, &'static str)> {
    const HTML: &str = "<!doctype html><title>Sign in</title>&error=invalid_grant";
    let typed = |status, content_type, body: &'static [u8]| {
        Say::Answer(status, content_type, Bytes::from_static(body))
    };
    let text = |status, body: &'static str| typed(status, "application/json", body.as_bytes());
    let html = |status| typed(status, "text/html", HTML.as_bytes());
    let (transient, unanswered, ambiguous) = ("Transient", "Unanswered", "Ambiguous");
    let (configuration, login) = ("Configuration", "LoginRequired");
    // No object, or not even JSON.
    let unreadable = [
        text(200, ""),
        text(200, " "),
        text(200, "{"),
        text(200, r#"{"access_token":"a","token":"a""#),
        text(200, r#"{"access_token":"a","token":"a"} {}"#),
        text(200, r#"{'access_token':'a','token':'a'}"#),
        text(200, r#"{"access_token":"a","token":"a",}"#),
        text(204, ""),
        json(200, format!(r#"{{"access_token":"a","token":"a","x":"{}"}}"#, "x".repeat(64 * 1024))),
        typed(200, "application/json", b"\x1f\x8b\x08\x00gzip"),
        json(200, vec![b'['; 60_000]),
        // The wrong charset.
        typed(200, "application/json; charset=utf-16", b"\xff\xfe{\0\"\0t\0\"\0}\0"),
        typed(200, "application/json", b"{\"access_token\":\"\\ud800\",\"token\":\"\\ud800\"}"),
        // Nobody knows which of two values counts.
        text(200, r#"{"access_token":"a","access_token":"b","token":"a","token":"b"}"#),
        typed(200, "application/x-www-form-urlencoded", b"access_token=a&access_token=b"),
        text(200, r#"{"access_token":"a","token":"a","x":1e999}"#),
    ];
    let pages = [html(200), typed(200, "image/png", b"\x89PNG\r\n\x1a\n")];
    let tokenless = [
        typed(200, "application/json; charset=latin1", b"{\"access_token\":\"\xe9\",\"token\":\"\xe9\"}"),
        text(200, "{\"access_token\":\"a\n\",\"token\":\"a\n\"}"),
        text(200, "null"),
        text(200, "true"),
        text(200, "7"),
        text(200, "\"access\""),
        text(200, "[]"),
        text(200, r#"["access"]"#),
        text(200, r#"[{"access_token":"a","token":"a"}]"#),
        text(200, "{}"),
        text(200, r#"{"access_token":null,"token":null}"#),
        text(200, r#"{"access_token":"","token":""}"#),
        text(200, r#"{"access_token":7,"token":7}"#),
        text(200, r#"{"access_token":true,"token":true}"#),
        text(200, r#"{"access_token":["a"],"token":["a"]}"#),
        text(200, r#"{"access_token":{"value":"a"},"token":{"value":"a"}}"#),
        text(200, r#"{"Access_Token":"a","Token":"a"}"#),
        text(200, r#"{"data":{"access_token":"a","token":"a"}}"#),
        text(200, r#"{"errors":[{"message":"no"}]}"#),
        // A token, and something that speaks against it.
        text(200, r#"{"access_token":"a","token":"a","refresh_token":7}"#),
        text(200, r#"{"access_token":"a","token":"a","token_type":7}"#),
        text(200, r#"{"access_token":"a","token":"a","error":{"code":"invalid_grant"}}"#),
    ];
    let refused = [
        text(200, r#"{"error":"invalid_grant"}"#),
        text(200, r#"{"access_token":"a","token":"a","error":"invalid_grant"}"#),
    ];
    let mut answers = Vec::new();
    answers.extend(unreadable.map(|say| (say, unanswered, ambiguous)));
    answers.extend(pages.map(|say| (say, transient, ambiguous)));
    answers.extend(tokenless.map(|say| (say, unanswered, ambiguous)));
    answers.extend(refused.map(|say| (say, login, login)));
    let pair = r#"{"access_token":"a","token":"a"}"#;
    answers.extend([
        // A token by the answer, which no header can hold.
        (text(200, r#"{"access_token":"a\r\nx: y","token":"a\r\nx: y"}"#), UNSENDABLE, UNSENDABLE),
        (text(400, ""), ambiguous, ambiguous),
        (text(400, pair), ambiguous, ambiguous),
        (html(403), ambiguous, ambiguous),
        (html(404), ambiguous, ambiguous),
        (html(407), ambiguous, ambiguous),
        (text(407, r#"{"error":"invalid_grant"}"#), ambiguous, ambiguous),
        (text(400, r#"{"error":{"error":"invalid_grant"}}"#), ambiguous, ambiguous),
        (text(400, r#"{"error":["invalid_grant"]}"#), ambiguous, ambiguous),
        (text(400, r#"{"error":"invalid_grant","error":"invalid_grant"}"#), ambiguous, ambiguous),
        (text(400, r#"{"error":"INVALID_GRANT"}"#), ambiguous, ambiguous),
        (json(400, vec![b'x'; 100_000]), ambiguous, ambiguous),
        (text(302, pair), ambiguous, ambiguous),
        (text(304, ""), ambiguous, ambiguous),
        // The next login has a code of its own: no answer is needed for the one before.
        (text(500, pair), unanswered, transient),
        (html(502), unanswered, transient),
        (text(501, r#"{"error":"invalid_grant"}"#), unanswered, transient),
        (Say::Truncated, unanswered, transient),
        (Say::Reset, unanswered, transient),
        (Say::Hang, unanswered, transient),
        (Say::Unreachable, transient, transient),
        (Say::NotReady, transient, transient),
        (Say::Stuck, transient, transient),
        (html(503), transient, transient),
        (text(429, pair), transient, transient),
        (text(408, ""), transient, transient),
        (text(425, ""), transient, transient),
        (text(401, r#"{"error":"invalid_client"}"#), configuration, ambiguous),
        (text(400, r#"{"error":"invalid_scope"}"#), configuration, ambiguous),
        (text(400, r#"{"error":"invalid_grant"}"#), login, login),
        (typed(400, "application/x-www-form-urlencoded", b"error=invalid_grant"), login, login),
        (text(400, "\u{feff}{\"error\":\"invalid_grant\"}"), login, login),
    ]);
    // A description in GBK, in Shift_JIS and Big5 with a backslash of ASCII in a character, and with raw control characters.
    let descriptions: [&[u8]; 5] = [
        b"\xcb\xa2\xd0\xc2\xc1\xee",
        b"\x8b\x40\x94\x5c\x82\xaa",
        b"\xa6\xa8\xa5\x5c",
        b"two\r\nlines",
        b"\x1b[31ma\ttab\0",
    ];
    answers.extend(descriptions.map(|description| {
        let body = [br#"{"error":"invalid_grant","error_description":""#, description, br#""}"#].concat();
        (json(400, body), login, login)
    }));
    answers
}

#[tokio::test(start_paused = true)]
async fn every_bad_answer_has_its_class_and_none_is_stored() {
    let answers = bad_answers();
    assert!(answers.len() > 60);
    for (say, as_refresh, as_login) in answers {
        let said = format!("{say:?}").chars().take(200).collect::<String>();
        let bench = Bench::logged_in(grant(Idp::new([say.clone()]))).await;
        let (class, error) = bench.failure_or_unsendable().await;
        assert_eq!(class, as_refresh, "{said}");
        assert_eq!(error.kind(), kind(as_refresh), "{said}");
        assert_eq!(bench.stored().await, Some(("old-access".into(), Some("old-refresh".into()))), "{said}");

        let code = || std::future::ready(Ok(Secret::from("code")));
        let source =
            LoginCode::mini_program(Idp::new([say]), "https://id.test/token".parse().unwrap(), code).unwrap();
        let bench = Bench::new(source);
        let (class, error) = bench.failure_or_unsendable().await;
        assert_eq!(class, as_login, "{said}");
        assert_eq!(error.kind(), kind(as_login), "{said}");
        assert_eq!(bench.stored().await, None, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_odd_elsewhere_in_an_answer_harms_no_token() {
    let members = |others: &[u8]| {
        let body = [br#"{"access_token":"a","refresh_token":"r","#, others, b"}"].concat();
        json(200, body)
    };
    let form = "access_token=a&refresh_token=r&x=1&x=2";
    let line = "access_token=a&refresh_token=r\r\n";
    for answer in [
        // As JavaScript writes a text that was cut in the middle of an emoji.
        members(br#""nick":"cut \ud83d","expires_in":3599.5"#),
        members(br#""x":{"y":1,"y":2},"z":1,"z":2"#),
        // In Shift_JIS and Big5, with a backslash of ASCII in a character.
        members(b"\"name\":\"\x8b\x40\x94\x5c\x82\xaa\""),
        members(b"\"name\":\"\xa6\xa8\xa5\x5c\""),
        members(b"\"message\":\"two\nlines\tand a tab\""),
        Say::Answer(200, "application/x-www-form-urlencoded", form.into()),
        Say::Answer(200, "application/x-www-form-urlencoded", line.into()),
        // JSON that is said to be a form.
        Say::Answer(
            200,
            "application/x-www-form-urlencoded",
            r#"{"access_token":"a","refresh_token":"r"}"#.into(),
        ),
        Say::Answer(
            200,
            "application/x-www-form-urlencoded",
            "\u{feff}{\"access_token\":\"a\",\"refresh_token\":\"r\"}".into(),
        ),
    ] {
        let bench = Bench::logged_in(grant(Idp::new([answer.clone()]))).await;
        bench.session.refresh().await.unwrap();
        assert_eq!(bench.stored().await, Some(("a".into(), Some("r".into()))), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_asks_for_another_time_counts_although_its_body_breaks_off() {
    a_status_that_asks_for_another_time_counts(Say::BreaksOff).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_asks_for_another_time_counts_although_its_body_stalls() {
    a_status_that_asks_for_another_time_counts(Say::Stalls).await;

    let idp = Idp::new([Say::Stalls(HeaderMap::new(), 503)]);
    let briefly = AuthorityClient::new(idp).timeout(Duration::from_millis(200)).unwrap();
    assert_eq!(Bench::logged_in(grant(briefly)).await.class().await, "Transient");
}

async fn a_status_that_asks_for_another_time_counts(broken: fn(HeaderMap, u16) -> Say) {
    let wait = Duration::from_secs(90);
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "90".parse().unwrap())]);
    for (status, expected) in [408, 425, 429, 503]
        .map(|status| (status, ("Transient", Some(wait))))
        .into_iter()
        .chain([400, 401, 500, 502].map(|status| (status, ("Unanswered", None))))
    {
        let broken = broken(headers.clone(), status);
        let bench = Bench::logged_in(grant(Idp::new([broken.clone()]))).await;
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.retry_after()), expected, "{status}");

        let idp = Idp::new([broken, json(200, r#"{"access_token":"a"}"#)]);
        let endpoint = TokenEndpoint::new(idp.clone(), "https://id.test/token".parse().unwrap());
        let code = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
        code.session.refresh().await.unwrap_err();
        cool_down().await;
        let is_presented_again = code.session.refresh().await.is_ok();
        assert_eq!((is_presented_again, idp.asked().len() == 2), (expected.1.is_some(), is_presented_again));
    }
}

/// The one before is spent.
#[tokio::test(start_paused = true)]
async fn a_new_refresh_token_is_the_next_one_presented_although_the_access_token_beside_it_is_of_no_use() {
    let of_no_use: [&[u8]; 8] = [
        br#""access_token":"a\nb""#,
        br#""access_token":"""#,
        br#""access_token":null"#,
        br#""expires_in":3600"#,
        br#""access_token":12"#,
        b"\"access_token\":\"a\xe9\"",
        br#""access_token":"a","token_type":1"#,
        br#""access_token":"a","access_token":"b""#,
    ];
    for of_no_use in of_no_use {
        let answer = [br#"{"refresh_token":"next","#, of_no_use, b"}"].concat();
        let says = || Idp::new([json(200, answer.clone()), json(200, r#"{"access_token":"good"}"#)]);
        let idps = [(); 3].map(|()| says());
        let [oauth, plain, named] = idps.clone();
        let url = "https://id.test/refresh".parse().unwrap();
        let named = AuthorityClient::new(named).classify_failures(|_| Some(FetchError::transient("odd")));
        let benches = [
            Bench::logged_in(grant(oauth)).await,
            Bench::logged_in(RefreshToken::new(plain, url)).await,
            Bench::logged_in(grant(named)).await,
        ];
        for (bench, idp) in benches.into_iter().zip(idps) {
            bench.session.refresh().await.unwrap_err();
            assert_eq!(bench.stored().await, Some(("old-access".into(), Some("next".into()))));
            cool_down().await;
            assert_eq!(bench.session.refresh().await.unwrap().access().expose(), "good");
            assert!(idp.bodies()[1].contains("next"), "{}", String::from_utf8_lossy(of_no_use));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_brings_no_more_than_a_refresh_token_is_a_failure_like_others() {
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "90".parse().unwrap())]);
    for (next, answer) in
        [("next", r#"{"refresh_token":"next"}"#), ("old-refresh", r#"{"refresh_token":"old-refresh"}"#)]
    {
        let says = Say::With(headers.clone(), 200, answer);
        let bench = Bench::logged_in(grant(Idp::new([says.clone()]))).await;
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.retry_after()), ("Unanswered", Some(Duration::from_secs(90))));
        assert_eq!(AuthorityError::find(&error).unwrap().status(), 200);
        assert_eq!(bench.stored().await, Some(("old-access".into(), Some(next.into()))));

        let told = AuthorityClient::new(Idp::new([says]))
            .classify_failures(|_| Some(FetchError::login_required("the user has left")));
        let bench = Bench::logged_in(grant(told)).await;
        assert!(bench.session.refresh().await.unwrap_err().is_login_required());
    }
}

/// Neither has an access token.
#[tokio::test(start_paused = true)]
async fn the_next_refresh_token_of_whoever_was_there_before_is_not_of_the_grant_of_a_login_by_refresh_token()
{
    let gate = Gate::new();
    let (source, held) =
        (Arc::new(grant(Idp::new([json(200, r#"{"refresh_token":"late"}"#)]))), gate.clone());
    let source = source_fn(move |cx: FetchContext| {
        let (source, held) = (source.clone(), held.clone());
        async move {
            let answer = source.fetch(cx).await;
            held.pass().await;
            answer
        }
    });
    let revoked = Arc::new(Mutex::new(Vec::new()));
    let noted = revoked.clone();
    let session = Session::builder(source)
        .revoke_with(move |token: Token| {
            noted.lock().unwrap().extend(token.refresh().map(|refresh| refresh.expose().to_owned()));
            std::future::ready(())
        })
        .build();
    session.login(Token::from_refresh_token("of-alice")).await.unwrap();
    assert_pending!(task::spawn(session.refresh()).poll());
    within(gate.waiting(1)).await;
    session.login(Token::from_refresh_token("of-bob")).await.unwrap();
    gate.open();
    orphans_end().await;
    assert!(revoked.lock().unwrap().contains(&"late".to_owned()), "{:?}", revoked.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn no_longer_wait_is_told_than_is_granted() {
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "99999999999999999999".parse().unwrap())]);
    let says = Bench::logged_in(grant(Idp::new([Say::With(headers, 429, "")]))).await;
    let asks =
        Bench::new(source_fn(async |_| Err(FetchError::transient("later").retry_after(Duration::MAX))));
    for bench in [says, asks] {
        let wait = bench.session.refresh().await.unwrap_err().retry_after().unwrap();
        assert_eq!(wait, Duration::from_secs(600));
    }
}

#[tokio::test(start_paused = true)]
async fn no_longer_wait_is_kept_than_is_granted() {
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "99999".parse().unwrap())]);
    let idp = Idp::new([Say::With(headers, 429, ""), json(200, r#"{"access_token":"a"}"#)]);
    let bench = Bench::logged_in(grant(idp.clone())).await;
    for (seconds, asked) in [(0, 1), (599, 1), (1, 2)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        assert_eq!(bench.session.refresh().await.is_ok(), asked == 2);
        assert_eq!(idp.asked().len(), asked);
    }
}

/// A session whose tokens are another's, and how often that was asked.
fn behind(inner: impl Fn() -> FetchError + Send + Sync + 'static) -> (Session, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let source = source_fn(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err(inner()))
    });
    (Session::builder(source).build(), asked)
}

#[tokio::test(start_paused = true)]
async fn a_session_behind_another_says_what_that_one_says_and_goes_on_when_it_does() {
    let inner = Session::builder(source_fn(async |_| Err(FetchError::login_required("over")))).build();
    let asked = inner.clone();
    let outer = Session::builder(source_fn(move |_| {
        let asked = asked.clone();
        async move { Ok(asked.token().await?) }
    }))
    .build();
    let error = outer.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LoginRequired);
    assert_eq!(error.to_string(), inner.token().await.unwrap_err().to_string());
    inner.login(Token::new("by-hand")).await.unwrap();
    cool_down().await;
    assert_eq!(outer.token().await.unwrap().access().expose(), "by-hand");

    let minute = Duration::from_secs(60);
    for (call, kind) in [
        (FetchError::transient as fn(&'static str) -> _, ErrorKind::Transient),
        (FetchError::configuration, ErrorKind::Configuration),
    ] {
        let inner = behind(move || call("busy").retry_after(minute)).0.token().await.unwrap_err();
        let inner = move || FetchError::from(inner.clone());
        let error = behind(inner.clone()).0.token().await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (kind, Some(minute)));
        // What the source says itself holds.
        let own = behind(move || inner().retry_after(2 * minute)).0.token().await.unwrap_err();
        assert_eq!((own.kind(), own.retry_after()), (kind, Some(2 * minute)));
    }
    let own = behind(move || FetchError::configuration(error.clone())).0;
    assert_eq!(own.token().await.unwrap_err().kind(), ErrorKind::Configuration);
}

/// As the docs of `FetchError` show it. The other session does not hear that its token was refused here; and of two
/// sessions behind it the second finds the token that the first has asked for.
#[tokio::test(start_paused = true)]
async fn a_refusal_behind_another_session_asks_that_one_for_a_new_token() {
    for passes_it_on in [true, false] {
        let world = World::with(ModelAuthority::new().newest_only(), |session| session, |layer| layer);
        let stores = [MemoryStore::new(), MemoryStore::new()];
        let behind = |store: &MemoryStore| {
            let (inner, given) = (world.session.clone(), Arc::<Mutex<Option<Token>>>::default());
            let source = source_fn(move |cx: FetchContext| {
                let (inner, given) = (inner.clone(), given.clone());
                async move {
                    let mut token = inner.token().await?;
                    let is_given = |given: &Token| given.access().expose() == token.access().expose();
                    let is_known = given.lock().unwrap().as_ref().is_none_or(is_given);
                    if passes_it_on && is_known && matches!(cx.cause(), Cause::Refused | Cause::Forced) {
                        token = inner.refresh().await?;
                    }
                    *given.lock().unwrap() = Some(token.clone());
                    Ok(token.without_refresh_token())
                }
            });
            Session::builder(source).store(store.clone()).build()
        };
        let get = async |session: &Session| {
            let client = TokenRefreshLayer::new(session.clone(), origin()).layer(world.api.clone());
            within(client.oneshot(get("/"))).await.unwrap().status()
        };
        let outer = stores.each_ref().map(behind);
        for session in &outer {
            session.token().await.unwrap();
        }
        world.authority.revoke_access();
        for (at, session) in outer.iter().cycle().take(6).enumerate() {
            assert_eq!(get(session).await == StatusCode::OK, passes_it_on, "{at}");
        }
        assert_eq!(world.authority.counts().refreshes, usize::from(passes_it_on));
        // A process that starts again has the token from its store, and its source has given none out yet.
        world.authority.revoke_access();
        assert_eq!(get(&behind(&stores[0])).await == StatusCode::OK, passes_it_on);
        assert_eq!(world.authority.counts().refreshes, 2 * usize::from(passes_it_on));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_behind_one_that_has_no_runtime_or_another_identity_cools_down() {
    let nowhere = std::thread::spawn(|| {
        let session = Session::builder(source_fn(async |_| Ok(Token::new("never")))).build();
        assert_ready!(task::spawn(session.token()).poll()).unwrap_err()
    });
    let nowhere = nowhere.join().unwrap();
    assert_eq!(nowhere.kind(), ErrorKind::NoRuntime);
    let world = World::revoked().await;
    let late = world.api.hold(Phase::Answer);
    let mut refused = task::spawn(world.get("/"));
    assert_pending!(refused.poll());
    within(late.waiting(1)).await;
    world.session.login(Token::new("of-another")).await.unwrap();
    late.open();
    let changed = Error::of(&within(refused).await).unwrap().clone();
    assert_eq!(changed.kind(), ErrorKind::SessionChanged);
    for inner in [nowhere, changed] {
        let (session, asked) = behind(move || inner.clone().into());
        for _ in 0..3 {
            assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Transient);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

fn kind(class: &str) -> ErrorKind {
    match class {
        "LoginRequired" => ErrorKind::LoginRequired,
        "Configuration" => ErrorKind::Configuration,
        UNSENDABLE => ErrorKind::InvalidValue,
        _ => ErrorKind::Transient,
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_up_to_a_limit_and_waited_for_up_to_another() {
    let client = |idp: &Idp| AuthorityClient::new(idp.clone());
    let body = r#"{"access_token":"a"}"#;
    for (limit, is_read) in [(body.len(), true), (body.len() - 1, false)] {
        let idp = Idp::new([json(200, body)]);
        let bench = Bench::logged_in(grant(client(&idp).response_limit(limit).unwrap())).await;
        assert_eq!(bench.session.refresh().await.is_ok(), is_read, "{limit}");
    }
    let idp = Idp::new([Say::Hang]);
    let bench = Bench::logged_in(grant(client(&idp).timeout(Duration::from_secs(3)).unwrap())).await;
    let began = tokio::time::Instant::now();
    assert_eq!(bench.class().await, "Unanswered");
    assert_eq!(began.elapsed().as_secs(), 3);

    // Without a limit of the user's.
    let code = |idp| AuthorizationCodeGrant::new(endpoint(&idp), "c", "http://127.0.0.1:7/");
    let app = |idp| ClientCredentialsGrant::new(endpoint(&idp));
    let takes_the_body = service_fn(|request: Request<Content>| async {
        let _body = Bytes::from(request.into_body());
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    for (bench, class, seconds) in [
        (Bench::logged_in(grant(Idp::new([Say::Hang]))).await, "Unanswered", 110),
        (Bench::new(code(Idp::new([Say::Hang]))), "Unanswered", 110),
        (Bench::logged_in(grant(Idp::new([Say::Stuck]))).await, "Transient", 10),
        (Bench::new(app(Idp::new([Say::Hang]))), "Transient", 10),
        (Bench::logged_in(grant(takes_the_body)).await, "Unanswered", 110),
    ] {
        let began = tokio::time::Instant::now();
        assert_eq!((bench.class().await.as_str(), began.elapsed().as_secs()), (class, seconds));
    }

    for bytes in [0, 1024 * 1024 + 1, usize::MAX] {
        assert_eq!(client(&idp).response_limit(bytes).unwrap_err().kind(), ErrorKind::InvalidValue);
    }
    assert!(client(&idp).response_limit(1024 * 1024).is_ok());
    assert_eq!(client(&idp).timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::InvalidValue);
}

/// Nobody gets that answer a second time: the refresh token is spent.
#[tokio::test(start_paused = true)]
async fn an_authority_that_is_slower_than_its_callers_are_patient_logs_nobody_out() {
    for (seconds, is_waited_for) in [(12, true), (105, false)] {
        let authority = ModelAuthority::new();
        let gate = authority.hold(Endpoint::Refresh);
        let session = Session::builder(RefreshTokenGrant::new(of_model(&authority))).build();
        session.login(authority.login().await.unwrap()).await.unwrap();
        let waiting = tokio::spawn({
            let session = session.clone();
            async move { session.refresh().await }
        });
        gate.arrived(1).await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        gate.open();
        let waited = waiting.await.unwrap();
        assert_eq!(waited.is_ok(), is_waited_for, "{seconds}");
        session.settle().await.unwrap();
        assert!(authority.is_alive(session.refresh().await.unwrap().access().expose()), "{seconds}");
        let counts = authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again()), (2, 0), "{seconds}");
    }
}

/// Its timers are at their end before it has looked at its sockets.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_reads_the_answer_that_came_meanwhile() {
    const SECOND: Duration = Duration::from_secs(1);
    // The last one is answered only then.
    for (abandon_after, runs, works) in
        [(120, 1, 0), (120, 40, 0), (30, 1, 0), (600, 1, 0), (600, 100, 0), (120, 1, 3)]
    {
        let authority = ModelAuthority::new();
        let gate = authority.hold(Endpoint::Refresh);
        // It takes the runtime some turns to hand the answer on that is there.
        let client = service_fn({
            let authority = authority.clone();
            move |request: Request<Content>| {
                let call = authority.clone().oneshot(request);
                let call = tokio::spawn(async move {
                    let answer = call.await;
                    for _ in 0..10 {
                        yield_now().await;
                    }
                    tokio::time::sleep(works * SECOND).await;
                    answer
                });
                async move { call.await.expect("it does not panic") }
            }
        });
        let endpoint = TokenEndpoint::new(client, Uri::from_static("https://id.test/oauth/token"));
        let session = Session::builder(RefreshTokenGrant::new(endpoint));
        let session = session.abandon_after(abandon_after * SECOND).unwrap().build();
        session.login(authority.login().await.unwrap()).await.unwrap();
        let _waiting = tokio::spawn({
            let session = session.clone();
            async move { session.refresh().await }
        });
        gate.arrived(1).await;
        tokio::time::sleep(runs * SECOND).await;
        gate.open();
        tokio::time::advance(3600 * SECOND).await;
        session.settle().await.unwrap();
        assert!(
            authority.is_alive(session.refresh().await.unwrap().access().expose()),
            "{abandon_after} {runs}"
        );
        let counts = authority.counts();
        assert_eq!((counts.refreshes, counts.presented_again()), (2, 0), "{abandon_after} {runs}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_not_followed() {
    let location = HeaderMap::from_iter([(header::LOCATION, "https://elsewhere.test/".parse().unwrap())]);
    let idp = Idp::new([Say::With(location, 307, "")]);
    let bench = Bench::logged_in(grant(idp.clone())).await;
    assert_eq!(bench.class().await, "Ambiguous");
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_authoritys_wait_reaches_the_caller_in_both_forms() {
    let date = |text: &str| text.parse().unwrap();
    let now = (header::DATE, date("Sun, 06 Nov 1994 08:48:37 GMT"));
    for (headers, status) in [
        (HeaderMap::from_iter([(header::RETRY_AFTER, date("60"))]), 429),
        (HeaderMap::from_iter([now, (header::RETRY_AFTER, date("Sun, 06 Nov 1994 08:49:37 GMT"))]), 503),
    ] {
        let idp = Idp::new([Say::With(headers, status, ""), json(200, r#"{"access_token":"a"}"#)]);
        let bench = Bench::logged_in(grant(idp.clone())).await;
        let (_, error) = bench.failure().await;
        assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(44)).await;
        bench.session.refresh().await.unwrap_err();
        assert_eq!(idp.asked().len(), 1, "not within the wait");
    }
}

#[tokio::test(start_paused = true)]
async fn the_users_own_classification_holds_for_every_kind_of_failure() {
    for (say, class, _) in bad_answers() {
        let said = format!("{say:?}").chars().take(200).collect::<String>();
        if class == UNSENDABLE {
            continue;
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let classify = {
            let seen = seen.clone();
            move |failed: &FailedCall<'_>| {
                let status = failed.answer().map(|answer| answer.status().as_u16());
                assert_eq!(failed.headers().is_some(), status.is_some());
                assert_eq!(failed.body().is_some(), status.is_some());
                assert!(!failed.cause().to_string().is_empty());
                seen.lock().unwrap().push(status);
                Some(FetchError::configuration("as the user says"))
            }
        };
        let client = AuthorityClient::new(Idp::new([say.clone()])).classify_failures(classify);
        let bench = Bench::logged_in(grant(client)).await;
        assert_eq!(bench.class().await, "Configuration", "{said}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{said}");
    }
    // One that was not sent for its URL is asked about, too, wherever the parameters go.
    let apps: [fn(AuthorityClient, Uri) -> AppToken; 2] = [AppToken::get, AppToken::post];
    for app in apps {
        let client = AuthorityClient::new(Idp::new([]))
            .classify_failures(|_| Some(FetchError::transient("as the user says")));
        let bench = Bench::new(app(client, "id.test".parse().unwrap()).credential("secret", "s"));
        assert_eq!(bench.class().await, "Transient");
    }
    // And leaves alone what it does not know.
    let client = AuthorityClient::new(Idp::new([json(500, "")])).classify_failures(|_| None);
    assert_eq!(Bench::logged_in(grant(client)).await.class().await, "Unanswered");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_user_has_classified_waits_as_long_as_the_authority_asks() {
    let wait = |seconds: &str| HeaderMap::from_iter([(header::RETRY_AFTER, seconds.parse().unwrap())]);
    for (own, expected) in [(None, 120), (Some(7), 7)] {
        let client = AuthorityClient::new(Idp::new([Say::With(wait("120"), 400, r#"{"error":"quota"}"#)]))
            .classify_failures(move |_| {
                let busy = FetchError::transient("busy");
                Some(match own {
                    Some(seconds) => busy.retry_after(Duration::from_secs(seconds)),
                    None => busy,
                })
            });
        let (class, error) = Bench::logged_in(grant(client)).await.failure().await;
        assert_eq!((class.as_str(), error.retry_after()), ("Transient", Some(Duration::from_secs(expected))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_user_has_classified_keeps_the_authoritys_answer() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_request","mfa_token":"m"}"#)]);
    let second_factor = || io::Error::other("a second factor is missing");
    let client = AuthorityClient::new(idp).classify_failures(move |failed: &FailedCall<'_>| {
        let is_it = failed.answer()?.code()? == "invalid_request";
        is_it.then(|| FetchError::login_required(second_factor()).without_fallback())
    });
    let (class, error) = Bench::logged_in(grant(client)).await.failure().await;
    assert_eq!((class.as_str(), error.kind()), ("LoginRequired", ErrorKind::LoginRequired));
    let answer = AuthorityError::find(&error).unwrap();
    assert_eq!((answer.status().as_u16(), answer.text("/mfa_token")), (400, Some("m")));
    let said = answer.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(said.to_string(), second_factor().to_string());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_user_takes_for_a_failure_of_the_configuration_is_not_said_to_be_missing() {
    for (say, text) in [
        (json(429, r#"{"error":"app_quota"}"#), "the authority refuses this client"),
        (json(400, r#"{"error":"app_quota"}"#), "the authority refuses this client"),
        (Say::Unreachable, "the authority cannot be asked as it is configured"),
    ] {
        let client = AuthorityClient::new(Idp::new([say.clone()]))
            .classify_failures(|_| Some(FetchError::configuration("the application has no quota left")));
        let (_, error) = Bench::logged_in(grant(client)).await.failure().await;
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Configuration, text), "{say:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_on_the_client_that_it_serves_fails_at_once() {
    // The source needs the client, and the client the session: so the client comes later.
    let idp = Idp::default();
    let store = MemoryStore::new();
    let cell: Arc<Mutex<Option<tower::buffer::Buffer<Request<Content>, _>>>> = Arc::default();
    let through = {
        let cell = cell.clone();
        service_fn(move |request: Request<Content>| {
            let layered = cell.lock().unwrap().clone().expect("the client is there by now");
            async move { tokio::spawn(layered.oneshot(request)).await.expect("no panic") }
        })
    };
    let endpoint = TokenEndpoint::new(through, "https://api.test/token".parse().unwrap());
    let session = Session::builder(ClientCredentialsGrant::new(endpoint)).store(store.clone()).build();
    let to_idp = idp.map_request(|request: Request<tower_token_refresh::ReplayBody<Content>>| {
        request.map(|_| unreachable!())
    });
    let layered = ServiceBuilder::new()
        .buffer(8)
        .layer(TokenRefreshLayer::new(session.clone(), origin()))
        .service(to_idp);
    *cell.lock().unwrap() = Some(layered);
    let error = within(session.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reentrant);
    assert!(!error.is_transient(), "trying again does not help");
    assert!(store.load().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn credentials_go_by_plain_http_to_this_machine_only_unless_somebody_says_so() {
    const ANSWER: &str = r#"{"access_token":"a"}"#;
    let login = async |url: &str, lets: fn(AuthorityClient) -> AuthorityClient| {
        let idp = Idp::new([json(200, ANSWER)]);
        let endpoint = TokenEndpoint::new(lets(AuthorityClient::new(idp.clone())), url.parse().unwrap());
        let session = Session::builder(ClientCredentialsGrant::new(endpoint)).build();
        (within(session.token()).await.map_err(|error| error.kind()).map(drop), idp.bodies().len())
    };
    for url in [
        "http://id.test/token",
        "http://10.0.0.1:8080/token",
        // A resolver may know no rule for it, and ask whoever is in the search path.
        "http://idp.localhost/token",
        // A client may make another host or port of these than we do.
        "http://user@localhost/token",
        "http://user:password@10.0.0.1/token",
        "http://10.0.0.1:99999/token",
    ] {
        let refused = (Err(ErrorKind::Configuration), 0);
        assert_eq!(login(url, |client| client).await, refused, "{url}");
        assert_eq!(login(url, AuthorityClient::danger_plain_http).await, (Ok(()), 1), "{url}");
    }
    // A client that knows where to go by itself is asked with a path.
    for url in
        ["https://id.test/token", "http://localhost:1/token", "http://127.0.0.1/", "http://[::1]/", "/token"]
    {
        assert_eq!(login(url, |client| client).await, (Ok(()), 1), "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_cannot_be_asked_by_its_url_is_a_failure_of_the_configuration_that_says_so() {
    let (bare, in_the_clear) = ("a host and no scheme", "plain http");
    for (url, cause) in [("id.test", bare), ("id.test:443", bare), ("http://id.test/token", in_the_clear)] {
        let idp = Idp::default();
        let url: Uri = url.parse().unwrap();
        let post = ClientCredentialsGrant::new(TokenEndpoint::new(idp.clone(), url.clone()));
        let get = AppToken::get(idp.clone(), url.clone()).credential("secret", "s");
        for bench in [Bench::new(post), Bench::new(get)] {
            let (class, error) = bench.failure().await;
            assert_eq!((class.as_str(), error.kind()), ("Configuration", ErrorKind::Configuration), "{url}");
            assert_eq!(error.to_string(), "the authority cannot be asked as it is configured");
            let source = error.source().unwrap().to_string();
            assert!(source.contains(cause), "{url}: {source}");
        }
        assert!(idp.asked().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn every_question_asks_for_an_answer_as_it_is() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let authority = service_fn(move |request: Request<Content>| {
        let accepts = [header::ACCEPT, header::ACCEPT_ENCODING].map(|name| request.headers()[name].clone());
        seen.lock().unwrap().push(accepts);
        let answer = Response::new(Full::<Bytes>::from(r#"{"access_token":"a"}"#));
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let url: Uri = "https://id.test/token".parse().unwrap();
    let get = AppToken::get(authority.clone(), url.clone()).credential("secret", "s");
    let post = AppToken::post(authority, url).credential("secret", "s");
    for bench in [Bench::new(get), Bench::new(post)] {
        bench.session.token().await.unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), [["application/json", "identity"]; 2]);
}

/// A server that reads a request up to its last word and answers with this text, and where it listens.
async fn raw(last: &'static str, answer: &'static str) -> Uri {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let uri = format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let mut length = 0;
        while !request[..length].ends_with(last.as_bytes()) {
            length += stream.read(&mut request[length..]).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    uri
}

/// Where nobody listens.
async fn nobody() -> Uri {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap()
}

#[tokio::test]
async fn over_sockets_a_lost_answer_is_told_from_a_request_that_was_never_sent() {
    let cases = [
        (nobody().await, "Transient"),
        (raw("old-refresh", "").await, "Unanswered"),
        (
            raw("old-refresh", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":\"a\"}").await,
            "Unanswered",
        ),
        (raw("old-refresh", "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await, "Transient"),
    ];
    for (uri, class) in cases {
        let http: Client<_, Content> = Client::builder(TokioExecutor::new()).build_http();
        let bench = Bench::logged_in(RefreshTokenGrant::new(TokenEndpoint::new(http, uri))).await;
        assert_eq!(bench.class().await, class);
    }
}

#[tokio::test]
async fn over_sockets_a_lost_answer_to_a_get_is_told_from_one_that_was_never_sent() {
    for (uri, text) in [
        (nobody().await, "the authority cannot be asked as it is configured"),
        (raw("\r\n\r\n", "").await, "the authority refuses this client"),
    ] {
        let http: Client<_, Content> = Client::builder(TokioExecutor::new()).build_http();
        let client = AuthorityClient::new(http)
            .classify_failures(|_| Some(FetchError::configuration("as the user says")));
        let bench = Bench::new(AppToken::get(client, uri).credential("secret", "s"));
        assert_eq!(bench.failure().await.1.to_string(), text);
    }
}

#[tokio::test]
async fn a_client_with_another_body_type_is_adapted_by_one_map() {
    let uri =
        raw("client_credentials", "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"access_token\":\"a\"}")
            .await;
    let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let http =
        http.map_request(|request: Request<Content>| request.map(|content| Full::from(Bytes::from(content))));
    let session = Session::builder(ClientCredentialsGrant::new(TokenEndpoint::new(http, uri))).build();
    assert_eq!(session.token().await.unwrap().access().expose(), "a");
}
