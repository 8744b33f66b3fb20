//! Sources, what they ask, and what they make of answers that repeat every secret.

use std::{fmt, future::ready};

use http::{Request, Response, StatusCode, Uri};
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, Error, FetchContext, FetchError, RefreshFailure, Secret, Session, Tips, Token,
    TokenRefreshLayer, TokenSource,
    event::{Event, TracingObserver},
    source::{
        AuthorityClient, AuthorityError, Content, Credentials, FailedCall, JsonAnswer, LoginCode, Password,
        RefreshToken, Verification,
        login::JsonVerify,
        oauth2::{
            AuthorizationCodeGrant, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant, TokenEndpoint,
        },
    },
    test_util::ModelBody,
};
use tracing::subscriber::set_default;

use super::Seen;
use crate::{
    idp::{Idp, Say, json},
    logs::Lines,
    script::{status, within},
    world::{get, origin},
};

/// A source that prints all that goes in and out.
struct Shown<S> {
    source: S,
    seen: Seen,
}

impl<S: TokenSource> TokenSource for Shown<S> {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        self.seen.debug(&cx);
        let outcome = self.source.fetch(cx).await;
        self.seen.debug(&outcome);
        outcome
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.source.verify(token).await
    }
}

/// A session over a source, both printed, with a token to begin with.
async fn session(seen: &Seen, source: impl TokenSource + fmt::Debug) -> Session {
    seen.debug(&source);
    let told = seen.clone();
    let builder =
        Session::builder(Shown { source, seen: seen.clone() }).observer(move |event: &Event<'_>| {
            told.debug(event);
            if let Event::RefreshFailed { error, .. } | Event::LoginRequired { error, .. } = event {
                told.error(*error);
            }
        });
    let builder = builder.observer(TracingObserver::default());
    seen.debug(&builder);
    let session = builder.build();
    session.login(Token::new("canary-access").refresh_token("canary-refresh")).await.unwrap();
    session
}

/// A client that prints what it sends, and failures.
fn client(seen: &Seen, idp: &Idp) -> AuthorityClient {
    let (sent, failed) = (seen.clone(), seen.clone());
    let client = AuthorityClient::new(idp.clone().map_request(move |request: Request<Content>| {
        sent.debug(request.headers());
        sent.debug(request.body());
        request
    }))
    .classify_failures(move |failure: &FailedCall<'_>| {
        failed.debug(failure);
        failed.error(failure.cause());
        None
    });
    seen.debug(&client);
    client
}

fn credentials() -> std::future::Ready<Result<Credentials, FetchError>> {
    ready(Ok(Credentials::new("canary-account", "canary-password")))
}

fn url(path: &str) -> Uri {
    format!("https://id.test/{path}?key=canary-key").parse().unwrap()
}

/// A session for each kind of source, in turn.
async fn of_kind(kind: usize, seen: &Seen, idp: &Idp) -> Option<Session> {
    let client = client(seen, idp);
    let answer = JsonAnswer::new();
    let verify = JsonVerify::new(url("verify"));
    seen.debug(&(&answer, &verify));
    let endpoint = TokenEndpoint::new(client.clone(), url("token"))
        .param("assertion", "canary-assertion")
        .unwrap()
        .answer(answer.clone());
    // Three bytes before the secret, so that the base64 of it is that of a text of its own.
    let basic = endpoint.clone().client_secret_basic("ab", "canary-client-secret");
    let post = endpoint.clone().client_secret_post("ab", "canary-client-secret");
    seen.debug(&(&endpoint, &basic, &post));
    let code = || ready(Ok(Secret::from("canary-code")));
    Some(match kind {
        0 => session(seen, RefreshTokenGrant::new(basic)).await,
        1 => session(seen, PasswordGrant::new(post, credentials)).await,
        2 => {
            let code = AuthorizationCodeGrant::new(post, "canary-code", "http://127.0.0.1/");
            session(seen, code.pkce_verifier("canary-verifier")).await
        }
        3 => session(seen, ClientCredentialsGrant::new(basic)).await,
        4 => {
            let login = Password::new(client, url("login"), credentials).text("pin", "canary-pin");
            session(seen, login.answer(answer).verify_with(verify)).await
        }
        5 => session(seen, LoginCode::new(client, url("login"), code).text("pin", "canary-pin")).await,
        6 => session(seen, LoginCode::mini_program(client, url(""), code).unwrap()).await,
        7 => {
            let chain =
                RefreshTokenGrant::new(basic).or_else(Password::new(client, url("login"), credentials));
            session(seen, chain).await
        }
        8 => session(seen, RefreshToken::new(client, url("refresh")).text("pin", "canary-pin")).await,
        _ => return None,
    })
}

/// What an authority may say that holds secrets, in the place of a token.
fn answers() -> Vec<Say> {
    let echo = r#"{"error":"canary","error_description":"canary","error_uri":"canary","mfa_token":"canary"}"#;
    let headers =
        [("location", "https://canary.test/"), ("retry-after", "canary"), ("www-authenticate", "canary")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    vec![
        json(400, echo),
        json(401, r#"{"error":"invalid_grant","error_description":"canary-refresh"}"#),
        json(403, r#"{"error":"mfa_required","mfa_token":"canary"}"#),
        json(200, echo),
        json(200, r#"{"access_token":["canary"],"token":["canary"]}"#),
        json(200, r#"{"access_token":"canary\r\nx","token":"canary\r\nx"}"#),
        json(200, r#"{"access_token":"canary"#),
        json(
            200,
            r#"{"access_token":"canary-a","token":"canary-a","token_type":"canary","refresh_token":"canary-r"}"#,
        ),
        json(200, r#"{"access_token":"canary-a","token":"canary-a","expires_in":"canary"}"#),
        json(500, "\"canary\""),
        Say::Answer(400, "application/x-www-form-urlencoded", "error=canary&error_description=canary".into()),
        Say::Answer(502, "text/html", "<title>canary</title>".into()),
        Say::With(headers.into_iter().collect(), 302, "canary"),
        Say::Truncated,
        Say::Reset,
        Say::Unreachable,
        Say::NotReady,
    ]
}

#[tokio::test(start_paused = true)]
async fn no_source_shows_what_it_was_given_or_what_the_authority_repeats() {
    let (seen, mut asked) = (Seen::default(), 0);
    let log = Lines::default();
    let _guard = set_default(log.clone());
    for say in answers() {
        for kind in 0.. {
            // A chain asks twice.
            let idp = Idp::new([say.clone(), say.clone()]);
            let Some(session) = of_kind(kind, &seen, &idp).await else { break };
            match within(session.refresh()).await {
                Ok(token) => seen.debug(&token),
                Err(error) => {
                    seen.error(&error);
                    seen.debug(&AuthorityError::find(&error));
                }
            }
            asked += idp.asked().len();
        }
    }
    seen.debug(&Credentials::new("canary-account", "canary-password"));
    assert!(asked > 9 * 14, "{asked}");
    log.take().iter().for_each(|line| seen.display(line));
    seen.has_no_canary_among(&[
        "AuthorityClient {",
        "AuthorityError {",
        "AuthorizationCodeGrant {",
        "ClientCredentialsGrant {",
        "Content(",
        "Credentials {",
        "FetchContext {",
        "FetchError {",
        "FailedCall {",
        "JsonAnswer {",
        "JsonVerify {",
        "LoginCode {",
        "LoginRequired {",
        "OrElse {",
        "Password {",
        "PasswordGrant {",
        "RefreshFailed {",
        "RefreshToken {",
        "RefreshTokenGrant {",
        "Sensitive",
        "Token {",
        "TokenEndpoint {",
        "a refresh has failed",
        "no token in the authority's answer with status 400",
    ]);
}

/// As the errors of some clients do.
#[derive(Debug)]
struct NamesTheUrl(Uri);

impl fmt::Display for NamesTheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error sending request for {}", self.0)
    }
}

impl std::error::Error for NamesTheUrl {}

/// It is the program's own text, and the program may need it: it comes through, as it came, by `source()` alone.
#[tokio::test(start_paused = true)]
async fn an_error_of_the_users_own_client_that_names_the_url_is_shown_by_its_own_link_only() {
    let (seen, failed) = (Seen::default(), Seen::default());
    let told = failed.clone();
    let client = AuthorityClient::new(service_fn(|request: Request<Content>| {
        ready(Err::<Response<ModelBody>, BoxError>(NamesTheUrl(request.uri().clone()).into()))
    }))
    .classify_failures(move |failure: &FailedCall<'_>| {
        told.debug(failure);
        None
    });
    let told = seen.clone();
    let session = Session::builder(Shown {
        source: Password::new(client, url("login"), credentials),
        seen: seen.clone(),
    })
    .observer(move |event: &Event<'_>| told.debug(event))
    .build();
    session.login(Token::new("canary-access")).await.unwrap();
    let refusing = service_fn(|_: Request<_>| ready(Ok::<_, BoxError>(status(401).unwrap())));
    let client = TokenRefreshLayer::new(session, origin()).layer(refusing);
    let result = client.oneshot(get("/")).await;
    seen.debug(&result);
    let tips = Tips::en();
    let tip = tips.explain(&result).unwrap();
    seen.debug(&tip);
    seen.display(&tip);
    let response = result.as_ref().unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let failure = response.extensions().get::<RefreshFailure>().unwrap();
    let error: &Error = failure.error();
    seen.debug(&failure);
    seen.debug(error);
    seen.display(error);
    seen.has_no_canary_among(&["RefreshFailed {", "FetchError {", "RefreshFailure(", "Tip {"]);
    failed.has_no_canary_among(&["FailedCall {"]);

    let cause = std::error::Error::source(error).unwrap();
    assert!(cause.downcast_ref::<NamesTheUrl>().is_some() && cause.to_string().contains("canary-key"));
    assert!(cause.source().is_none());
}
