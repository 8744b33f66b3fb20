//! What the user is told of an outcome.

use http::{Response, StatusCode};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Codes, ErrorCode, ErrorKind, FetchContext, FetchError, JsonCodeLayer, Session, Tips, Token,
    TokenRefreshLayer,
    peek::PeekBody,
    source_fn,
    test_util::ModelBody,
    tips::{Phase, Tip},
};

use crate::{
    script::{Answer, Lab, Reset, status, within},
    world::{World, get, origin},
};

fn tips() -> Tips {
    Tips::new([(1, "something went wrong"), (10006, "the token has expired")]).unwrap()
}

fn coded(code: u16, text: &'static str) -> Answer {
    let answer = Response::builder().status(code).header("content-type", "application/json");
    Ok(answer.body(ModelBody::from(text)).unwrap())
}

/// What comes of these answers, with codes read below the token refresh.
async fn outcome(
    answers: impl IntoIterator<Item = Answer>,
) -> Result<Response<PeekBody<ModelBody>>, BoxError> {
    let lab = Lab::new(answers);
    let refresh = TokenRefreshLayer::new(lab.session.clone(), origin())
        .classifier(Codes::reject([10006]).unwrap().at([403]).unwrap());
    within(refresh.layer(JsonCodeLayer::new().layer(lab.script())).oneshot(get("/me"))).await
}

#[track_caller]
fn check(tip: Option<Tip<'_>>, code: i64, text: &str, phase: Phase, status: Option<u16>) {
    let tip = tip.expect("there is something to tell");
    assert_eq!((tip.code(), tip.text(), tip.phase()), (code, text, phase));
    assert_eq!((tip.to_string().as_str(), tip.status().map(|status| status.as_u16())), (text, status));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_an_integer_code_has_code_1() {
    for (body, code) in [
        (r#"{"error_code":10006}"#, 10006),
        (r#"{"msg":"no code"}"#, 1),
        (r#"{"error_code":0}"#, 1),
        (r#"{"error_code":"10006"}"#, 1),
        (r#"{"error_code":10006.5}"#, 1),
        ("<html>Bad Gateway</html>", 1),
        ("", 1),
        ("null", 1),
        (r#"{"error_code":null}"#, 1),
    ] {
        let result = outcome([coded(400, body)]).await;
        assert_eq!(tips().explain(&result).unwrap().code(), code, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_code_keeps_its_number_and_gets_the_text_of_code_1() {
    let result = outcome([coded(400, r#"{"error_code":10006}"#)]).await;
    check(tips().explain(&result), 10006, "the token has expired", Phase::Send, Some(400));
    let result = outcome([coded(404, r#"{"error_code":-3}"#)]).await;
    check(tips().explain(&result), -3, "something went wrong", Phase::Send, Some(404));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_nobody_has_defined_is_told_of_from_400_on() {
    for code in [600, 999] {
        let result = outcome([status(code)]).await;
        check(tips().explain(&result), 1, "something went wrong", Phase::Send, Some(code));
    }
    assert!(tips().explain(&outcome([status(399)]).await).is_none());
}

#[test]
fn a_catalogue_without_code_1_is_refused() {
    for texts in [vec![], vec![(0, "fine"), (10006, "the token has expired")]] {
        let error = Tips::new(texts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(error.to_string().contains("code 1"));
    }
    let loaded = Tips::new([(1, String::from("from a file")), (1, String::from("twice"))]).unwrap();
    assert_eq!(loaded.text(7), "twice");
}

#[test]
fn the_ready_made_sets_speak_and_can_be_extended() {
    for tips in [Tips::zh(), Tips::en()] {
        assert!(!tips.text(1).is_empty());
        assert_eq!(tips.text(4711), tips.text(1));
        assert_ne!(tips.text(10006), tips.text(1));
        let tips = tips.with([(1, "oh"), (3000, "no such issue")]);
        assert_eq!((tips.text(4711), tips.text(3000)), ("oh", "no such issue"));
    }
    assert_ne!(Tips::zh().text(1), Tips::en().text(1));
}

#[tokio::test(start_paused = true)]
async fn looking_up_the_code_leaves_the_body_to_the_caller() {
    use http_body_util::BodyExt;

    const BODY: &str = r#"{"error_code":10006,"msg":"expired"}"#;
    let result = outcome([coded(400, BODY)]).await;
    assert_eq!(tips().explain(&result).unwrap().code(), 10006);
    assert_eq!(tips().explain(&result).unwrap().code(), 10006);
    assert_eq!(result.unwrap().into_body().collect().await.unwrap().to_bytes(), BODY);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_answer_explains_to_no_tip() {
    let expired = || coded(403, r#"{"error_code":10006}"#);
    for answers in [
        vec![status(200)],
        vec![status(304)],
        vec![coded(200, r#"{"error_code":"0"}"#)],
        vec![expired(), coded(200, r#"{"error_code":0}"#)],
    ] {
        let attempts = answers.len();
        let result = outcome(answers).await;
        assert!(tips().explain(&result).is_none(), "{attempts}");
    }
    let mut fine = Response::new(());
    fine.extensions_mut().insert(ErrorCode::from(0));
    assert!(tips().explain(&Ok(fine)).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_error_at_http_200_has_a_tip() {
    let result = outcome([coded(200, r#"{"error_code":4711}"#)]).await;
    check(tips().explain(&result), 4711, "something went wrong", Phase::Send, Some(200));
    let mut slack = Response::new(());
    slack.extensions_mut().insert(ErrorCode::from("channel_not_found"));
    check(tips().explain(&Ok(slack)), 1, "something went wrong", Phase::Send, Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_and_any_other_answer_after_it_are_of_the_resend() {
    let expired = || coded(403, r#"{"error_code":10006}"#);
    let result = outcome([expired(), expired()]).await;
    check(tips().explain(&result), 10006, "the token has expired", Phase::Resend, Some(403));
    let result = outcome([expired(), coded(500, r#"{"error_code":999}"#)]).await;
    check(tips().explain(&result), 999, "something went wrong", Phase::Resend, Some(500));
}

#[tokio::test(start_paused = true)]
async fn a_transport_error_is_code_1_and_the_cause() {
    let tips = tips();
    for answers in [vec![Err(Reset)], vec![coded(403, r#"{"error_code":10006}"#), Err(Reset)]] {
        let result = outcome(answers).await;
        let tip = tips.explain(&result);
        check(tip, 1, "something went wrong", Phase::Send, None);
        assert_eq!(tip.unwrap().cause().unwrap().downcast_ref(), Some(&Reset));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_told_with_its_causes() {
    use tower_token_refresh::test_util::{Endpoint, Failure};

    let tips = tips();
    let world = World::revoked().await;
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, ""));
    let result = world.get("/me").await;
    let tip = tips.explain(&result);
    check(tip, 1, "something went wrong", Phase::Refresh, Some(401));
    assert!(tip.unwrap().cause().unwrap().source().is_some(), "what the source said");

    let session = Session::builder(source_fn(|_: FetchContext| async {
        Err::<Token, _>(FetchError::login_required("a canary of a reason"))
    }));
    let lab = Lab::new([]);
    let client = TokenRefreshLayer::new(session.build(), origin()).layer(lab.script());
    let result = within(client.oneshot(get("/me"))).await;
    let tip = tips.explain(&result);
    check(tip, 1, "something went wrong", Phase::Refresh, None);
    let cause = tip.unwrap().cause().unwrap();
    assert!(tower_token_refresh::Error::find(cause).unwrap().is_login_required());
    assert_eq!(cause.source().unwrap().to_string(), "a canary of a reason");
    assert!(!format!("{tip:?}").contains("canary"));
}
