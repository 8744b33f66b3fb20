use std::{io, panic::catch_unwind};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, request};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_test::{assert_pending, assert_ready, task::spawn};
use tower::ServiceExt;

use super::*;
use crate::{
    session::Session,
    source::source_fn,
    test_util::{Endpoint, Failure, Upload},
    token::Token,
};

#[tokio::test]
async fn a_good_token_is_answered_with_what_was_asked() {
    let (api, token) = api().await;
    let request = bearer("/orders?page=2", &token).method(Method::PUT).body(ModelBody::from("two")).unwrap();
    let answer = send(&api, request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body: Value = serde_json::from_slice(answer.body().bytes()).unwrap();
    let checksum = ModelApi::checksum(b"two");
    assert_eq!(
        body,
        json!({ "method": "PUT", "path": "/orders", "account": "alice", "length": 3, "checksum": checksum })
    );
    let echo = send(&api, bearer("/echo", &token).body(ModelBody::from("two")).unwrap()).await;
    assert_eq!(echo.body().bytes(), "two");
    assert_eq!(api.answered(StatusCode::OK), 2);
}

#[tokio::test]
async fn a_bad_token_meets_the_refusal() {
    let custom = Response::builder().status(418).body(Bytes::from_static(b"tea")).unwrap();
    let cases = [
        (Refusal::Unauthorized, 401, r#"{"error":"invalid_token"}"#),
        (Refusal::Status(StatusCode::UNAUTHORIZED), 401, ""),
        (Refusal::Status(StatusCode::FORBIDDEN), 403, ""),
        (Refusal::ForbiddenCode(10006), 403, r#"{"error_code":10006}"#),
        (Refusal::Errcode(42001), 200, r#"{"errcode":42001}"#),
        (Refusal::Custom(custom), 418, "tea"),
    ];
    for (refusal, status, body) in cases {
        let challenge = matches!(refusal, Refusal::Unauthorized);
        let (api, token) = api().await;
        let api = api.refusal(refusal);
        api.shared.authority.revoke_access();
        // Who brings no token is told of no error in it.
        let of_nobody = if challenge { "" } else { body };
        for (request, body) in [(Request::builder(), of_nobody), (bearer("/", &token), body)] {
            let answer = send(&api, request.body(ModelBody::default()).unwrap()).await;
            assert_eq!((answer.status().as_u16(), &answer.body().bytes()[..]), (status, body.as_bytes()));
            let challenges = answer.headers().get("www-authenticate").map(|it| it.to_str().unwrap());
            assert_eq!(challenges.is_some(), challenge);
            let has_error = challenges.is_some_and(|it| it.contains("error"));
            assert_eq!(has_error, challenge && !body.is_empty(), "{challenges:?}");
        }
    }
}

#[tokio::test]
async fn the_token_is_looked_for_in_its_one_place() {
    let (api, token) = api().await;
    let header = HeaderName::from_static("x-api-key");
    let basic = format!("Basic {}", STANDARD.encode(format!("{token}:")));
    let in_header = Request::get("/").header(&header, &token);
    let in_query = Request::get(format!("/?a=1&access_token={token}"));
    let in_basic = Request::get("/").header("authorization", basic.clone());
    let [loose_bearer, loose_basic] = [format!("bearer   {token}"), basic.replace("Basic ", "BASIC  ")]
        .map(|it| Request::get("/").header("authorization", it));
    let cases = [
        (Credential::Authorization, [200, 200, 200, 200, 401, 401]),
        (Credential::Header(header), [401, 401, 401, 401, 200, 401]),
        (Credential::Query("access_token"), [401, 401, 401, 401, 401, 200]),
    ];
    let requests = [bearer("/", &token), in_basic, loose_bearer, loose_basic, in_header, in_query]
        .map(|request| request.body(ModelBody::default()).unwrap());
    for (credential, statuses) in cases {
        let api = api.clone().credential(credential);
        for (request, status) in requests.iter().zip(statuses) {
            assert_eq!(send(&api, request.clone()).await.status().as_u16(), status);
        }
    }
}

#[tokio::test]
async fn a_credential_that_is_there_twice_is_a_bad_request() {
    let (api, token) = api().await;
    let twice = bearer("/", &token).header("authorization", format!("Bearer {token}"));
    let answer = send(&api, twice.body(ModelBody::default()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_route_may_ask_for_no_token_or_be_satisfied_with_none() {
    let (api, token) = api().await;
    let api = api
        .route("/health", Route::Open)
        .route("/admin", Route::Always(Refusal::Status(StatusCode::FORBIDDEN)));
    let health = send(&api, Request::get("/health").body(ModelBody::default()).unwrap()).await;
    let admin = send(&api, bearer("/admin", &token).body(ModelBody::default()).unwrap()).await;
    assert_eq!((health.status().as_u16(), admin.status().as_u16()), (200, 403));
}

#[test]
fn a_path_that_no_request_can_have_is_refused() {
    let api = || ModelApi::new(ModelAuthority::new());
    let refusals = |path: &'static str| {
        let route = catch_unwind(|| api().route(path, Route::Open)).is_err();
        [route, catch_unwind(|| api().hold_path(Phase::Judge, path)).is_err()]
    };
    for path in ["admin", "orders/1", "/orders?page=2", "/a#b", "/a b", "https://api.test/orders", ""] {
        assert_eq!(refusals(path), [true; 2], "{path:?}");
    }
    for path in ["/", "/admin", "/a/%20", "//a/../b", "*"] {
        assert_eq!(refusals(path), [false; 2], "{path:?}");
    }
}

#[tokio::test]
async fn the_log_keeps_no_session_alive() {
    let (api, token) = api().await;
    let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
    let mut changes = session.subscribe();
    changes.next().await;
    let request = bearer("/", &token).extension(session).body(ModelBody::default()).unwrap();
    send(&api, request).await;
    assert_eq!(changes.next().await, None);
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn an_early_refusal_goes_out_while_the_upload_is_open() {
    let (api, token) = api().await;
    let api = api.route("/upload", Route::RefuseEarly);
    let (sender, body) = open_upload();
    let answer = api.clone().oneshot(Request::post("/upload").body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(api.requests()[0].upload, Upload::Open);
    sender.send("late".into()).unwrap();
    drop(sender);
    tokio::task::yield_now().await;
    assert_eq!((api.requests()[0].upload, &*api.requests()[0].body), (Upload::Complete, &b"late"[..]));

    let accepted = send(&api, bearer("/upload", &token).body(ModelBody::from("whole")).unwrap()).await;
    assert_eq!(accepted.status(), StatusCode::OK);
    assert_eq!(api.requests()[1].body, "whole");
}

#[tokio::test]
async fn an_early_refusal_can_drop_the_upload() {
    let (api, _) = api().await;
    let api = api.route("/upload", Route::RefuseAndDrop);
    let (sender, body) = open_upload();
    let answer = api.clone().oneshot(Request::post("/upload").body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(api.requests()[0].upload, Upload::Dropped);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_request_held_after_its_judgement_is_refused_late() {
    let (api, token) = api().await;
    let gate = api.hold_path(Phase::Answer, "/slow");
    let ask = |path: &str| bearer(path, &token).body(ModelBody::default()).unwrap();
    api.shared.authority.revoke_access();
    let mut slow = spawn(api.clone().oneshot(ask("/slow")));
    assert_pending!(slow.poll());
    gate.waiting(1).await;
    assert_eq!(send(&api, ask("/fast")).await.status(), StatusCode::UNAUTHORIZED);
    gate.open();
    assert_eq!(assert_ready!(slow.poll()).unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(api.max_in_flight(), 2);
}

#[tokio::test]
async fn a_request_held_before_its_judgement_may_lose_its_token_meanwhile() {
    let (api, token) = api().await;
    let gate = api.hold(Phase::Judge);
    let mut call = spawn(api.clone().oneshot(bearer("/", &token).body(ModelBody::default()).unwrap()));
    assert_pending!(call.poll());
    api.shared.authority.revoke_access();
    gate.let_through(1);
    assert_eq!(assert_ready!(call.poll()).unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn requests_are_remembered_whole_and_shown_without_values() {
    let (api, token) = api().await;
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
    let frames =
        [Frame::data(Bytes::from("one")), Frame::data("two".into()), Frame::trailers(trailers.clone())];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, io::Error>)));
    let request = bearer("/a?access_token=q-secret", &token).extension(7_u8).body(body).unwrap();
    api.clone().oneshot(request).await.unwrap();
    let received = api.requests().remove(0);
    assert_eq!(received.body, "onetwo");
    assert_eq!((received.trailers.as_ref(), received.upload), (Some(&trailers), Upload::Complete));
    assert_eq!(received.head.extensions.get::<u8>(), Some(&7));
    let shown = format!("{received:?} {api:?}");
    assert!(!shown.contains("access-") && !shown.contains("q-secret"), "{shown}");
}

#[tokio::test]
async fn a_broken_body_fails_the_call_and_is_remembered_as_far_as_it_came() {
    let (api, _) = api().await;
    let frames = [Ok(Frame::data(Bytes::from("half"))), Err(io::Error::other("the end"))];
    let body = StreamBody::new(stream::iter(frames));
    let error = api.clone().oneshot(Request::new(body)).await.unwrap_err();
    assert!(error.is::<io::Error>());
    assert_eq!((api.requests()[0].upload, &*api.requests()[0].body), (Upload::Broken, &b"half"[..]));
}

#[tokio::test]
async fn behind_hyper_a_reset_drops_the_connection() {
    let authority = ModelAuthority::new();
    authority.fail_next(Endpoint::Code, Failure::Reset);
    let (near, far) = tokio::io::duplex(4096);
    let service = TowerToHyperService::new(authority.clone());
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    let server = tokio::spawn(server);
    let connection = tokio::spawn(connection);
    let answer = client.send_request(Request::post("/code").body(ModelBody::default()).unwrap()).await;
    assert!(answer.unwrap_err().is_incomplete_message());
    assert!(server.await.unwrap().is_err());
    let _ = connection.await.unwrap();
    assert_eq!(authority.counts().codes, 1);
}

/// An API and a token that it accepts.
async fn api() -> (ModelApi, String) {
    let authority = ModelAuthority::new();
    let token = authority.login().await.unwrap().access().expose().to_owned();
    (ModelApi::new(authority), token)
}

/// A body that goes on as long as the sender lives.
fn open_upload() -> (mpsc::UnboundedSender<Bytes>, impl Body<Data = Bytes, Error = io::Error> + Send) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<Bytes>| {
        receiver.recv().await.map(|data| (Ok(Frame::data(data)), receiver))
    });
    (sender, StreamBody::new(frames))
}

fn bearer(uri: &str, token: &str) -> request::Builder {
    Request::builder().uri(uri).header("authorization", format!("Bearer {token}"))
}

async fn send(api: &ModelApi, request: Request<ModelBody>) -> Response<ModelBody> {
    api.clone().oneshot(request).await.unwrap()
}
