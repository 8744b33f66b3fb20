use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio_test::{assert_pending, assert_ready, task::spawn};
use tower::ServiceExt;

use super::*;
use crate::{
    error::BoxError,
    source::{Cause, FailureClass, FetchContext, FetchError, TokenSource},
    test_util::ModelBody,
    token::Token,
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_refresh_rotates_the_refresh_token_and_leaves_the_older_access_token_alive() {
    let authority = ModelAuthority::new();
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    assert_ne!(refresh_token(&first), refresh_token(&second));
    assert!(alive(&authority, &first) && alive(&authority, &second));
    assert!(refresh(&authority, &second).await.is_ok());
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes, counts.token_calls()), (1, 2, 3));
    assert_eq!(counts.presented_again(), 0);
}

#[tokio::test]
async fn a_spent_refresh_token_ends_its_family_and_no_other() {
    let authority = ModelAuthority::new();
    let other = authority.login().await.unwrap();
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    assert_eq!(class(refresh(&authority, &first).await), FailureClass::LoginRequired);
    assert!(!alive(&authority, &first) && !alive(&authority, &second));
    assert_eq!(class(refresh(&authority, &second).await), FailureClass::LoginRequired);
    assert!(alive(&authority, &other) && refresh(&authority, &other).await.is_ok());
    let counts = authority.counts();
    assert_eq!((counts.family_deaths, counts.presented_again()), (1, 1));
}

#[tokio::test]
async fn without_reuse_detection_a_spent_refresh_token_is_refused_and_the_family_lives() {
    let authority = ModelAuthority::new().rotation(Rotation::On);
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    assert_eq!(class(refresh(&authority, &first).await), FailureClass::LoginRequired);
    assert!(refresh(&authority, &second).await.is_ok());
    assert_eq!(authority.counts().family_deaths, 0);
}

#[tokio::test(start_paused = true)]
async fn within_the_grace_window_a_spent_refresh_token_brings_the_same_pair_again() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone()).grace(MINUTE);
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    clock.advance(MINUTE - Duration::from_nanos(1));
    let again = refresh(&authority, &first).await.unwrap();
    assert_eq!(again.access().expose(), second.access().expose());
    assert_eq!(refresh_token(&again), refresh_token(&second));
    clock.advance(Duration::from_nanos(1));
    assert!(refresh(&authority, &first).await.is_err());
    assert!(!alive(&authority, &second));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_put_right_takes_no_time_back() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone());
    let first = authority.login().await.unwrap();
    clock.suspend(180 * MINUTE);
    refresh(&authority, &first).await.unwrap();
    clock.set_wall_back(180 * MINUTE);
    assert!(!alive(&authority, &first), "it was dead by then");
    assert_eq!(class(refresh(&authority, &first).await), FailureClass::LoginRequired);
    assert_eq!(authority.counts().family_deaths, 1);
    let next = authority.login().await.unwrap();
    clock.advance(120 * MINUTE);
    assert!(!alive(&authority, &next), "and time goes on");
}

#[tokio::test(start_paused = true)]
async fn the_longest_of_times_are_for_ever() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone()).grace(Duration::MAX);
    let authority = authority.access_lifetime(Duration::MAX).refresh_lifetime(Duration::MAX);
    clock.advance(MINUTE);
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    clock.advance(10_000 * MINUTE);
    let again = refresh(&authority, &first).await.unwrap();
    assert_eq!(refresh_token(&again), refresh_token(&second));
    assert!(alive(&authority, &first) && alive(&authority, &second));

    let authority = authority.rotation(Rotation::Off);
    refresh(&authority, &second).await.unwrap();
}

#[tokio::test]
async fn a_newest_only_authority_ends_the_older_tokens_of_the_same_account() {
    let authority = ModelAuthority::new().account("bob", "builder").newest_only();
    let bob = authority.login_as("bob", "builder").await.unwrap();
    let first = authority.login().await.unwrap();
    let second = refresh(&authority, &first).await.unwrap();
    assert!(!alive(&authority, &first) && alive(&authority, &second));
    assert_eq!(authority.holder(bob.access().expose()).as_deref(), Some("bob"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_does_not_rotate_lives_anew_with_each_use() {
    let clock = TestClock::new();
    let authority =
        ModelAuthority::new().clock(clock.clone()).rotation(Rotation::Off).refresh_lifetime(10 * MINUTE);
    let first = authority.login().await.unwrap();
    for _ in 0..3 {
        clock.advance(9 * MINUTE);
        assert_eq!(refresh_token(&refresh(&authority, &first).await.unwrap()), refresh_token(&first));
    }
    let authority = authority.rotation(Rotation::Omitted);
    assert!(refresh(&authority, &first).await.unwrap().refresh().is_none());
    clock.advance(10 * MINUTE);
    assert_eq!(class(refresh(&authority, &first).await), FailureClass::LoginRequired);
}

#[tokio::test(start_paused = true)]
async fn tokens_die_when_either_of_the_clocks_says_so() {
    let clock = TestClock::new();
    let authority = ModelAuthority::new().clock(clock.clone()).access_lifetime(MINUTE);
    let token = authority.login().await.unwrap();
    assert_eq!(token.lifetime(), Some(MINUTE));
    clock.advance(MINUTE - Duration::from_nanos(1));
    assert!(alive(&authority, &token));
    clock.set_wall_back(MINUTE);
    clock.advance(Duration::from_nanos(1));
    assert!(!alive(&authority, &token));

    let token = authority.login().await.unwrap();
    clock.suspend(3 * MINUTE);
    assert!(!alive(&authority, &token));

    let authority = authority.access_lifetime(None);
    let token = authority.login().await.unwrap();
    clock.advance(10_000 * MINUTE);
    assert_eq!(token.lifetime(), None);
    assert!(alive(&authority, &token));
}

#[tokio::test]
async fn a_revocation_ends_what_its_name_says() {
    let authority = ModelAuthority::new();
    let older = authority.login().await.unwrap();
    let newer = authority.login().await.unwrap();
    authority.revoke_family();
    assert!(alive(&authority, &older) && !alive(&authority, &newer));
    assert!(refresh(&authority, &newer).await.is_err());
    authority.revoke_access();
    assert!(!alive(&authority, &older));
    let older = refresh(&authority, &older).await.unwrap();
    authority.revoke_refresh();
    assert!(alive(&authority, &older));
    assert!(refresh(&authority, &older).await.is_err());
    let last = authority.login().await.unwrap();
    authority.revoke_all();
    assert!(!alive(&authority, &last));
    assert!(refresh(&authority, &last).await.is_err());
}

#[tokio::test]
async fn a_login_code_works_once() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let (_, answer) = post_json(&authority, "/code", json!({})).await?;
    for code in [answer["code"].as_str().unwrap(), &authority.issue_code()] {
        let exchange = json!({ "account": code, "type": 100 });
        let (status, answer) = post_json(&authority, "/token", exchange.clone()).await?;
        assert_eq!(status, StatusCode::OK);
        assert!(authority.is_alive(answer["token"].as_str().unwrap()));
        let (status, answer) = post_json(&authority, "/token", exchange).await?;
        assert_eq!((status, answer), (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" })));
    }
    let counts = authority.counts();
    assert_eq!((counts.codes, counts.exchanges), (1, 4));
    Ok(())
}

#[tokio::test]
async fn a_client_gets_a_token_without_a_refresh_token_and_a_code_gets_both_once() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let oauth =
        async |form: &str| post(&authority, "/oauth/token", "application/x-www-form-urlencoded", form).await;
    let (status, answer) = oauth("grant_type=client_credentials").await?;
    assert_eq!((status, &answer["expires_in"]), (StatusCode::OK, &json!(7200)));
    assert!(authority.is_alive(answer["access_token"].as_str().unwrap()));
    assert!(answer.get("refresh_token").is_none());

    let form = format!("grant_type=authorization_code&code={}", authority.issue_code());
    let (_, answer) = oauth(&form).await?;
    authority.refresh(answer["refresh_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(oauth(&form).await?, (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" })));
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.exchanges, counts.token_calls()), (1, 2, 4));
    Ok(())
}

#[tokio::test]
async fn a_refresh_token_is_good_once_in_json_as_in_a_form() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let first = json!({ "refresh_token": authority.login().await.unwrap().refresh().unwrap().expose() });
    let (status, answer) = post_json(&authority, "/refresh", first.clone()).await?;
    assert_eq!((status, &answer["expires_in"]), (StatusCode::OK, &json!(7200)));
    assert!(authority.is_alive(answer["access_token"].as_str().unwrap()));
    let refused = (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" }));
    assert_eq!(post_json(&authority, "/refresh", first).await?, refused);
    let counts = authority.counts();
    assert_eq!((counts.refreshes, counts.presented_again(), counts.family_deaths), (2, 1, 1));
    Ok(())
}

#[tokio::test]
async fn verify_tells_the_living_from_the_dead() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let token = json!({ "token": authority.login().await.unwrap().access().expose() });
    assert_eq!(post_json(&authority, "/token/verify", token.clone()).await?.1, json!({ "isValid": true }));
    authority.revoke_access();
    assert_eq!(post_json(&authority, "/token/verify", token).await?.1, json!({ "isValid": false }));
    assert_eq!(authority.counts().verifies, 2);
    Ok(())
}

#[tokio::test]
async fn a_request_out_of_shape_is_refused_and_not_counted() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let form = "application/x-www-form-urlencoded";
    let cases = [
        ("/login", "application/json", r#"{"account":"alice"}"#, 400, "invalid_request"),
        ("/refresh", "application/json", r#"{"refresh_token":1}"#, 400, "invalid_request"),
        ("/token", "application/json", r#"{"account":"code","type":1}"#, 400, "invalid_request"),
        ("/token/verify", "application/json", "token", 400, "invalid_request"),
        (
            "/oauth/token",
            "application/json",
            "grant_type=refresh_token&refresh_token=x",
            400,
            "invalid_request",
        ),
        ("/oauth/token", form, "grant_type=refresh_token", 400, "invalid_request"),
        ("/oauth/token", form, "grant_type=refresh_token&refresh_token=", 400, "invalid_request"),
        (
            "/oauth/token",
            form,
            "grant_type=refresh_token&refresh_token=a&refresh_token=b",
            400,
            "invalid_request",
        ),
        ("/oauth/token", form, "grant_type=magic", 400, "unsupported_grant_type"),
        ("/oauth/token", form, "grant_type=password&username=alice&password=x", 400, "invalid_grant"),
        ("/elsewhere", form, "", 404, "not_found"),
        ("/login", "text/plain", r#"{"account":"alice","password":"wonderland"}"#, 400, "invalid_request"),
        ("/token", "", r#"{"account":"code","type":100}"#, 400, "invalid_request"),
        ("/token/verify", form, r#"{"token":"access-1"}"#, 400, "invalid_request"),
    ];
    for (path, content_type, body, status, error) in cases {
        let (is, answer) = post(&authority, path, content_type, body).await?;
        assert_eq!((is.as_u16(), &answer["error"]), (status, &json!(error)), "{path} {body}");
    }
    assert_eq!(authority.counts(), Counts { logins: 1, max_in_flight: 1, ..Counts::default() });
    assert_eq!(authority.requests()[8].body, "grant_type=magic");
    for path in ["/login", "/oauth/token"] {
        let request = Request::get(path).header("content-type", form);
        let request = request.body(ModelBody::from("grant_type=client_credentials".to_owned()))?;
        let answer = authority.clone().oneshot(request).await?;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(authority.counts().logins, 1);
    Ok(())
}

#[tokio::test]
async fn scripted_failures_come_in_their_order_and_then_for_ever_until_healed() -> Result<(), BoxError> {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap();
    authority.fail_always(Endpoint::Refresh, Failure::Html(StatusCode::FORBIDDEN));
    authority.fail_next(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    authority.fail_next(Endpoint::Refresh, Failure::RetryAfter(StatusCode::TOO_MANY_REQUESTS, MINUTE));
    authority.fail_next(Endpoint::Refresh, Failure::OAuth("temporarily_unavailable"));
    authority.fail_next(Endpoint::Refresh, Failure::Garbage);
    authority.fail_next(Endpoint::Refresh, Failure::EmptyObject);
    authority.fail_next(Endpoint::Refresh, Failure::NullToken);
    authority.fail_next(Endpoint::Refresh, Failure::Reset);
    let mut waits = Vec::new();
    for _ in 0..9 {
        let failure = refresh(&authority, &token).await.unwrap_err();
        assert_eq!(failure.class(), FailureClass::Transient);
        waits.extend(failure.into_error().retry_after());
    }
    assert_eq!(waits, [MINUTE]);
    authority.heal(Endpoint::Refresh);
    assert!(refresh(&authority, &token).await.is_ok(), "no failure spent the refresh token");
    let presented = BTreeMap::from([(1, 10)]);
    assert_eq!(authority.counts().presented, presented);
    Ok(())
}

#[tokio::test]
async fn a_token_is_what_was_handed_out_to_the_letter() {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap();
    let (access, refresh) = (token.access().expose(), refresh_token(&token));
    assert!(!authority.is_alive(&access.replace("access-1", "access-01")));
    for other in [format!("{refresh}&x=1"), refresh.replace("refresh-1", "refresh-+1")] {
        assert_eq!(class(authority.refresh(&other).await), FailureClass::LoginRequired, "{other}");
    }
    let counts = authority.counts();
    assert_eq!((counts.presented_again(), counts.presented), (0, BTreeMap::from([(0, 2)])));
    assert!(authority.refresh(refresh).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_has_spent_the_refresh_token() {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap();
    authority.fail_next(Endpoint::Refresh, Failure::LostAnswer);
    assert_eq!(class(refresh(&authority, &token).await), FailureClass::Transient);
    assert_eq!(class(refresh(&authority, &token).await), FailureClass::LoginRequired);
    assert_eq!(authority.counts().family_deaths, 1);
}

#[tokio::test]
async fn a_hanging_call_is_in_flight_until_it_is_dropped() {
    let authority = ModelAuthority::new();
    authority.fail_next(Endpoint::Login, Failure::Hang);
    let mut hanging = spawn(authority.login());
    assert_pending!(hanging.poll());
    assert!(authority.login().await.is_ok());
    drop(hanging);
    assert!(authority.login().await.is_ok());
    assert_eq!(authority.counts().max_in_flight, 2);
}

#[tokio::test]
async fn a_held_call_is_counted_and_nothing_is_done_yet() {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap();
    let gate = authority.hold(Endpoint::Refresh);
    let mut call = spawn(refresh(&authority, &token));
    assert_pending!(call.poll());
    gate.waiting(1).await;
    assert_eq!(authority.counts().refreshes, 1);
    assert!(authority.login().await.is_ok(), "other endpoints are not held");
    authority.revoke_refresh();
    gate.open();
    assert_eq!(class(assert_ready!(call.poll())), FailureClass::LoginRequired);
}

#[tokio::test]
async fn the_source_refreshes_what_it_is_given_and_else_logs_in() {
    let authority = ModelAuthority::new();
    let source = authority.source();
    let cx = FetchContext::new(Cause::Absent);
    let token = source.fetch(cx.clone()).await.unwrap();
    source.fetch(cx.with_refresh_token(token.refresh())).await.unwrap();
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 1));
}

#[tokio::test]
async fn authorities_do_not_take_each_others_tokens() {
    let (one, other) = (ModelAuthority::new(), ModelAuthority::new());
    let token = one.login().await.unwrap();
    other.login().await.unwrap();
    assert!(!alive(&other, &token));
    assert!(refresh(&other, &token).await.is_err());
    assert_eq!(other.counts().presented, BTreeMap::from([(0, 1)]));
}

#[tokio::test]
async fn debug_shows_no_token_and_no_password() {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap();
    let answer = refresh(&authority, &token).await;
    let shown = format!("{authority:?} {:?} {:?} {answer:?}", authority.requests(), authority.counts());
    for secret in ["access-", "refresh-", "wonderland"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn refresh_token(token: &Token) -> &str {
    token.refresh().expect("a token with a refresh token").expose()
}

async fn refresh(authority: &ModelAuthority, token: &Token) -> Result<Token, FetchError> {
    authority.refresh(refresh_token(token)).await
}

fn alive(authority: &ModelAuthority, token: &Token) -> bool {
    authority.is_alive(token.access().expose())
}

fn class(answer: Result<Token, FetchError>) -> FailureClass {
    answer.expect_err("a failure").class()
}

async fn post_json(
    authority: &ModelAuthority,
    path: &str,
    body: Value,
) -> Result<(StatusCode, Value), BoxError> {
    post(authority, path, "application/json", &body.to_string()).await
}

async fn post(
    authority: &ModelAuthority,
    path: &str,
    content_type: &str,
    body: &str,
) -> Result<(StatusCode, Value), BoxError> {
    let body = ModelBody::from(body.to_owned());
    let request = Request::post(path).header("content-type", content_type).body(body)?;
    let answer = authority.clone().oneshot(request).await?;
    Ok((answer.status(), serde_json::from_slice(answer.body().bytes())?))
}
