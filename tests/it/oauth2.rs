//! The grants of OAuth 2.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tokio::time::timeout;
use tower::{Layer, ServiceExt, retry::Retry};
use tower_token_refresh::{
    BoxError, ErrorKind, FetchError, Outcome, Secret, Session, Token, TokenRefreshLayer, TokenSource,
    source::{
        AppToken, AuthorityClient, AuthorityError, Content, Credentials, JsonAnswer, LoginCode, Password,
        oauth2::{
            AuthorizationCodeGrant, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant, TokenEndpoint,
        },
    },
    source_fn,
    store::{FileStore, MemoryStore, TokenStore},
    test_util::{Endpoint, Failure, ModelApi, ModelAuthority, Phase, Rotation, TestClock},
};

use crate::{
    gateways::Once,
    idp::{Bench, Idp, Say, cool_down, json},
    script::within,
    world::{get, origin},
};

const PAIR: &str =
    r#"{"access_token":"new-access","token_type":"bearer","expires_in":3600,"refresh_token":"new-refresh"}"#;
const LONE: &str = r#"{"access_token":"new-access"}"#;

pub(crate) fn endpoint(idp: &Idp) -> TokenEndpoint {
    TokenEndpoint::new(idp.clone(), "https://id.test/oauth/token".parse().unwrap())
}

pub(crate) fn of_model(authority: &ModelAuthority) -> TokenEndpoint {
    TokenEndpoint::new(authority.clone(), "https://id.test/oauth/token".parse().unwrap())
}

/// Alice's password, and how often it was asked for.
fn alice(
    asked: &Arc<AtomicUsize>,
) -> impl Fn() -> std::future::Ready<Result<Credentials, FetchError>> + Send + Sync + use<> {
    let asked = asked.clone();
    move || {
        asked.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Credentials::new("alice", "wonderland")))
    }
}

fn login(authority: &ModelAuthority) -> Password {
    Password::new(authority.clone(), "https://id.test/login".parse().unwrap(), alice(&Arc::default()))
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_a_form_without_any_credential_in_its_head() {
    let idp = Idp::new([json(200, PAIR)]);
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(&idp))).await;
    let token = bench.session.refresh().await.unwrap();
    let asked = idp.asked().remove(0);
    assert_eq!(asked.body, "grant_type=refresh_token&refresh_token=old-refresh");
    assert_eq!(
        (asked.head.method.as_str(), asked.head.uri.to_string().as_str()),
        ("POST", "https://id.test/oauth/token")
    );
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.header("accept"), Some("application/json"));
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
    assert_eq!(asked.head.headers.len(), 3, "no access token, nothing else");
    assert_eq!(token.access().expose(), "new-access");
    assert_eq!(token.kind(), Some("Bearer"));
    assert_eq!(bench.stored().await, Some(("new-access".into(), Some("new-refresh".into()))));
}

#[tokio::test(start_paused = true)]
async fn a_scope_resources_an_audience_and_more_are_sent_when_they_are_asked_for() {
    let idp = Idp::new([json(200, PAIR)]);
    let endpoint = endpoint(&idp)
        .scope("base")
        .scope("a b")
        .resource("https://one.test/")
        .resource("https://two.test/")
        .audience("api")
        .param("device", "7&8")
        .unwrap();
    Bench::logged_in(RefreshTokenGrant::new(endpoint)).await.session.refresh().await.unwrap();
    assert_eq!(
        idp.bodies(),
        ["grant_type=refresh_token&refresh_token=old-refresh&scope=a+b&resource=https%3A%2F%2Fone.test%2F\
          &resource=https%3A%2F%2Ftwo.test%2F&audience=api&device=7%268"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_is_given_again_replaces_the_one_before_unless_it_may_be_repeated() {
    let idp = Idp::new([json(200, PAIR)]);
    let mut endpoint = endpoint(&idp).resource("first").audience("first");
    for (name, value) in [("device", "first"), ("resource", "next"), ("audience", "next"), ("device", "next")]
    {
        endpoint = endpoint.param(name, value).unwrap();
    }
    Bench::logged_in(RefreshTokenGrant::new(endpoint)).await.session.refresh().await.unwrap();
    assert_eq!(
        idp.bodies(),
        ["grant_type=refresh_token&refresh_token=old-refresh&resource=first&audience=first&resource=next\
          &audience=next&device=next"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_would_stand_twice_is_refused_when_it_is_built() {
    for (name, why) in [
        ("grant_type", "the grant's own"),
        ("refresh_token", "the grant's own"),
        ("client_secret", "the grant's own"),
        ("code", "the grant's own"),
        ("scope", "has a method"),
        ("", "a name of at least one character"),
    ] {
        let refused = endpoint(&Idp::default()).param(name, "x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidValue, "{name}");
        assert!(refused.to_string().contains(why), "{name}: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_says_who_it_is_in_each_of_three_ways() {
    type Authenticated = fn(TokenEndpoint) -> TokenEndpoint;
    let cases: [(Authenticated, Option<&str>, &str); 4] = [
        (|endpoint| endpoint, None, ""),
        (|endpoint| endpoint.public_client("my app"), None, "&client_id=my+app"),
        (
            |endpoint| endpoint.client_secret_post("my:app", "s&cret"),
            None,
            "&client_id=my%3Aapp&client_secret=s%26cret",
        ),
        // base64("my%3Aapp:8Q~s%26cr%C3%A9t+%2B"), as RFC 6749 §2.3.1 has it; the tilde is for those who decode nothing.
        (
            |endpoint| endpoint.client_secret_basic("my:app", "8Q~s&crét +"),
            Some("Basic bXklM0FhcHA6OFF+cyUyNmNyJUMzJUE5dCslMkI="),
            "",
        ),
    ];
    for (authenticated, header, form) in cases {
        let idp = Idp::new([json(200, LONE)]);
        Bench::new(ClientCredentialsGrant::new(authenticated(endpoint(&idp)))).session.token().await.unwrap();
        let asked = idp.asked().remove(0);
        assert_eq!(asked.header("authorization"), header);
        assert_eq!(asked.body, format!("grant_type=client_credentials{form}"));
    }
}

#[tokio::test(start_paused = true)]
async fn passwords_and_codes_are_presented_as_forms() {
    let idp = Idp::new([json(200, PAIR)]);
    let source = PasswordGrant::new(endpoint(&idp).public_client("app"), alice(&Arc::default()));
    Bench::new(source).session.token().await.unwrap();
    assert_eq!(idp.bodies(), ["grant_type=password&username=alice&password=wonderland&client_id=app"]);

    let idp = Idp::new([json(200, PAIR)]);
    let source =
        AuthorizationCodeGrant::new(endpoint(&idp).public_client("app"), "the code", "http://127.0.0.1:7/")
            .pkce_verifier("proof");
    Bench::new(source).session.token().await.unwrap();
    assert_eq!(
        idp.bodies(),
        ["grant_type=authorization_code&code=the+code&redirect_uri=http%3A%2F%2F127.0.0.1%3A7%2F\
          &code_verifier=proof&client_id=app"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_is_the_next_one_presented_and_an_omitted_one_stays() {
    let idp =
        Idp::new([json(200, PAIR), json(200, LONE), json(200, r#"{"access_token":"a","refresh_token":""}"#)]);
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(&idp))).await;
    for _ in 0..3 {
        bench.session.refresh().await.unwrap();
    }
    let presented: Vec<_> =
        idp.bodies().iter().map(|body| body.rsplit('=').next().unwrap().to_owned()).collect();
    assert_eq!(presented, ["old-refresh", "new-refresh", "new-refresh"]);
    assert_eq!(bench.stored().await.unwrap().1.as_deref(), Some("new-refresh"));
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_comes_before_the_password() {
    let authority = ModelAuthority::new();
    let bench = Bench::new(RefreshTokenGrant::new(of_model(&authority)).or_else(login(&authority)));
    bench.session.token().await.unwrap();
    authority.revoke_access();
    bench.session.refresh().await.unwrap();
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_refused_stays_so_although_the_credentials_have_changed() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#)]);
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(&idp))).await;
    for _ in 0..3 {
        assert_eq!(bench.class().await, "LoginRequired");
        bench.session.credentials_changed();
    }
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_the_authority_is_not_asked_for_a_refresh() {
    let idp = Idp::default();
    let bench = Bench::new(RefreshTokenGrant::new(endpoint(&idp)));
    let (class, error) = bench.failure().await;
    assert_eq!(class, "LoginRequired");
    assert!(error.is_login_required());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "there is no refresh token");
    assert!(idp.asked().is_empty());
}

/// Nobody has logged in yet, so that there is no session that could be over.
#[tokio::test(start_paused = true)]
async fn who_has_never_logged_in_is_told_to_and_not_that_a_session_is_over() {
    let bench = Bench::new(RefreshTokenGrant::new(endpoint(&Idp::default())));
    let (_, error) = bench.failure().await;
    assert_eq!(error.to_string(), "a login is required: there is nothing left to get a token with");
}

#[tokio::test(start_paused = true)]
async fn a_dead_refresh_token_leads_to_one_login_and_every_request_is_resent() {
    let authority = ModelAuthority::new();
    let api = ModelApi::new(authority.clone());
    let source = RefreshTokenGrant::new(of_model(&authority)).or_else(login(&authority));
    let session = Session::builder(source).build();
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(api.clone());
    session.token().await.unwrap();
    authority.revoke_all();
    let answers = api.hold(Phase::Answer);
    let requests: Vec<_> = (0..50).map(|_| tokio::spawn(client.clone().oneshot(get("/me")))).collect();
    within(answers.waiting(50)).await;
    answers.open();
    for response in within(futures_util::future::join_all(requests)).await {
        let response = response.unwrap().unwrap();
        let attempts = response.extensions().get().map(Outcome::attempts);
        assert_eq!((response.status(), attempts), (StatusCode::OK, Some(2)), "it is really sent again");
    }
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes, counts.max_in_flight), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn no_failure_but_the_authoritys_word_leads_to_a_login() {
    let no_words = [
        Failure::Status(StatusCode::INTERNAL_SERVER_ERROR, "down"),
        Failure::Status(StatusCode::SERVICE_UNAVAILABLE, "down"),
        Failure::RetryAfter(StatusCode::TOO_MANY_REQUESTS, Duration::from_secs(1)),
        Failure::OAuth("temporarily_unavailable"),
        Failure::OAuth("invalid_client"),
        Failure::OAuth("access_denied"),
        Failure::OAuth("mfa_required"),
        Failure::Html(StatusCode::FORBIDDEN),
        Failure::Html(StatusCode::OK),
        Failure::Garbage,
        Failure::EmptyObject,
        Failure::NullToken,
        Failure::Hang,
        Failure::Reset,
    ];
    for failure in no_words {
        let authority = ModelAuthority::new();
        let asked = Arc::default();
        let login = Password::new(authority.clone(), "https://id.test/login".parse().unwrap(), alice(&asked));
        let bench = Bench::new(RefreshTokenGrant::new(of_model(&authority)).or_else(login));
        bench.session.token().await.unwrap();
        authority.fail_next(Endpoint::Refresh, failure.clone());
        bench.session.refresh().await.expect_err("a failure");
        assert_eq!((authority.counts().logins, asked.load(Ordering::Relaxed)), (1, 1), "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_whose_last_source_is_refused_requires_a_login_and_is_not_asked_again() {
    let authority = ModelAuthority::new();
    let wrong = || std::future::ready(Ok(Credentials::new("alice", "underland")));
    let url = "https://id.test/login".parse().unwrap();
    let source =
        RefreshTokenGrant::new(of_model(&authority)).or_else(Password::new(authority.clone(), url, wrong));
    let bench = Bench::logged_in(source).await;
    for _ in 0..10 {
        assert!(bench.session.refresh().await.unwrap_err().is_login_required());
        cool_down().await;
    }
    let counts = authority.counts();
    assert_eq!((counts.refreshes, counts.logins), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_not_presented_again_while_the_login_fails() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#), json(503, ""), json(200, LONE)]);
    let login = Password::new(idp.clone(), "https://id.test/login".parse().unwrap(), alice(&Arc::default()));
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(&idp)).or_else(login)).await;
    assert_eq!(bench.class().await, "Transient");
    cool_down().await;
    bench.session.refresh().await.unwrap();
    let refreshes = idp.bodies().iter().filter(|body| body.starts_with("grant_type")).count();
    assert_eq!((refreshes, idp.asked().len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn what_many_sessions_of_one_source_were_refused_is_not_presented_again_while_their_login_fails() {
    /// As many as are remembered.
    const USERS: usize = 1024;
    let idp = Idp::new((0..3 * USERS).map(|_| json(400, r#"{"error":"invalid_grant"}"#)));
    let grant = Arc::new(RefreshTokenGrant::new(endpoint(&idp)));
    let sessions: Vec<_> = (0..=USERS)
        .map(|_| {
            let login = source_fn(|_| async { Err(FetchError::transient("the login is down")) });
            Session::builder(grant.clone().or_else(login)).build()
        })
        .collect();
    for (user, session) in sessions.iter().enumerate() {
        session.login(Token::new("old").refresh_token(format!("of-{user}"))).await.unwrap();
    }
    for _ in 0..3 {
        for session in &sessions[..USERS] {
            assert!(session.refresh().await.unwrap_err().is_transient());
        }
        cool_down().await;
    }
    assert_eq!(idp.asked().len(), USERS);
    // One more takes the place of the first.
    for (user, asked) in [(USERS, 1), (0, 2), (USERS, 2)] {
        assert!(sessions[user].refresh().await.unwrap_err().is_transient());
        assert_eq!(idp.asked().len(), USERS + asked);
        cool_down().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_of_ones_own_does_not_keep_the_refresh_token_that_was_refused() {
    let login = || source_fn(|_| async { Ok(Token::new("from-a-login")) });
    let nothing = || source_fn(|_| async { Err(FetchError::login_required("nobody is there")) });
    let refused = || RefreshTokenGrant::new(endpoint(&Idp::new([json(400, r#"{"error":"invalid_grant"}"#)])));
    for bench in [
        Bench::logged_in(refused().or_else(login())).await,
        Bench::logged_in(refused().or_else(nothing()).or_else(login())).await,
        Bench::logged_in(refused().or_else(nothing().or_else(login()))).await,
        Bench::logged_in(nothing().or_else(refused().or_else(login()))).await,
    ] {
        bench.session.refresh().await.unwrap();
        assert_eq!(bench.stored().await, Some(("from-a-login".into(), None)));
    }
    // Nobody was refused it.
    let bench = Bench::logged_in(nothing().or_else(login())).await;
    bench.session.refresh().await.unwrap();
    assert_eq!(bench.stored().await, Some(("from-a-login".into(), Some("old-refresh".into()))));
}

#[tokio::test(start_paused = true)]
async fn what_is_got_with_a_refresh_token_that_another_client_was_refused_keeps_it() {
    let idp = Idp::new([json(400, r#"{"error":"invalid_grant"}"#), json(200, LONE)]);
    let [one, other] = ["one", "other"].map(|id| RefreshTokenGrant::new(endpoint(&idp).public_client(id)));
    let bench = Bench::logged_in(one.or_else(other)).await;
    bench.session.refresh().await.unwrap();
    assert_eq!(bench.stored().await, Some(("new-access".into(), Some("old-refresh".into()))));
}

/// The user's time limit drops the chain while the second source presents the refresh token.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_a_dropped_chain_was_presenting_counts_as_presented() {
    let authority = ModelAuthority::new();
    let gate = authority.hold(Endpoint::Refresh);
    let nothing = source_fn(|_| async { Err(FetchError::login_required("not here")) });
    let chain = Arc::new(nothing.or_else(RefreshTokenGrant::new(of_model(&authority))));
    let limited = source_fn(move |cx| {
        let chain = chain.clone();
        async move {
            let late = |_elapsed| FetchError::login_required("it takes too long");
            timeout(Duration::from_secs(1), chain.fetch(cx)).await.map_err(late)?
        }
    });
    let session = Session::builder(limited).build();
    session.login(authority.login().await.unwrap()).await.unwrap();
    assert!(session.refresh().await.unwrap_err().is_login_required());
    gate.open();
    session.credentials_changed();
    session.refresh().await.unwrap_err();
    assert_eq!(authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_tells_a_code_that_repeats_no_credential_or_why_there_is_none() {
    let encoded = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
    for (answer, told) in [
        (json(400, r#"{"error":"invalid_client"}"#), "400 (invalid_client)"),
        (json(200, r#"{"errcode":40164}"#), "200 (40164)"),
        (json(200, r#"{"errcode":-1}"#), "200 (-1)"),
        // It may be a code that was sent by SMS.
        (json(200, r#"{"errcode":"123456"}"#), "200"),
        (json(200, r#"{"errcode":13800138000}"#), "200"),
        (json(400, r#"{"error":"canary"}"#), "400"),
        (json(200, "{}"), "200"),
        (json(200, "<!doctype html>"), "200: its body is not JSON"),
        (json(502, ""), "502: its body is empty, has not come, or is longer than is read"),
        (json(301, ""), "301: redirects are not followed"),
        (Say::With(encoded, 200, "packed"), "200: its body has a content encoding"),
    ] {
        let idp = Idp::new([answer]);
        let fields = JsonAnswer::new().business_code("/errcode").unwrap();
        let bench = Bench::new(ClientCredentialsGrant::new(endpoint(&idp).answer(fields)));
        let (_, error) = bench.failure().await;
        let said = AuthorityError::find(&error).unwrap();
        assert_eq!(said.to_string(), format!("no token in the authority's answer with status {told}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_a_person_brings_the_authoritys_words_and_no_fallback() {
    let answer = r#"{"error":"mfa_required","error_description":"a canary","error_uri":"https://id.test/mfa","mfa_token":"canary"}"#;
    let idp = Idp::new([json(403, answer)]);
    let asked = Arc::default();
    let source =
        RefreshTokenGrant::new(endpoint(&idp)).or_else(PasswordGrant::new(endpoint(&idp), alice(&asked)));
    let (class, error) = Bench::logged_in(source).await.failure().await;
    assert_eq!((class.as_str(), asked.load(Ordering::Relaxed)), ("LoginRequired", 0));
    let said = AuthorityError::find(&error).unwrap();
    assert_eq!(
        (said.status().as_u16(), said.code(), said.description()),
        (403, Some("mfa_required"), Some("a canary"))
    );
    assert_eq!((said.uri(), said.text("/mfa_token")), (Some("https://id.test/mfa"), Some("canary")));
    assert_eq!(said.to_string(), "no token in the authority's answer with status 403 (mfa_required)");
    assert!(!format!("{error:?} {error} {said:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn codes_that_the_user_names_end_the_grant_or_the_session() {
    for (code, logins) in [("bad_refresh_token", 1), ("invalid_request", 1), ("user_banned", 0)] {
        let idp = Idp::new([json(400, format!(r#"{{"error":"{code}"}}"#)), json(200, LONE)]);
        let endpoint = endpoint(&idp)
            .dead_codes(["bad_refresh_token", "invalid_request"])
            .blocked_codes(["user_banned"]);
        let asked = Arc::default();
        let source =
            RefreshTokenGrant::new(endpoint.clone()).or_else(PasswordGrant::new(endpoint, alice(&asked)));
        let outcome = Bench::logged_in(source).await.session.refresh().await;
        assert_eq!(asked.load(Ordering::Relaxed), logins, "{code}");
        assert_eq!(outcome.is_ok(), logins == 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_refresh_token_that_is_told_by_a_number_leads_to_one_login() {
    let elsewhere = JsonAnswer::new().error("/error_code").unwrap();
    let business = JsonAnswer::new().business_code("/code").unwrap();
    for (answer, status, body) in [
        (JsonAnswer::new(), 400, r#"{"error":10006}"#),
        (elsewhere, 403, r#"{"error_code":10006}"#),
        (business, 200, r#"{"code":10006,"msg":"refresh token invalid"}"#),
    ] {
        let idp = Idp::new([json(status, body), json(200, LONE), json(status, body)]);
        let endpoint = endpoint(&idp).answer(answer).dead_codes(["10006"]);
        let refresh = RefreshTokenGrant::new(endpoint.clone());
        let login = PasswordGrant::new(endpoint.clone(), alice(&Arc::default()));
        let bench = Bench::logged_in(refresh.or_else(login)).await;
        bench.session.refresh().await.unwrap();
        assert_eq!(
            (bench.stored().await.unwrap().0.as_str(), idp.asked().len()),
            ("new-access", 2),
            "{body}"
        );

        let (class, error) = Bench::logged_in(RefreshTokenGrant::new(endpoint)).await.failure().await;
        let said = AuthorityError::find(&error).unwrap().code();
        assert_eq!((class.as_str(), said), ("LoginRequired", Some("10006")), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_refused_asks_again_because_nobody_can_log_in_for_it() {
    for code in ["access_denied", "invalid_grant", "mfa_required", "a_code_of_its_own"] {
        let idp = Idp::new([json(401, format!(r#"{{"error":"{code}"}}"#)), json(200, LONE)]);
        let bench = Bench::new(ClientCredentialsGrant::new(endpoint(&idp)));
        assert_eq!(bench.class().await, "Configuration", "{code}");
        cool_down().await;
        bench.session.token().await.expect(code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gets_no_answer_asks_again_soon_because_it_has_spent_nothing() {
    for say in [json(502, ""), Say::Reset, Say::Truncated, Say::Hang] {
        let idp = Idp::new([say.clone(), json(200, LONE)]);
        let bench = Bench::new(ClientCredentialsGrant::new(endpoint(&idp)));
        assert_eq!(bench.class().await, "Transient", "{say:?}");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(bench.session.token().await.is_ok(), "{say:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_meets_a_proxys_page_for_long_gets_a_token_soon_after_that_is_gone() {
    for status in [403, 302] {
        let is_gone = Arc::new(AtomicBool::new(false));
        let look = is_gone.clone();
        let client = AuthorityClient::new(tower::service_fn(move |_: Request<Content>| {
            let (status, body) =
                if look.load(Ordering::Relaxed) { (200, LONE) } else { (status, "<!doctype html>") };
            let answer = Response::builder().status(status).body(Full::<Bytes>::from(body));
            std::future::ready(Ok::<_, BoxError>(answer.unwrap()))
        }));
        let url = "https://id.test/oauth/token".parse().unwrap();
        let session = match status {
            403 => Session::builder(ClientCredentialsGrant::new(TokenEndpoint::new(client, url))).build(),
            _ => Session::builder(AppToken::post(client, url)).build(),
        };
        for _ in 0..20 * 60 {
            assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Transient, "{status}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        is_gone.store(true, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(75)).await;
        assert!(session.token().await.is_ok(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_is_exchanged_once() {
    let url = "http://127.0.0.1:7/";
    // Whatever may have reached the authority has used the code.
    for say in [
        Say::Reset,
        Say::Truncated,
        json(200, "{}"),
        json(500, ""),
        json(500, r#"{"error":"temporarily_unavailable"}"#),
        json(400, r#"{"error":"server_error"}"#),
        json(400, r#"{"error":"invalid_client"}"#),
        json(302, ""),
    ] {
        let idp = Idp::new([say.clone()]);
        let bench = Bench::new(AuthorizationCodeGrant::new(endpoint(&idp), "code", url));
        bench.session.refresh().await.unwrap_err();
        cool_down().await;
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.is_login_required()), ("LoginRequired", true), "{say:?}");
        assert_eq!(idp.asked().len(), 1, "{say:?}");
    }
    // What has not, has not.
    for say in [Say::Unreachable, Say::NotReady, json(503, ""), json(429, ""), json(407, "")] {
        let idp = Idp::new([say.clone(), json(200, PAIR)]);
        let bench = Bench::new(AuthorizationCodeGrant::new(endpoint(&idp), "code", url));
        bench.session.refresh().await.unwrap_err();
        cool_down().await;
        assert!(bench.session.refresh().await.is_ok(), "{say:?}");
        assert!(bench.session.refresh().await.unwrap_err().is_login_required(), "{say:?}");
    }
    // A request that went nowhere has not used it, whatever kind of failure that is.
    let endpoint = TokenEndpoint::new(Idp::default(), "http://id.test/oauth/token".parse().unwrap());
    let bench = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", url));
    for _ in 0..2 {
        assert_eq!(bench.class().await, "Configuration");
        cool_down().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_and_a_password_whose_proof_wants_a_nonce_are_presented_again() {
    let idps = [(); 2].map(|()| Idp::new([json(400, r#"{"error":"use_dpop_nonce"}"#), json(200, PAIR)]));
    let [code, password] = &idps;
    let code = Bench::new(AuthorizationCodeGrant::new(endpoint(code), "code", "http://127.0.0.1:7/"));
    let password = Bench::new(PasswordGrant::new(endpoint(password), alice(&Arc::default())));
    for (bench, idp) in [code, password].into_iter().zip(&idps) {
        let (class, error) = bench.failure().await;
        assert_eq!((class.as_str(), error.is_transient()), ("Transient", true));
        assert!(AuthorityError::find(&error).unwrap().to_string().ends_with("(use_dpop_nonce)"));
        cool_down().await;
        bench.session.refresh().await.unwrap();
        assert_eq!(idp.asked().len(), 2);
    }
}

/// How often a code is presented to a client that reads its request in this way, and then fails in that one.
async fn times_presented<F>(read: fn(Content) -> F, kind: io::ErrorKind) -> usize
where
    F: Future<Output = Bytes> + Send + 'static,
{
    let times = Arc::new(AtomicUsize::new(0));
    let seen = times.clone();
    let client = tower::service_fn(move |request: Request<Content>| {
        let seen = seen.clone();
        async move {
            assert!(read(request.into_body()).await.ends_with(b"&redirect_uri=here"));
            seen.fetch_add(1, Ordering::Relaxed);
            Err::<Response<Full<Bytes>>, _>(io::Error::from(kind))
        }
    });
    let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
    let bench = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "here"));
    for _ in 0..2 {
        bench.session.refresh().await.unwrap_err();
        cool_down().await;
    }
    times.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_code_that_may_have_been_sent_is_not_sent_again_whatever_the_error_is_called() {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    for kind in [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable] {
        let polled = times_presented(|body| async { body.collect().await.unwrap().to_bytes() }, kind).await;
        assert_eq!(polled, 1, "{kind:?}");
        // Bytes that were only taken may have found no connection.
        let taken = times_presented(|body| async { body.into() }, kind).await;
        assert_eq!(taken, if kind == ConnectionRefused { 2 } else { 1 }, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_has_sent_before_counts_as_sent_whatever_comes_of_the_last_attempt() {
    for last in [json(503, ""), json(429, ""), json(400, r#"{"error":"slow_down"}"#)] {
        let idp = Idp::new([Say::Reset, last.clone(), Say::Reset, last.clone()]);
        let client = || AuthorityClient::new(Retry::new(Once(true), idp.clone()));
        let endpoint = || TokenEndpoint::new(client(), "https://id.test/oauth/token".parse().unwrap());
        let refresh = Bench::logged_in(RefreshTokenGrant::new(endpoint())).await;
        assert_eq!(refresh.class().await, "Unanswered", "{last:?}");
        let code = Bench::new(AuthorizationCodeGrant::new(endpoint(), "code", "http://127.0.0.1:7/"));
        assert_eq!(code.class().await, "Unanswered", "{last:?}");
        cool_down().await;
        assert_eq!(code.class().await, "LoginRequired", "{last:?}: it is used up");
        assert_eq!(idp.asked().len(), 4, "{last:?}");
        // Another code would do, and is not to wait: this one may be spent.
        idp.says([Say::Reset, last.clone()]);
        let code = || std::future::ready(Ok(Secret::from("code")));
        let code = LoginCode::new(client(), "https://id.test/exchange".parse().unwrap(), code);
        let code = Bench::new(code);
        assert_eq!(code.class().await, "Transient", "{last:?}");
        cool_down().await;
        assert_eq!(code.class().await, "LoginRequired", "{last:?}: it is used up");
        assert_eq!(idp.asked().len(), 6, "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_has_taken_before_may_have_been_sent_although_the_last_attempt_finds_no_connection() {
    let times = Arc::new(AtomicUsize::new(0));
    let seen = times.clone();
    let client = tower::service_fn(move |request: Request<Content>| {
        assert!(!Bytes::from(request.into_body()).is_empty());
        let is_first = seen.fetch_add(1, Ordering::Relaxed) == 0;
        let kind = if is_first { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionRefused };
        std::future::ready(Err::<Response<Full<Bytes>>, BoxError>(io::Error::from(kind).into()))
    });
    let client = AuthorityClient::new(Retry::new(Once(true), client));
    let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
    let code = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
    assert_eq!(code.class().await, "Unanswered");
    cool_down().await;
    assert_eq!(code.class().await, "LoginRequired");
    assert_eq!(times.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_a_retry_below_the_conversion_of_the_body_has_found_no_connection_for_is_presented_again()
{
    let times = Arc::new(AtomicUsize::new(0));
    let seen = times.clone();
    let client = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let answer = match seen.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            _ => Ok(Response::new(Full::<Bytes>::from(PAIR))),
        };
        std::future::ready(answer as Result<_, BoxError>)
    });
    let client = Retry::new(Once(true), client)
        .map_request(|request: Request<Content>| request.map(|content| Full::from(Bytes::from(content))));
    let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
    let code = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
    assert_eq!(code.class().await, "Transient");
    cool_down().await;
    code.session.refresh().await.expect("it is presented again");
    assert_eq!(times.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_lies_in_a_queue_is_not_sent_after_the_answer_to_another() {
    for (status, body) in [(503, ""), (200, PAIR)] {
        let (queue, mut queued) = tokio::sync::mpsc::channel(1);
        let client = tower::service_fn(move |request: Request<Content>| {
            let queue = queue.clone();
            async move {
                let Err(full) = queue.try_send(request.into_body()) else {
                    return std::future::pending().await;
                };
                assert!(!full.into_inner().collect().await.unwrap().to_bytes().is_empty());
                let answer = Response::builder().status(status).body(Full::<Bytes>::from(body));
                Ok::<_, BoxError>(answer.unwrap())
            }
        });
        let client = tower::timeout::Timeout::new(client, Duration::from_secs(1));
        let client = AuthorityClient::new(Retry::new(Once(true), client));
        let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
        let bench = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
        assert_eq!(bench.session.refresh().await.is_ok(), status == 200);
        let late = queued.recv().await.unwrap();
        assert_eq!(late.collect().await.unwrap().to_bytes(), Bytes::new(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_to_be_presented_again_is_not_sent_by_a_connection_that_comes_late() {
    let (queue, mut queued) = tokio::sync::mpsc::unbounded_channel();
    let client = tower::service_fn(move |request: Request<Content>| {
        queue.send(request.into_body()).unwrap();
        std::future::pending::<Result<Response<Full<Bytes>>, io::Error>>()
    });
    let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
    let bench = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
    bench.session.refresh().await.unwrap_err();
    cool_down().await;
    let again = bench.session.clone();
    tokio::spawn(async move { again.refresh().await });
    let (late, in_time) = (queued.recv().await.unwrap(), queued.recv().await.unwrap());
    assert_eq!(late.collect().await.unwrap().to_bytes(), Bytes::new());
    assert!(!in_time.collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_become_of_a_code_does_not_depend_on_what_the_user_calls_the_failure() {
    for (say, presented) in [
        (Say::Reset, 1),
        (json(500, ""), 1),
        (json(400, ""), 1),
        (json(503, ""), 2),
        (json(429, ""), 2),
        (json(408, ""), 2),
        (json(425, ""), 2),
    ] {
        for call in [FetchError::transient, FetchError::configuration, FetchError::ambiguous] {
            let idp = Idp::new([say.clone(), json(200, PAIR)]);
            let client =
                AuthorityClient::new(idp.clone()).classify_failures(move |_| Some(call("as the user says")));
            let endpoint = TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap());
            let bench = Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"));
            bench.session.refresh().await.unwrap_err();
            cool_down().await;
            assert_eq!(bench.session.refresh().await.is_ok(), presented == 2, "{say:?}");
            assert_eq!(idp.asked().len(), presented, "{say:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_refresh_token_is_presented_twice_to_an_authority_that_detects_reuse() {
    let authority = ModelAuthority::new().rotation(Rotation::ReuseKillsFamily);
    let api = ModelApi::new(authority.clone());
    let session =
        Session::builder(RefreshTokenGrant::new(of_model(&authority)).or_else(login(&authority))).build();
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(api.clone());
    session.token().await.unwrap();
    for _ in 0..20 {
        // Past every damping: those that have started a refresh have given up.
        tokio::time::advance(Duration::from_secs(5)).await;
        authority.revoke_access();
        let gate = authority.hold(Endpoint::Refresh);
        let [refusals, late] = ["/me", "/late"].map(|path| api.hold_path(Phase::Answer, path));
        let path = |call| if call % 10 == 0 { "/late" } else { "/me" };
        let calls: Vec<_> =
            (0..100).map(|call| tokio::spawn(client.clone().oneshot(get(path(call))))).collect();
        within(refusals.waiting(90)).await;
        within(late.waiting(10)).await;
        refusals.open();
        within(gate.waiting(1)).await;
        for call in calls.iter().step_by(3) {
            call.abort();
        }
        gate.open();
        within(session.settle()).await.unwrap();
        late.open();
        for call in within(futures_util::future::join_all(calls)).await {
            assert!(call.map_or(true, |response| response.unwrap().status() == StatusCode::OK));
        }
    }
    let counts = authority.counts();
    assert_eq!(
        (counts.refreshes, counts.presented_again(), counts.family_deaths, counts.logins),
        (20, 0, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn lifetimes_of_any_size_are_no_reason_to_fetch_again() {
    for lifetime in ["0", "-1", "null", "\"\"", "1e300", "18446744073709551615", "\"3600\"", "3599.5", "{}"] {
        let idp = Idp::new([json(200, format!(r#"{{"access_token":"a","expires_in":{lifetime}}}"#))]);
        let bench = Bench::new(ClientCredentialsGrant::new(endpoint(&idp)));
        for _ in 0..3 {
            bench.session.token().await.unwrap();
        }
        assert_eq!(idp.asked().len(), 1, "{lifetime}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_of_its_own_shape_is_described_by_pointers() {
    let answer = JsonAnswer::new()
        .access_token("/authed_user/access_token")
        .and_then(|answer| answer.refresh_token("/authed_user/refresh_token"))
        .and_then(|answer| answer.expires_in("/authed_user/ttl"))
        .and_then(|answer| answer.refresh_expires_in("/authed_user/refresh_ttl"))
        .and_then(|answer| answer.error("/error/name"))
        .unwrap();
    let says = [
        json(200, r#"{"authed_user":{"access_token":"a","refresh_token":"r","ttl":"60","refresh_ttl":61}}"#),
        json(400, r#"{"error":{"name":"invalid_grant"}}"#),
    ];
    let idp = Idp::new(says);
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(&idp).answer(answer))).await;
    bench.session.refresh().await.unwrap();
    assert_eq!(bench.stored().await, Some(("a".into(), Some("r".into()))));
    let stored = bench.store.load().await.unwrap().unwrap().token.unwrap();
    let (access, refresh) = (stored.expires_at.unwrap(), stored.refresh_expires_at.unwrap());
    assert_eq!(refresh.duration_since(access).unwrap(), Duration::from_secs(1));
    assert_eq!(bench.class().await, "LoginRequired");
}

#[tokio::test(start_paused = true)]
async fn the_type_of_a_token_survives_a_restart() {
    async fn survives(store: impl TokenStore + Clone) {
        const TYPED: &str = r#"{"access_token":"a","token_type":"dpop","expires_in":3600}"#;
        let idp = Idp::new([json(200, TYPED)]);
        for start in ["first", "second"] {
            let source = ClientCredentialsGrant::new(endpoint(&idp));
            let session = Session::builder(source).store(store.clone()).build();
            assert_eq!(session.token().await.unwrap().kind(), Some("DPoP"), "{start}");
            session.settle().await.unwrap();
        }
        assert_eq!(idp.asked().len(), 1, "the second one is the stored one");
    }
    survives(MemoryStore::new()).await;
    let directory = tempfile::tempdir().unwrap();
    survives(FileStore::new(directory.path().join("token.json"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_that_has_expired_is_refreshed_before_the_first_request() {
    let authority = ModelAuthority::new();
    let (clock, store) = (TestClock::new(), MemoryStore::new());
    let start = || {
        let source = RefreshTokenGrant::new(of_model(&authority)).or_else(login(&authority));
        Session::builder(source).store(store.clone()).clock(clock.clone()).build()
    };
    start().token().await.unwrap();
    clock.suspend(Duration::from_secs(3 * 3600));

    let session = start();
    let api = ModelApi::new(authority.clone());
    let client = TokenRefreshLayer::new(session.clone(), origin()).layer(api.clone());
    assert_eq!(client.oneshot(get("/me")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(api.requests().len(), 1, "the old token was not even tried");
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 1));

    // And where that fails, there is a session all the same, which can be left.
    clock.suspend(Duration::from_secs(3 * 3600));
    authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "down"));
    let session = start();
    assert!(session.token().await.unwrap_err().is_transient());
    session.logout().await.unwrap();
    assert!(store.load().await.unwrap().unwrap().token.is_none());
}
