//! Sources whose client has the layer of another session in it: an authority behind a gateway with tokens of its own.

use std::{
    future::{self, Ready},
    io, iter, mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{
    Layer,
    retry::{Policy, Retry},
    service_fn,
    util::BoxCloneSyncService,
};
use tower_token_refresh::{
    Answer, BoxError, Error, FetchContext, FetchError, Origin, Placement, ReplayBody, Session, Token,
    TokenRefreshLayer, Verdict,
    source::{
        Content, Credentials, JsonAnswer, Password,
        oauth2::{
            AuthorizationCodeGrant, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant, TokenEndpoint,
        },
    },
    source_fn,
};

use crate::idp::{Bench, cool_down};

type Client = BoxCloneSyncService<Request<Content>, Response<Full<Bytes>>, BoxError>;

const PAIR: &str = r#"{"access_token":"a","refresh_token":"r","expires_in":3600}"#;

/// A gateway before an authority, and how it goes at first.
struct Gateway {
    placement: Placement,
    /// Which of the gateway session's own fetches fail, and in which way.
    fails: Range<usize>,
    fail: fn(&'static str) -> FetchError,
    /// Instead they hang, and its session waits for them so long.
    hangs: Option<Duration>,
    /// Which connections do not come about.
    unreachable: Range<usize>,
    /// Which requests lie in a queue for ever.
    stuck: Range<usize>,
    /// Which connections break when the request has been read.
    lost: Range<usize>,
    /// Which requests the authority has no time for.
    busy: Range<usize>,
    /// With what the first requests are refused.
    refusal: Option<&'static str>,
    status: u16,
    refusals: usize,
    layered: fn(TokenRefreshLayer) -> TokenRefreshLayer,
}

impl Gateway {
    fn new() -> Self {
        let placement = Placement::header("x-gateway").unwrap();
        Gateway {
            placement,
            fails: 0..0,
            fail: FetchError::transient,
            hangs: None,
            unreachable: 0..0,
            stuck: 0..0,
            lost: 0..0,
            busy: 0..0,
            refusal: None,
            status: 401,
            refusals: 1,
            layered: |layer| layer,
        }
    }

    /// A client, and how often anything was presented to the authority.
    fn client(self) -> (Client, Arc<AtomicUsize>) {
        let (fetches, calls) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let presented = Arc::new(AtomicUsize::new(0));
        let source = source_fn(move |_: FetchContext| {
            let fetch = fetches.fetch_add(1, Ordering::Relaxed);
            let is_bad = self.fails.contains(&fetch);
            async move {
                match self.hangs {
                    Some(_) if is_bad => future::pending().await,
                    None if is_bad => Err((self.fail)("not now")),
                    _ => Ok(Token::new(format!("gateway-{fetch}"))),
                }
            }
        });
        let seen = presented.clone();
        let authority = service_fn(move |request: Request<ReplayBody<Content>>| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let seen = seen.clone();
            let [is_unreachable, is_stuck, is_lost, is_busy] =
                [&self.unreachable, &self.stuck, &self.lost, &self.busy].map(|calls| calls.contains(&call));
            async move {
                if is_stuck {
                    let _held = request;
                    return future::pending().await;
                }
                if is_unreachable {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
                assert!(!body.is_empty());
                if is_lost {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset));
                }
                if is_busy {
                    return Ok(Response::builder().status(503).body(Full::default()).unwrap());
                }
                if let Some(refusal) = self.refusal.filter(|_| call < self.refusals) {
                    return Ok(Response::builder().status(self.status).body(Full::from(refusal)).unwrap());
                }
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(Full::from(PAIR)))
            }
        });
        let session = Session::builder(source).placement(self.placement);
        let session = match self.hangs {
            Some(limit) => session.refresh_timeout(limit).unwrap(),
            None => session,
        };
        let layer = TokenRefreshLayer::new(session.build(), "https://id.test".parse::<Origin>().unwrap());
        let layer = (self.layered)(layer);
        (BoxCloneSyncService::new(layer.layer(authority)), presented)
    }
}

/// Sends again after an error, once.
#[derive(Clone)]
pub(crate) struct Once(pub(crate) bool);

impl<B: Clone, R> Policy<Request<B>, Response<R>, BoxError> for Once {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Result<Response<R>, BoxError>) -> Option<Ready<()>> {
        (result.is_err() && mem::take(&mut self.0)).then(|| future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

fn endpoint(client: Client) -> TokenEndpoint {
    TokenEndpoint::new(client, "https://id.test/oauth/token".parse().unwrap())
}

fn code(endpoint: TokenEndpoint) -> Bench {
    Bench::new(AuthorizationCodeGrant::new(endpoint, "code", "http://127.0.0.1:7/"))
}

fn login(client: Client) -> Password {
    Password::new(client, "https://id.test/login".parse().unwrap(), alice)
}

async fn alice() -> Result<Credentials, FetchError> {
    Ok(Credentials::new("alice", "wonderland"))
}

/// The source did not take it for a refusal of what it presented, and presents it again.
async fn is_not_refused(bench: Bench) {
    assert_eq!(bench.class().await, "Ambiguous");
    cool_down().await;
    bench.session.refresh().await.expect("it is presented again");
}

const PAGE: &str = "<!doctype html><title>Sign in</title>";

#[tokio::test(start_paused = true)]
async fn what_no_layer_below_has_sent_was_not_sent() {
    let away = || Gateway { fails: 0..1, ..Gateway::new() };
    let unreachable = || Gateway { unreachable: 0..1, ..Gateway::new() };
    // With a credential of its own, which no layer touches.
    let basic = || Gateway { placement: Placement::bearer(), ..unreachable() };
    for (case, gateway) in
        [("away", &away as &dyn Fn() -> Gateway), ("unreachable", &unreachable), ("basic", &basic)]
    {
        let endpoint = || {
            let (client, presented) = gateway().client();
            let endpoint = endpoint(client);
            let endpoint =
                if case == "basic" { endpoint.client_secret_basic("me", "secret") } else { endpoint };
            (endpoint, presented)
        };
        let ((of_code, codes), (of_refresh, refreshes)) = (endpoint(), endpoint());
        let refresh = Bench::logged_in(RefreshTokenGrant::new(of_refresh)).await;
        for (bench, presented) in [(code(of_code), codes), (refresh, refreshes)] {
            assert_eq!(bench.class().await, "Transient", "{case}");
            tokio::time::advance(Duration::from_secs(3)).await;
            bench.session.refresh().await.expect(case);
            assert_eq!(presented.load(Ordering::Relaxed), 1, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_that_is_not_sent_uses_up_no_code_and_spends_no_refresh_token() {
    let refused = || Gateway { refusal: Some(PAGE), ..Gateway::new() };
    let unreachable = || Gateway { unreachable: 1..2, ..refused() };
    let stuck = || Gateway { stuck: 1..2, ..refused() };
    for (case, gateway) in [("unreachable", &unreachable as &dyn Fn() -> Gateway), ("stuck", &stuck)] {
        let (of_code, of_refresh) = (gateway().client(), gateway().client());
        let refresh = Bench::logged_in(RefreshTokenGrant::new(endpoint(of_refresh.0))).await;
        for (bench, presented) in [(code(endpoint(of_code.0)), of_code.1), (refresh, of_refresh.1)] {
            assert_eq!(bench.class().await, "Transient", "{case}");
            tokio::time::advance(Duration::from_secs(3)).await;
            bench.session.refresh().await.expect(case);
            assert_eq!(presented.load(Ordering::Relaxed), 1, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_for_which_the_authority_has_no_time_uses_up_no_code() {
    let (client, presented) = Gateway { refusal: Some(PAGE), busy: 1..2, ..Gateway::new() }.client();
    let bench = code(endpoint(client));
    assert_eq!(bench.class().await, "Transient");
    cool_down().await;
    bench.session.refresh().await.expect("it is presented again");
    assert_eq!(presented.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_has_sent_before_a_refusal_counts_as_sent() {
    let lost = || Gateway { lost: 0..1, refusal: Some(PAGE), refusals: 2, ..Gateway::new() };
    let unreachable = || Gateway { unreachable: 2..3, ..lost() };
    let stuck = || Gateway { stuck: 2..3, ..lost() };
    let refused = || Gateway { fails: 1..2, ..lost() };
    for (case, gateway) in
        [("unreachable", &unreachable as &dyn Fn() -> Gateway), ("stuck", &stuck), ("refused", &refused)]
    {
        let retrying = || {
            let (client, presented) = gateway().client();
            (endpoint(BoxCloneSyncService::new(Retry::new(Once(true), client))), presented)
        };
        let ((of_code, presented), (of_refresh, _)) = (retrying(), retrying());
        let refresh = Bench::logged_in(RefreshTokenGrant::new(of_refresh)).await;
        assert_eq!(refresh.class().await, "Unanswered", "{case}");
        let code = code(of_code);
        let class = if case == "refused" { "Ambiguous" } else { "Unanswered" };
        assert_eq!(code.class().await, class, "{case}");
        cool_down().await;
        assert_eq!(code.class().await, "LoginRequired", "{case}: it is used up");
        assert_eq!(presented.load(Ordering::Relaxed), 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_that_a_retry_has_presented_before_a_refusal_waits_as_after_any_other() {
    let retrying = || {
        let gateway = Gateway { lost: 0..1, fails: 1..2, refusal: Some(PAGE), refusals: 2, ..Gateway::new() };
        BoxCloneSyncService::new(Retry::new(Once(true), gateway.client().0))
    };
    is_not_refused(Bench::new(login(retrying()))).await;
    is_not_refused(Bench::new(PasswordGrant::new(endpoint(retrying()), alice))).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_the_gateway_refuses_asks_again_as_after_any_other_failure() {
    let (client, presented) = Gateway { fails: 1..2, refusal: Some(PAGE), ..Gateway::new() }.client();
    let bench = Bench::new(ClientCredentialsGrant::new(endpoint(client)));
    assert_eq!(bench.class().await, "Transient");
    cool_down().await;
    bench.session.refresh().await.expect("it asks again");
    assert_eq!(presented.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_required_at_the_gateway_is_told() {
    let gateway = Gateway { fails: 0..1, fail: FetchError::login_required, ..Gateway::new() };
    let (client, presented) = gateway.client();
    let bench = Bench::logged_in(RefreshTokenGrant::new(endpoint(client))).await;
    let (class, error) = bench.failure().await;
    assert_eq!((class.as_str(), error.is_login_required()), ("Transient", true));
    assert_eq!(presented.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_gateways_token_refuses_no_code_and_no_password() {
    for (refusal, class) in [
        (PAGE, "Ambiguous"),
        (r#"{"status":401,"error":"Unauthorized"}"#, "Ambiguous"),
        // The authority's own word stands.
        (r#"{"error":"invalid_grant"}"#, "LoginRequired"),
    ] {
        // The gateway's session gets no other token at first.
        let client = || Gateway { fails: 1..2, refusal: Some(refusal), ..Gateway::new() }.client();
        let (of_code, of_grant, of_password) = (client(), client(), client());
        for (bench, presented) in [
            (code(endpoint(of_code.0)), of_code.1),
            (Bench::new(PasswordGrant::new(endpoint(of_grant.0), alice)), of_grant.1),
            (Bench::new(login(of_password.0)), of_password.1),
        ] {
            let (found, error) = bench.failure().await;
            assert_eq!(found, class, "{refusal}");
            let why = iter::successors(Some(&error as &dyn std::error::Error), |link| link.source()).last();
            assert_eq!(why.unwrap().to_string(), "not now", "{refusal}");
            cool_down().await;
            assert_eq!(bench.session.refresh().await.is_ok(), class == "Ambiguous", "{refusal}");
            let times = usize::from(class == "Ambiguous");
            assert_eq!(presented.load(Ordering::Relaxed), times, "{refusal}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_business_code_of_the_gateway_refuses_no_code_and_no_password() {
    let refusal = Some(r#"{"code":401,"msg":"the token of the gateway has expired"}"#);
    let client = || Gateway { fails: 1..2, refusal, ..Gateway::new() }.client().0;
    let answer = || JsonAnswer::new().business_code("/code").unwrap();
    is_not_refused(code(endpoint(client()).answer(answer()))).await;
    is_not_refused(Bench::new(login(client()).answer(answer()))).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_proxy_a_redirect_or_an_error_of_the_gateway_uses_up_no_code() {
    let by_status: fn(TokenRefreshLayer) -> _ = |layer| {
        layer.classifier(|answer: &Answer<'_>| match answer.status().as_u16() {
            302 | 407 | 500 => Verdict::Reject,
            _ => Verdict::Accept,
        })
    };
    let refused = |status, refusal| {
        let placement = Placement::header("proxy-authorization").unwrap();
        let gateway = Gateway { placement, fails: 1..2, layered: by_status, ..Gateway::new() };
        endpoint(Gateway { status, refusal: Some(refusal), ..gateway }.client().0)
    };
    for (status, refusal) in [(407, PAGE), (302, ""), (500, r#"{"error":"the token has expired"}"#)] {
        is_not_refused(code(refused(status, refusal))).await;
    }
    // Who speaks of the grant has seen it, also in words of its own.
    for refusal in [r#"{"error":"invalid_grant"}"#, r#"{"error":"gone"}"#] {
        let bench = code(refused(500, refusal).dead_codes(["gone"]));
        assert_eq!(bench.class().await, "Unanswered", "{refusal}");
        cool_down().await;
        assert_eq!(bench.class().await, "LoginRequired", "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_authority_or_the_user_has_a_code_for_is_no_refusal_by_the_gateway() {
    for (refusal, class) in [
        (r#"{"error":"banned"}"#, "LoginRequired"),
        (r#"{"error":"mfa_required"}"#, "LoginRequired"),
        (r#"{"error":"access_denied"}"#, "LoginRequired"),
        (r#"{"error":"invalid_client"}"#, "Configuration"),
        (r#"{"errcode":-1}"#, "Transient"),
    ] {
        let (client, presented) = Gateway { fails: 1..2, refusal: Some(refusal), ..Gateway::new() }.client();
        let answer = JsonAnswer::new().business_code("/errcode").unwrap().transient_codes([-1]);
        let bench = code(endpoint(client).answer(answer).blocked_codes(["banned"]));
        assert_eq!(bench.class().await, class, "{refusal}");
        cool_down().await;
        bench.session.refresh().await.expect_err("the code is used");
        assert_eq!(presented.load(Ordering::Relaxed), 0, "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_the_layer_may_not_send_again_refuses_no_code_and_no_password() {
    let refused = |refusals| Gateway { refusal: Some(PAGE), refusals, ..Gateway::new() };
    let no_resend: fn(TokenRefreshLayer) -> _ = |layer| layer.resend_if(|_, _, _| false);
    let forbidden = || Gateway { layered: no_resend, ..refused(1) }.client().0;
    is_not_refused(code(endpoint(forbidden()))).await;
    is_not_refused(Bench::new(login(forbidden()))).await;

    // A refusal of the second attempt is not of the gateway's token, which is new. The next one starts no refresh.
    let (client, presented) = refused(3).client();
    assert_eq!(code(endpoint(client.clone())).class().await, "LoginRequired");
    is_not_refused(code(endpoint(client))).await;
    assert_eq!(presented.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_refresh_hangs_for_less_than_the_time_limit_uses_up_no_code() {
    let hangs = Some(Duration::from_secs(25));
    let (client, presented) = Gateway { fails: 1..2, hangs, refusal: Some(PAGE), ..Gateway::new() }.client();
    is_not_refused(code(endpoint(client))).await;
    assert_eq!(presented.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_authority_says_itself_is_told_and_not_the_gateways_login() {
    let refused = |refusal| {
        let gateway = Gateway { fails: 1..2, fail: FetchError::login_required, ..Gateway::new() };
        code(endpoint(Gateway { refusal: Some(refusal), ..gateway }.client().0))
    };
    let (class, error) = refused(r#"{"error":"temporarily_unavailable"}"#).failure().await;
    assert_eq!((class.as_str(), error.is_login_required()), ("Transient", false));

    // Behind another session's error it is that session's authority that has spoken, and the error says what it means.
    let (_, error) = refused(r#"{"error":"invalid_grant"}"#).failure().await;
    let behind = BoxError::from(FetchError::from(error));
    assert!(Error::find(&*behind).is_some_and(Error::is_login_required));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_inner_one_of_two_gateways_refuses_no_code() {
    let layer = async |header, next: fn() -> Result<Token, FetchError>| {
        let session = Session::builder(source_fn(move |_| future::ready(next())))
            .placement(Placement::header(header).unwrap())
            .build();
        session.login(Token::new("first")).await.unwrap();
        TokenRefreshLayer::new(session, "https://id.test".parse::<Origin>().unwrap())
    };
    // The outer layer sends it again, and what it says is that this was refused, too.
    let outer = layer("x-outer", || Ok(Token::new("second"))).await;
    let inner = layer("x-inner", || Err(FetchError::transient("not now"))).await;
    let authority = service_fn(|_: Request<ReplayBody<ReplayBody<Content>>>| {
        let refusal = Response::builder().status(401).body(Full::<Bytes>::from(PAGE));
        future::ready(Ok::<_, io::Error>(refusal.unwrap()))
    });
    let client = BoxCloneSyncService::new(outer.layer(inner.layer(authority)));
    assert_eq!(code(endpoint(client)).class().await, "Ambiguous");
}
