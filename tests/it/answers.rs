//! What an answer means, and that it reaches the caller as it came.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, Version, header::WWW_AUTHENTICATE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, util::MapResponse};
use tower_token_refresh::{
    Answer, BoxError, Classify, NoToken, NotResent, Placement, RefreshFailure, ReplayBody, SkipRefresh,
    Standard, Statuses, TokenRefreshLayer, Verdict,
    test_util::{Endpoint, Failure, Gate, ModelBody, Refusal, Route},
};

use crate::{
    script::{Lab, Reset, numbered, outcome, status},
    world::{World, get, origin, post},
};

const HANDED_ON: [u16; 34] = [
    100, 101, 103, 200, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308, 400, 402, 404, 405,
    407, 408, 409, 419, 421, 425, 429, 440, 500, 502, 503, 504, 599,
];

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_refusal_comes_back_as_it_is() {
    for (code, has_token) in HANDED_ON.into_iter().flat_map(|code| [(code, true), (code, false)]) {
        let answer = Response::builder()
            .status(code)
            .version(Version::HTTP_2)
            .header("location", "https://other.test/")
            .header("www-authenticate", r#"Bearer error="invalid_token""#)
            .header("proxy-authenticate", r#"Bearer error="invalid_token""#)
            .header("retry-after", "7")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .extension(7_u8)
            .body(ModelBody::from("as it came"))
            .unwrap();
        let (given, _) = answer.clone().into_parts();
        let lab = Lab::new([Ok(answer)]);
        if has_token {
            lab.session.token().await.unwrap();
        }
        let (head, body) = lab.send(post("/orders", "an order")).await.unwrap().into_parts();
        assert_eq!((head.status, head.version, &head.headers), (given.status, given.version, &given.headers));
        assert_eq!((head.extensions.len(), head.extensions.get()), (1, Some(&7_u8)), "{code}");
        assert_eq!(body.bytes(), "as it came");
        assert_eq!((lab.sent().len(), lab.fetches()), (1, 1), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_refreshed_whatever_the_refusal_looks_like() {
    for (code, challenge) in [
        (401, None),
        (401, Some(r#"Bearer error="invalid_token""#)),
        (401, Some(r#"Basic realm="a different scheme""#)),
        (401, Some(r#"Bearer error="unbalanced"#)),
        (403, None),
        (403, Some(r#"Bearer error="invalid_token""#)),
    ] {
        let mut refusal = status(code).unwrap();
        if let Some(challenge) = challenge {
            refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
        }
        let lab = Lab::new([Ok(refusal), status(200)]);
        assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::OK);
        assert_eq!((lab.sent().len(), lab.fetches()), (2, 2), "{code} {challenge:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_new_token_cannot_cure_comes_back_with_its_challenge() {
    for code in [401, 403] {
        for challenge in [
            r#"Bearer error="insufficient_scope", scope="admin""#,
            r#"Bearer error="insufficient_user_authentication", acr_values="mfa", max_age=60"#,
            r#"DPoP error="use_dpop_nonce""#,
        ] {
            let refusal = Response::builder()
                .status(code)
                .header(WWW_AUTHENTICATE, challenge)
                .body(ModelBody::from("why not"))
                .unwrap();
            let lab = Lab::new([Ok(refusal)]);
            let response = lab.send(get("/me")).await.unwrap();
            assert_eq!((response.status().as_u16(), response.extensions().is_empty()), (code, true));
            assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
            assert_eq!(response.body().bytes(), "why not");
            assert_eq!((lab.sent().len(), lab.fetches()), (1, 1), "{code} {challenge}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_classifier_given_replaces_the_standard_one() {
    let by_code = |answer: &Answer<'_>| match answer.headers().get("x-code") {
        Some(code) if code == "42001" => Verdict::Reject,
        _ => Verdict::Accept,
    };
    let coded = || Ok(Response::builder().header("x-code", "42001").body(ModelBody::default()).unwrap());
    type Layers = fn(TokenRefreshLayer) -> TokenRefreshLayer;
    let statuses: Layers = |layer| layer.classifier(Statuses::reject([403, 419]).unwrap());
    let added: Layers = |layer| layer.classifier(Standard.or(Statuses::reject([419]).unwrap()));
    let twice: Layers = |layer| layer.classifier(|_: &Answer<'_>| Verdict::Reject).classifier(Standard);
    for (layer, refusal, is_refreshed) in [
        (statuses, 401, false),
        (statuses, 403, true),
        (statuses, 419, true),
        (added, 401, true),
        (added, 403, true),
        (added, 419, true),
        (added, 440, false),
        (twice, 200, false),
        (twice, 401, true),
    ] {
        let lab = Lab::with([status(refusal), status(204)], |session| session, layer);
        let response = lab.send(get("/me")).await.unwrap();
        assert_eq!(response.status(), if is_refreshed { 204 } else { refusal }, "{refusal}");
        assert_eq!(lab.fetches(), 1 + usize::from(is_refreshed), "{refusal}");
    }
    let lab = Lab::with([coded(), status(401)], |session| session, |layer| layer.classifier(by_code));
    assert_eq!(lab.send(get("/me")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!((lab.sent().len(), lab.fetches()), (2, 2), "the 200 is a refusal, the 401 is none");
}

/// Notes the attempt of each answer it is asked about.
fn noting(asked: &Arc<Mutex<Vec<u8>>>) -> impl Classify {
    let asked = asked.clone();
    move |answer: &Answer<'_>| {
        asked.lock().unwrap().push(answer.attempt());
        assert_eq!(
            (answer.method().as_str(), answer.uri().to_string()),
            ("GET", get("/me").uri().to_string())
        );
        Standard.classify(answer)
    }
}

#[tokio::test(start_paused = true)]
async fn each_answer_is_classified_once_and_only_where_the_token_was_sent() {
    let plain = || get("/me");
    let elsewhere = || Request::get("https://other.test/me").body(ModelBody::default()).unwrap();
    let marked = || {
        let mut request = get("/me");
        request.extensions_mut().insert(NoToken);
        request
    };
    let skipping = || {
        let mut request = get("/me");
        request.extensions_mut().insert(SkipRefresh);
        request
    };
    type Case = (fn() -> Request<ModelBody>, &'static [u16], &'static [u8]);
    let table: [Case; 7] = [
        (plain, &[200], &[1]),
        (plain, &[500], &[1]),
        (plain, &[401, 200], &[1, 2]),
        (plain, &[401, 401], &[1, 2]),
        (elsewhere, &[401], &[]),
        (marked, &[401], &[]),
        (skipping, &[401], &[]),
    ];
    for ((request, codes, expected), has_token) in table.iter().flat_map(|case| [(case, true), (case, false)])
    {
        let asked = Arc::default();
        let answers = codes.iter().map(|code| status(*code));
        // In the query, so that the classifier would see the token if it saw what is sent.
        let query = Placement::query("access_token").unwrap();
        let lab =
            Lab::with(answers, |session| session.placement(query), |layer| layer.classifier(noting(&asked)));
        if has_token {
            lab.session.token().await.unwrap();
        }
        lab.send(request()).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), *expected, "{codes:?} {has_token}");
    }
    let asked = Arc::default();
    let lab = Lab::with([Err(Reset)], |session| session, |layer| layer.classifier(noting(&asked)));
    lab.send(get("/me")).await.unwrap_err();
    assert!(asked.lock().unwrap().is_empty());
}

/// A body of two frames, the second one behind a gate.
fn gated(gate: &Gate) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
    let gate = gate.clone();
    let frames = stream::unfold((0, gate), |(at, gate)| async move {
        if at == 1 {
            gate.pass().await;
        }
        let text = ["first", "second"].get(at)?;
        Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), (at + 1, gate)))
    });
    StreamBody::new(Box::pin(frames))
}

#[tokio::test(start_paused = true)]
async fn the_first_frame_of_a_response_arrives_before_the_last_is_sent() {
    let answers = [&[200][..], &[500], &[401, 200], &[401, 401]];
    for (codes, has_token) in answers.into_iter().flat_map(|codes| [(codes, true), (codes, false)]) {
        let (answers, gate) = (Arc::new(Mutex::new(codes.iter())), Gate::new());
        let inner = tower::service_fn({
            let gate = gate.clone();
            move |_: Request<ReplayBody<ModelBody>>| {
                let mut response = Response::new(gated(&gate));
                *response.status_mut() =
                    StatusCode::from_u16(*answers.lock().unwrap().next().unwrap()).unwrap();
                async move { Ok::<_, Infallible>(response) }
            }
        });
        let session = numbered().0.build();
        if has_token {
            session.token().await.unwrap();
        }
        let client = TokenRefreshLayer::new(session, origin()).layer(inner);
        let response = client.oneshot(post("/stream", "go")).await.unwrap();
        assert_eq!(response.status().as_u16(), *codes.last().unwrap());
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        let mut second = task::spawn(body.frame());
        assert_pending!(second.poll());
        gate.open();
        assert!(second.is_woken());
        let frame = assert_ready!(second.poll()).unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "second");
    }
}

/// Fails the test when it is read.
struct Unread;

impl Body for Unread {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("nobody but the caller reads a response")
    }
}

#[tokio::test(start_paused = true)]
async fn no_response_is_read_by_the_layer() {
    let answers = [&[200][..], &[403, 200], &[401, 401], &[401, 500]];
    for (codes, has_token) in answers.into_iter().flat_map(|codes| [(codes, true), (codes, false)]) {
        let answers = Arc::new(Mutex::new(codes.iter()));
        let inner = tower::service_fn(move |_: Request<ReplayBody<ModelBody>>| {
            let mut response = Response::new(Unread);
            *response.status_mut() = StatusCode::from_u16(*answers.lock().unwrap().next().unwrap()).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let session = numbered().0.build();
        if has_token {
            session.token().await.unwrap();
        }
        let client = TokenRefreshLayer::new(session, origin()).layer(inner);
        let response = client.oneshot(get("/me")).await.unwrap();
        assert_eq!(response.status().as_u16(), *codes.last().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_request_is_resent_as_one_and_keeps_the_length_it_was_told() {
    let answer = Response::builder().header("content-length", "4096").body(ModelBody::default()).unwrap();
    let lab = Lab::new([status(401), Ok(answer)]);
    let request = Request::head("https://api.test/file").body(ModelBody::default()).unwrap();
    let response = lab.send(request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-length"]),
        (StatusCode::OK, &"4096".parse().unwrap())
    );
    for sent in lab.sent() {
        assert_eq!(sent.head.method, "HEAD");
        assert!(sent.ended_at_once, "no body is made up for it");
    }
    assert_eq!(lab.sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_transport_error_is_the_callers_and_starts_no_refresh() {
    let lab = Lab::new([Err(Reset)]);
    let failure: BoxError = lab.send(post("/orders", "an order")).await.unwrap_err();
    assert_eq!(failure.downcast_ref(), Some(&Reset), "the very error of the service");
    assert_eq!((lab.sent().len(), lab.fetches()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn if_the_refresh_fails_the_refused_response_comes_back_whole_with_the_reason() {
    let world = World::revoked().await;
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::SERVICE_UNAVAILABLE, ""));
    let marked = MapResponse::new(world.api.clone(), |mut response: Response<ModelBody>| {
        response.extensions_mut().insert("from below");
        response
    });
    let client = TokenRefreshLayer::new(world.session.clone(), origin()).layer(marked);
    let response = client.oneshot(post("/echo", "hello")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer realm="model", error="invalid_token""#);
    assert_eq!(response.extensions().get(), Some(&"from below"));
    assert_eq!(response.body().bytes(), r#"{"error":"invalid_token"}"#);
    let outcome = outcome(&response);
    assert_eq!((outcome.attempts(), outcome.is_refused()), (1, true));
    assert_eq!(outcome.not_resent(), Some(NotResent::RefreshFailed));
    let failure: &RefreshFailure = response.extensions().get().unwrap();
    assert!(failure.error().is_transient());
    assert_eq!(world.api.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_third_answer_being_an_error_costs_no_refresh_of_its_own() {
    let world = World::revoked().await;
    let api = world.api.clone().route("/sick", Route::Always(Refusal::Status(StatusCode::BAD_GATEWAY)));
    let sends: Vec<_> =
        (0..30).map(|at| world.send(get(if at % 3 == 0 { "/sick" } else { "/me" }))).collect();
    for (at, response) in futures_util::future::join_all(sends).await.into_iter().enumerate() {
        let expected = if at % 3 == 0 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        assert_eq!(response.unwrap().status(), expected);
    }
    assert_eq!(api.answered(StatusCode::BAD_GATEWAY), 10, "none was sent again");
    assert_eq!(world.authority.counts().refreshes, 1);
}
