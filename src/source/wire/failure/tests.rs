use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::source::{
    FailureClass,
    wire::{JsonAnswer, Reading},
};
use FailureClass::{Ambiguous, Configuration, LoginRequired, Transient, Unanswered};

/// The class, and whether a chain of sources goes on.
fn class(reading: &Reading, grant: Grant, status: u16, body: &str) -> (FailureClass, bool) {
    class_with(reading, grant, status, "application/json", body)
}

fn class_with(
    reading: &Reading,
    grant: Grant,
    status: u16,
    content_type: &'static str,
    body: &str,
) -> (FailureClass, bool) {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let answer = Answer::new(StatusCode::from_u16(status).unwrap(), headers, body.as_bytes().to_vec().into());
    let failure = reading.token(grant, &answer).expect_err("no token");
    (failure.class(), failure.allows_fallback())
}

const HTML: &str = "<!doctype html><title>error=invalid_grant&error=invalid_grant</title>";

#[test]
fn only_a_parsed_refusal_of_the_grant_ends_a_session() {
    let reading = Reading::default();
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_grant"}"#, LoginRequired),
        (401, r#"{"error":"invalid_grant","error_description":"revoked"}"#, LoginRequired),
        (400, r#"{"error":"invalid_client"}"#, Configuration),
        (401, r#"{"error":"invalid_client"}"#, Configuration),
        (400, r#"{"error":"unauthorized_client"}"#, Configuration),
        (400, r#"{"error":"invalid_scope"}"#, Configuration),
        (400, r#"{"error":"invalid_request"}"#, Configuration),
        (400, r#"{"error":"unsupported_grant_type"}"#, Configuration),
        (403, r#"{"error":"invalid_target"}"#, Configuration),
        (400, r#"{"error":"invalid_resource"}"#, Configuration),
        (400, r#"{"error":"invalid_dpop_proof"}"#, Configuration),
        (400, r#"{"error":"invalid_authorization_details"}"#, Configuration),
        (400, r#"{"error":"temporarily_unavailable"}"#, Transient),
        (400, r#"{"error":"server_error"}"#, Transient),
        (503, r#"{"error":"invalid_grant"}"#, Transient),
        (500, r#"{"error":"temporarily_unavailable"}"#, Transient),
        (500, r#"{"error":"server_error"}"#, Unanswered),
        (500, r#"{"error":"invalid_grant"}"#, Unanswered),
        (502, HTML, Unanswered),
        (504, "", Unanswered),
        (408, "", Transient),
        (425, "", Transient),
        (429, r#"{"error":"invalid_grant"}"#, Transient),
        (503, HTML, Transient),
        (400, "", Ambiguous),
        (401, "", Ambiguous),
        (403, HTML, Ambiguous),
        (404, HTML, Ambiguous),
        (403, r#"{"error":"Forbidden"}"#, Ambiguous),
        (400, r#"{"error":"a_code_of_its_own"}"#, Ambiguous),
        (400, r#"{"error":{"code":"invalid_grant"}}"#, Ambiguous),
        (400, r#"[{"error":"invalid_grant"}]"#, Ambiguous),
        (400, r#"{"error":"invalid_grant","error":"invalid_grant"}"#, Ambiguous),
        (400, r#"{"error":"invalid_grant""#, Ambiguous),
        (400, r#"{"error":"invalid_grant","error_description":"cut \ud83d"}"#, LoginRequired),
        (400, r#"{"error":"invalid_grant","more":{"a":1,"a":2}}"#, LoginRequired),
        (301, r#"{"error":"invalid_grant"}"#, Ambiguous),
        (302, "", Ambiguous),
        (307, "", Ambiguous),
        (200, r#"{"error":"invalid_grant"}"#, LoginRequired),
        (200, r#"{"error":"busy","access_token":"a"}"#, Transient),
        (200, r#"{"access_token":"","refresh_token":"r"}"#, Unanswered),
        (200, r#"{"access_token":"a","refresh_tok"#, Unanswered),
        (200, r#"{"error":{"code":"busy"}}"#, Unanswered),
        (200, "{}", Unanswered),
        (200, HTML, Unanswered),
        (204, "", Unanswered),
    ] {
        let found = class(&reading, Grant::Refresh, status, body);
        assert_eq!(found, (expected, expected == LoginRequired), "{status} {body}");
    }
}

#[test]
fn a_refresh_token_without_an_access_token_of_use_comes_of_a_refresh_that_has_not_failed() {
    let fields = JsonAnswer::new().business_code("/errcode").unwrap();
    let reading = Reading { fields, codes: GivenCodes::default() };
    let read = |grant, status, body: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer::new(status, HeaderMap::new(), body.as_bytes().to_vec().into());
        let failure = reading.token(grant, &answer).expect_err("no token");
        failure.refresh_token.map(|refresh| refresh.expose().to_owned())
    };
    const ALONE: &str = r#"{"access_token":"","refresh_token":"r"}"#;
    assert_eq!(read(Grant::Refresh, 200, ALONE).as_deref(), Some("r"));
    for grant in [Grant::Client, Grant::OAuthLogin, Grant::JsonLogin, Grant::LoginCode] {
        assert_eq!(read(grant, 200, ALONE), None, "{grant:?}");
    }
    for (status, body) in [
        (400, ALONE),
        (200, r#"{"error":"busy","refresh_token":"r"}"#),
        (200, r#"{"errcode":7,"refresh_token":"r"}"#),
        (200, r#"{"access_token":"","refresh_token":""}"#),
        (200, r#"{"access_token":"","refresh_token":7}"#),
    ] {
        assert_eq!(read(Grant::Refresh, status, body), None, "{body}");
    }
}

#[test]
fn a_refresh_token_may_be_spent_by_an_answer_that_cannot_be_used_but_not_by_a_page() {
    let fields = JsonAnswer::new().business_code("/errcode").unwrap();
    let reading = Reading { fields, codes: GivenCodes::default() };
    let class = |content_type, body| class_with(&reading, Grant::Refresh, 200, content_type, body).0;
    let cut = r#"{"access_token":"a","refresh_tok"#;
    for content_type in
        ["application/json", "Application/JSON; charset=utf-8", "text/json", "application/vnd.id+json"]
    {
        assert_eq!(class(content_type, cut), Unanswered, "{content_type}");
    }
    assert_eq!(class("text/plain", r#"{"access_token":""}"#), Unanswered, "it is JSON all the same");
    assert_eq!(class("application/x-www-form-urlencoded", "access_token=&refresh_token=r"), Unanswered);
    assert_eq!(class("application/x-www-form-urlencoded", "access_token=a&access_token=b"), Unanswered);
    for content_type in ["text/html", "text/plain", "", "application/jsonp"] {
        assert_eq!(class(content_type, cut), Transient, "{content_type}");
        assert_eq!(class(content_type, HTML), Transient, "{content_type}");
    }
    // The authority has refused, so it has given nothing.
    assert_eq!(class("application/json", r#"{"errcode":40013,"access_token":"a"}"#), Transient);
    assert_eq!(class("application/json", r#"{"errcode":0}"#), Unanswered);
}

#[test]
fn the_refusal_may_come_as_a_form() {
    let form = "application/x-www-form-urlencoded; charset=utf-8";
    let class = |content_type, body| class_with(&Reading::default(), Grant::Refresh, 400, content_type, body);
    assert_eq!(class(form, "error_description=no+more&error=invalid_grant"), (LoginRequired, true));
    assert_eq!(class(form, "\u{feff}error=invalid_grant"), (LoginRequired, true));
    assert_eq!(class(form, "error=invalid_grant&error=x"), (Ambiguous, false));
    assert_eq!(class("text/html", "x&error=invalid_grant"), (Ambiguous, false));
    // What is said to be one and is JSON.
    assert_eq!(class(form, " {\"error\":\"invalid_grant\"}"), (LoginRequired, true));
    assert_eq!(class(form, "\u{feff} {\"error\":\"invalid_grant\"}"), (LoginRequired, true));
    assert_eq!(class(form, "{\"error\":\"invalid_grant\""), (Ambiguous, false));
}

#[test]
fn blocked_accounts_and_calls_for_a_person_have_no_fallback() {
    for code in [
        "access_denied",
        "mfa_required",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
    ] {
        for grant in [Grant::Refresh, Grant::OAuthLogin, Grant::JsonLogin, Grant::LoginCode] {
            let body = format!(r#"{{"error":"{code}"}}"#);
            assert_eq!(class(&Reading::default(), grant, 403, &body), (LoginRequired, false), "{code}");
            if grant != Grant::Refresh {
                assert_eq!(class(&Reading::default(), grant, 200, &body), (LoginRequired, false), "{code}");
            }
        }
    }
}

#[test]
fn a_login_is_refused_by_whatever_does_not_ask_for_another_time() {
    let fields = JsonAnswer::new().business_code("/errcode").unwrap().transient_codes(["-1", "B0001"]);
    let reading = Reading { fields, codes: GivenCodes::default() };
    for (status, body, expected) in [
        (400, "", LoginRequired),
        (401, HTML, LoginRequired),
        (403, r#"{"error":"invalid_client"}"#, LoginRequired),
        (404, "", LoginRequired),
        (422, r#"{"errcode":7}"#, LoginRequired),
        (200, r#"{"errcode":40013}"#, LoginRequired),
        (200, r#"{"errcode":"40013"}"#, LoginRequired),
        (200, r#"{"errcode":40013,"access_token":"a"}"#, LoginRequired),
        (200, r#"{"errcode":-1,"access_token":"a"}"#, Transient),
        (400, r#"{"errcode":-1}"#, Transient),
        (200, r#"{"errcode":"none","access_token":"a"}"#, Ambiguous),
        (200, r#"{"errcode":"none","access_token":["a"]}"#, Ambiguous),
        (200, r#"{"errcode":"A0210"}"#, LoginRequired),
        (200, r#"{"errcode":"B0001"}"#, Transient),
        (400, r#"{"errcode":"B0001"}"#, Transient),
        (400, r#"{"error":"temporarily_unavailable","errcode":"A0210"}"#, Transient),
        (503, r#"{"errcode":"A0210"}"#, Transient),
        (500, r#"{"errcode":"A0210"}"#, Unanswered),
        (302, r#"{"errcode":"A0210"}"#, Ambiguous),
        (200, r#"{"errcode":["A0210"]}"#, Ambiguous),
        (200, r#"{"errcode":0}"#, Ambiguous),
        (408, "", Transient),
        (425, "", Transient),
        (429, r#"{"errcode":7}"#, Transient),
        (503, r#"{"errcode":7}"#, Transient),
        (500, r#"{"errcode":7}"#, Unanswered),
        (302, "", Ambiguous),
    ] {
        assert_eq!(class(&reading, Grant::JsonLogin, status, body).0, expected, "{status} {body}");
    }
}

#[test]
fn a_refusal_of_a_login_code_ends_no_session_unless_it_speaks_of_the_user() {
    let fields = JsonAnswer::new().business_code("/errcode").unwrap().transient_codes([-1]);
    let codes = GivenCodes { dead: vec!["gone".into(), "40003".into()], blocked: vec!["banned".into()] };
    let reading = Reading { fields, codes };
    let (over, refused) = ((LoginRequired, true), (Ambiguous, false));
    for (status, body, expected) in [
        (400, "", refused),
        (401, HTML, refused),
        (403, HTML, refused),
        (404, "", refused),
        (400, r#"{"error":"a_code_of_its_own"}"#, refused),
        (401, r#"{"error":"invalid_client"}"#, refused),
        (401, r#"{"error":"server_error"}"#, refused),
        (400, r#"{"error":"server_error"}"#, refused),
        (422, r#"{"errcode":7}"#, refused),
        (200, r#"{"errcode":40029}"#, refused),
        (200, r#"{"errcode":"40029","access_token":"a"}"#, refused),
        (200, r#"{"error":"a_code_of_its_own"}"#, refused),
        (200, HTML, refused),
        (400, r#"{"error":"invalid_grant"}"#, over),
        (200, r#"{"error":"invalid_grant"}"#, over),
        (400, r#"{"error":"invalid_grant","errcode":40029}"#, over),
        (400, r#"{"error":"gone"}"#, over),
        (200, r#"{"errcode":40003}"#, over),
        (403, r#"{"error":"banned"}"#, (LoginRequired, false)),
        (403, r#"{"error":"access_denied","errcode":40029}"#, (LoginRequired, false)),
        (400, r#"{"errcode":-1}"#, (Transient, false)),
        (401, r#"{"error":"temporarily_unavailable"}"#, (Transient, false)),
        (429, r#"{"errcode":7}"#, (Transient, false)),
        (500, r#"{"errcode":7}"#, (Transient, false)),
    ] {
        assert_eq!(class(&reading, Grant::LoginCode, status, body), expected, "{status} {body}");
    }
}

#[test]
fn a_login_by_oauth_tells_the_clients_faults_from_the_users() {
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_grant"}"#, LoginRequired),
        (401, r#"{"error":"invalid_client"}"#, Configuration),
        (400, r#"{"error":"invalid_target"}"#, Configuration),
        (400, r#"{"error":"invalid_resource"}"#, Configuration),
        (400, r#"{"error":"invalid_dpop_proof"}"#, Configuration),
        (400, r#"{"error":"invalid_authorization_details"}"#, Configuration),
        (403, HTML, LoginRequired),
    ] {
        assert_eq!(
            class(&Reading::default(), Grant::OAuthLogin, status, body).0,
            expected,
            "{status} {body}"
        );
    }
}

#[test]
fn an_authority_that_wants_a_nonce_has_looked_at_nothing_else() {
    let body = r#"{"error":"use_dpop_nonce","error_description":"Authorization server requires nonce"}"#;
    let of = |reading: &Reading, grant, status| {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer::new(status, HeaderMap::new(), body.as_bytes().to_vec().into());
        let failure = reading.token(grant, &answer).expect_err("no token");
        (failure.class(), failure.was_not_processed)
    };
    let named = GivenCodes { dead: vec!["use_dpop_nonce".into()], blocked: Vec::new() };
    let named = Reading { fields: JsonAnswer::new(), codes: named };
    for grant in [Grant::Refresh, Grant::Client, Grant::OAuthLogin, Grant::JsonLogin, Grant::LoginCode] {
        for status in [200, 400, 401] {
            let found = of(&Reading::default(), grant, status);
            assert_eq!(found, (Transient, true), "{grant:?} {status}");
            assert_eq!(of(&named, grant, status), (LoginRequired, false), "{grant:?} {status}");
        }
    }
}

#[test]
fn a_login_takes_an_error_of_the_server_for_a_refusal_at_a_401_and_for_a_strike_elsewhere() {
    for (status, body, at_a_login, at_a_refresh) in [
        (401, r#"{"error":"server_error","error_description":"access_denied"}"#, LoginRequired, Transient),
        (403, r#"{"error":"server_error"}"#, LoginRequired, Transient),
        (400, r#"{"error":"server_error"}"#, Ambiguous, Transient),
        (200, r#"{"error":"server_error"}"#, Ambiguous, Transient),
        (500, r#"{"error":"server_error"}"#, Unanswered, Unanswered),
        (401, r#"{"error":"temporarily_unavailable"}"#, Transient, Transient),
        (403, r#"{"error":"slow_down"}"#, Transient, Transient),
    ] {
        let class = |grant| class(&Reading::default(), grant, status, body);
        let expected = (at_a_login, at_a_login == LoginRequired);
        assert_eq!([Grant::OAuthLogin, Grant::JsonLogin].map(class), [expected; 2], "{status} {body}");
        assert_eq!(class(Grant::Refresh), (at_a_refresh, false), "{status} {body}");
    }
}

#[test]
fn a_login_that_is_refused_at_status_200_is_refused() {
    for (body, as_user, as_login) in [
        (r#"{"error":"invalid_grant"}"#, LoginRequired, LoginRequired),
        (r#"{"error":"wrong_password"}"#, LoginRequired, LoginRequired),
        (r#"{"error":"wrong_password","access_token":"a"}"#, LoginRequired, LoginRequired),
        (r#"{"error":"invalid_client"}"#, Configuration, LoginRequired),
        (r#"{"error":"temporarily_unavailable"}"#, Transient, Transient),
        // It may have been a refusal: it counts as a strike.
        (r#"{"success":false,"message":"wrong password"}"#, Ambiguous, Ambiguous),
        (r#"{"error":{"code":"wrong_password"}}"#, Ambiguous, Ambiguous),
        (r#"{"access_token":""}"#, Ambiguous, Ambiguous),
        ("{}", Ambiguous, Ambiguous),
        (HTML, Ambiguous, Ambiguous),
        ("", Ambiguous, Ambiguous),
    ] {
        let class = |grant| class(&Reading::default(), grant, 200, body).0;
        assert_eq!((class(Grant::OAuthLogin), class(Grant::JsonLogin)), (as_user, as_login), "{body}");
    }
    // What asks for another time does so at any status.
    for grant in [Grant::OAuthLogin, Grant::JsonLogin] {
        let busy = class(&Reading::default(), grant, 400, r#"{"error":"temporarily_unavailable"}"#);
        assert_eq!(busy, (Transient, false));
    }
}

#[test]
fn nothing_but_the_users_own_codes_ends_the_session_of_a_client_and_nothing_is_spent_by_it() {
    let codes = GivenCodes { dead: vec!["gone".into()], blocked: vec!["banned".into()] };
    let reading = Reading { fields: JsonAnswer::new(), codes };
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_client"}"#, Configuration),
        (400, r#"{"error":"invalid_grant"}"#, Configuration),
        (401, r#"{"error":"access_denied"}"#, Configuration),
        (403, r#"{"error":"mfa_required"}"#, Configuration),
        (400, r#"{"error":"a_code_of_its_own"}"#, Configuration),
        (400, r#"{"error":"gone"}"#, LoginRequired),
        (200, r#"{"error":"banned"}"#, LoginRequired),
        (400, r#"{"error":"server_error"}"#, Transient),
        (429, r#"{"error":"invalid_client"}"#, Transient),
        (400, r#"{"error":{"code":"invalid_client"}}"#, Transient),
        (403, HTML, Transient),
        (404, "", Transient),
        (302, "", Transient),
        (200, r#"{"error":"invalid_client"}"#, Transient),
        (200, r#"{"access_token":""}"#, Transient),
        (200, HTML, Transient),
        (500, r#"{"error":"invalid_client"}"#, Transient),
        (502, HTML, Transient),
    ] {
        assert_eq!(class(&reading, Grant::Client, status, body).0, expected, "{status} {body}");
    }
}

#[test]
fn a_text_in_the_place_of_the_business_code_refuses_a_client_as_a_number_does() {
    let fields = JsonAnswer::new().business_code("/code").unwrap().transient_codes([-1]);
    let reading = Reading { fields, codes: GivenCodes::default() };
    for (status, body, expected) in [
        (401, r#"{"code":"WRONG_SECRET"}"#, Configuration),
        (401, r#"{"code":7}"#, Configuration),
        (400, r#"{"code":-1}"#, Transient),
        (400, r#"{"code":"WRONG_SECRET","error":"temporarily_unavailable"}"#, Transient),
        (429, r#"{"code":"WRONG_SECRET"}"#, Transient),
        (401, r#"{"code":""}"#, Transient),
        (403, r#"{"code":0}"#, Transient),
        (403, r#"{"code":"0"}"#, Transient),
        (403, r#"{"code":"0.0","error":"Forbidden"}"#, Configuration),
        (401, r#"{"message":"WRONG_SECRET"}"#, Transient),
    ] {
        assert_eq!(class(&reading, Grant::Client, status, body), (expected, false), "{status} {body}");
    }
    let at_a_refresh = class(&reading, Grant::Refresh, 401, r#"{"code":"WRONG_SECRET"}"#);
    assert_eq!(at_a_refresh, (Ambiguous, false), "nobody knows what it speaks of");
}

#[test]
fn a_407_is_a_proxys_and_refuses_nothing() {
    let reading = Reading {
        fields: JsonAnswer::new().business_code("/errcode").unwrap(),
        codes: GivenCodes { dead: vec!["gone".into()], blocked: vec!["banned".into()] },
    };
    for grant in [Grant::Refresh, Grant::Client, Grant::OAuthLogin, Grant::JsonLogin, Grant::LoginCode] {
        for body in [
            "",
            HTML,
            r#"{"error":"invalid_grant"}"#,
            r#"{"error":"access_denied"}"#,
            r#"{"error":"gone"}"#,
            r#"{"errcode":40013}"#,
        ] {
            // Nothing is spent, and nobody can log in for a client: it asks again.
            let expected = if grant == Grant::Client { Transient } else { Ambiguous };
            assert_eq!(class(&reading, grant, 407, body), (expected, false), "{grant:?} {body}");
        }
    }
}

#[test]
fn codes_mean_what_the_user_says() {
    let fields = JsonAnswer::new().error("/error_code").unwrap();
    let codes = GivenCodes {
        dead: ["refresh_token_not_found", "invalid_request", "server_error"].map(Into::into).into(),
        blocked: vec!["user_banned".into()],
    };
    let reading = Reading { fields, codes };
    let class = |status, body| class(&reading, Grant::Refresh, status, body);
    assert_eq!(class(400, r#"{"error_code":"refresh_token_not_found"}"#), (LoginRequired, true));
    assert_eq!(class(400, r#"{"error_code":"invalid_request"}"#), (LoginRequired, true));
    assert_eq!(class(401, r#"{"error_code":"server_error"}"#), (LoginRequired, true));
    assert_eq!(class(403, r#"{"error_code":"user_banned"}"#), (LoginRequired, false));
    assert_eq!(class(200, r#"{"error_code":"refresh_token_not_found"}"#), (LoginRequired, true));
    assert_eq!(class(500, r#"{"error_code":"refresh_token_not_found"}"#), (Unanswered, false));
    assert_eq!(class(400, r#"{"error":"invalid_grant"}"#), (Ambiguous, false));
}

#[test]
fn a_code_that_is_an_integer_is_its_digits() {
    let codes = GivenCodes { dead: vec!["20026".into()], blocked: vec!["10007".into()] };
    let error = JsonAnswer::new();
    let business = JsonAnswer::new().business_code("/code").unwrap();
    for (fields, status, body, expected) in [
        (&error, 400, r#"{"error":20026}"#, (LoginRequired, true)),
        (&error, 200, r#"{"error":20026.0,"access_token":"a"}"#, (LoginRequired, true)),
        (&error, 403, r#"{"error":10007}"#, (LoginRequired, false)),
        (&error, 400, r#"{"error":20026.5}"#, (Ambiguous, false)),
        (&error, 400, r#"{"error":20027}"#, (Ambiguous, false)),
        (&error, 500, r#"{"error":20026}"#, (Unanswered, false)),
        (&business, 200, r#"{"code":20026,"msg":"refresh token invalid"}"#, (LoginRequired, true)),
        (&business, 200, r#"{"code":"20026"}"#, (LoginRequired, true)),
        (&business, 403, r#"{"error":"Forbidden","code":10007}"#, (LoginRequired, false)),
        (&business, 403, r#"{"error":20026,"code":1}"#, (LoginRequired, true)),
        (&business, 200, r#"{"code":20027}"#, (Transient, false)),
    ] {
        let reading = Reading { fields: fields.clone(), codes: codes.clone() };
        assert_eq!(class(&reading, Grant::Refresh, status, body), expected, "{status} {body}");
    }
    // It refuses a user's credentials as any other code does.
    assert_eq!(class(&Reading::default(), Grant::JsonLogin, 200, r#"{"error":7}"#).0, LoginRequired);
    assert_eq!(class(&Reading::default(), Grant::OAuthLogin, 200, r#"{"error":0}"#).0, Ambiguous);
}

#[test]
fn the_wait_that_is_asked_for_goes_with_every_class() {
    for status in [400, 429, 500, 503] {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("7"))]);
        let answer = Answer::new(StatusCode::from_u16(status).unwrap(), headers, Default::default());
        let failure = Reading::default().token(Grant::Refresh, &answer).unwrap_err();
        assert_eq!(failure.into_error().retry_after(), Some(Duration::from_secs(7)), "{status}");
    }
}
