//! Refresh tokens at an authority that does not speak OAuth 2.

use std::future::ready;

use tower_token_refresh::{
    FetchContext, FetchError, Session, Token, TokenSource,
    source::{
        AuthorityClient, Cause, Credentials, FailedCall, JsonAnswer, Password, RefreshToken, Verification,
        login::JsonVerify,
    },
    source_fn,
};

use crate::idp::{Bench, Idp, Say, cool_down, json};

fn refresh(client: impl Into<AuthorityClient>) -> RefreshToken {
    RefreshToken::new(client, "https://id.test/refresh".parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_presented_in_json_and_replaced_by_the_one_in_the_answer() {
    let idp = Idp::new([
        json(200, r#"{"access_token":"A","refresh_token":"R","expires_in":7200}"#),
        json(200, r#"{"access_token":"B"}"#),
        json(200, r#"{"access_token":"C"}"#),
    ]);
    let bench = Bench::logged_in(refresh(idp.clone())).await;
    for (access, refresh) in [("A", "R"), ("B", "R"), ("C", "R")] {
        bench.session.refresh().await.unwrap();
        assert_eq!(bench.stored().await, Some((access.into(), Some(refresh.into()))));
    }
    assert_eq!(
        idp.bodies(),
        [r#"{"refresh_token":"old-refresh"}"#, r#"{"refresh_token":"R"}"#, r#"{"refresh_token":"R"}"#]
    );
    let asked = idp.asked().remove(0);
    let sent = (asked.head.method.as_str(), asked.head.uri.to_string());
    assert_eq!(sent, ("POST", "https://id.test/refresh".to_owned()));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.head.headers.len(), 3, "no credential in the head");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_and_where_the_parts_of_the_answer_are_can_be_named_otherwise() {
    let idp = Idp::new([
        json(200, r#"{"code":200,"data":{"token":"A","refreshToken":"R"}}"#),
        json(200, r#"{"ok":false}"#),
    ]);
    let answer = JsonAnswer::new()
        .access_token("/data/token")
        .and_then(|answer| answer.refresh_token("/data/refreshToken")?.business_code("/code"))
        .unwrap()
        .success_codes([200]);
    let verify = JsonVerify::new("https://id.test/check".parse().unwrap()).valid("/ok").unwrap();
    let source = refresh(idp.clone())
        .field("refreshToken")
        .text("device", "h5")
        .text("refreshToken", "not this")
        .number("type", 2)
        .answer(answer)
        .verify_with(verify);
    let cx = FetchContext::new(Cause::Refused).with_refresh_token("old");
    let token = source.fetch(cx).await.unwrap();
    assert_eq!((token.access().expose(), token.refresh().unwrap().expose()), ("A", "R"));
    assert_eq!(source.verify(&token).await, Verification::Invalid);
    assert_eq!(idp.bodies(), [r#"{"refreshToken":"old","device":"h5","type":2}"#, r#"{"token":"A"}"#]);
}

#[tokio::test(start_paused = true)]
async fn only_a_code_that_says_so_ends_a_refresh_token() {
    let (over, transient) = ("LoginRequired", "Transient");
    for (say, class) in [
        (json(200, r#"{"code":40102}"#), over),
        (json(401, r#"{"code":"40102"}"#), over),
        (json(403, r#"{"error":"token_expired"}"#), over),
        (json(400, r#"{"error":"invalid_grant"}"#), over),
        (json(200, r#"{"code":40103}"#), transient),
        (json(200, r#"{"code":0}"#), "Unanswered"),
        (Say::Answer(200, "text/html", "<title>40102</title>".into()), transient),
        (json(401, r#"{"code":40103}"#), "Ambiguous"),
        (json(401, r#"{"message":"40102"}"#), "Ambiguous"),
        (json(429, r#"{"code":40102}"#), transient),
        (json(500, r#"{"code":40102}"#), "Unanswered"),
        (json(302, r#"{"code":40102}"#), "Ambiguous"),
    ] {
        let idp = Idp::new([say.clone()]);
        let source = refresh(idp).answer(JsonAnswer::new().business_code("/code").unwrap());
        let source = source.dead_codes([40102]).dead_codes(["token_expired"]);
        assert_eq!(Bench::logged_in(source).await.class().await, class, "{say:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_a_refresh_token_by_its_status_can_be_understood() {
    let idp = Idp::new([json(401, ""), json(200, r#"{"access_token":"A"}"#)]);
    let client = AuthorityClient::new(idp.clone()).classify_failures(|failed: &FailedCall<'_>| {
        (failed.answer()?.status() == 401).then(|| FetchError::login_required("the refresh token is refused"))
    });
    let login = Password::new(idp.clone(), "https://id.test/login".parse().unwrap(), || {
        ready(Ok(Credentials::new("alice", "wonderland")))
    });
    let bench = Bench::logged_in(refresh(client).or_else(login)).await;
    bench.session.refresh().await.unwrap();
    assert_eq!(
        idp.bodies(),
        [r#"{"refresh_token":"old-refresh"}"#, r#"{"account":"alice","password":"wonderland"}"#]
    );
    assert_eq!(bench.stored().await, Some(("A".into(), None)), "the one that was refused is not kept");
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_or_with_one_that_was_refused_the_next_source_is_asked_alone() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#)]);
    let login = source_fn(|_| async { Err(FetchError::transient("not at the moment")) });
    let session = Session::builder(refresh(idp.clone()).or_else(login)).build();
    assert!(session.token().await.unwrap_err().is_transient());
    assert!(idp.asked().is_empty(), "there was no refresh token");
    session.login(Token::from_refresh_token("R")).await.unwrap();
    for _ in 0..3 {
        assert!(session.token().await.unwrap_err().is_transient());
        cool_down().await;
        // Other credentials are not another refresh token.
        session.credentials_changed();
    }
    assert_eq!(idp.bodies(), [r#"{"refresh_token":"R"}"#]);
}
