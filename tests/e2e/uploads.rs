//! Uploads that are refused before they have ended.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{sync::mpsc, task::JoinHandle};
use tower::{ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, ErrorKind, NotResent, Outcome, RefreshFailure, TokenRefresh,
    body::NotReplayable,
    test_util::{Endpoint, Failure, Gate, ModelApi, Phase, Route, Upload as Fate},
};

use crate::kit::{
    Http, Pool, Server, Tracked, Upload, UploadControl, World, get, json, pattern, post, settle, within,
};

const LENGTH: u64 = 10 * 1024 * 1024;
const SENT: u64 = 32 * 1024;
const LIMIT: u64 = 64 * 1024;

/// What hyper buffers by itself, on either HTTP.
const TRANSPORT: u64 = 1024 * 1024;

/// An upload that has been refused, and whose refresh is being held.
struct Refused {
    world: World,
    /// Kept to the end: an HTTP/2 connection of hyper's loses the tail of an upload with its last client.
    client: TokenRefresh<Pool>,
    upload: UploadControl,
    call: JoinHandle<Result<Response<Incoming>, BoxError>>,
    fetch: Gate,
}

impl Refused {
    /// The server refuses when `sent` bytes have been produced; the rest is allowed as soon as the client has read
    /// the refusal, not earlier.
    async fn after(sent: u64, http: Http, route: Route, upload: (Upload, UploadControl)) -> Self {
        let world = World::revoked(http, |api| api.route("/upload", route)).await;
        let fetch = world.authority.hold(Endpoint::Refresh);
        let judge = world.api.hold_path(Phase::Judge, "/upload");
        let (client, mut judged) = world.watched_client();
        let (body, upload) = upload;
        upload.allow(sent);
        let mut request = post(world.url("/upload"), body);
        request.headers_mut().insert(header::TRAILER, "digest".parse().unwrap());
        let call = tokio::spawn(client.clone().oneshot(request));
        judge.waiting(1).await;
        upload.produced(sent).await;
        judge.open();
        judged.at_least(1).await;
        upload.allow_all();
        fetch.waiting(1).await;
        Refused { world, client, upload, call, fetch }
    }

    /// Nothing has moved since the refusal, although it could.
    async fn is_paused_at(&self, sent: u64) {
        settle().await;
        assert!(!self.call.is_finished());
        let progress = self.upload.progress();
        assert_eq!(
            (progress.produced, progress.alive),
            (sent, sent),
            "the upload waits, and this much is kept"
        );
        assert!(!progress.dropped);
    }

    /// Lets the refresh go on: the request is sent again and accepted, `length` bytes of it.
    async fn resend(self, length: u64) -> (World, UploadControl) {
        let Refused { world, client: _client, upload, call, fetch } = self;
        fetch.open();
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
        let answer = json(response.into_body()).await;
        assert_eq!(answer["length"], length);
        assert_eq!(answer["checksum"], checksum(length));
        assert_eq!(upload.progress().produced, length, "each byte was asked for once");
        world.server.idle().await;
        upload.gone().await;
        assert_eq!(world.api.requests().len(), 2);
        assert_eq!(world.authority.counts().refreshes, 1);
        (world, upload)
    }
}

fn checksum(length: u64) -> String {
    ModelApi::checksum(&pattern(0, length))
}

async fn gated(http: Http, route: Route, fate: Fate) {
    let refused = Refused::after(SENT, http, route, Upload::new(LENGTH)).await;
    refused.is_paused_at(SENT).await;
    let (world, upload) = refused.resend(LENGTH).await;
    let first = &world.api.requests()[0];
    assert_eq!(first.upload, fate);
    assert!(pattern(0, SENT).starts_with(&first.body), "of the first stream only a beginning has come");
    assert!(upload.progress().peak <= LIMIT + TRANSPORT, "{:?}", upload.progress());
}

#[tokio::test]
async fn ten_mebibytes_over_http1_are_resent_whole_while_the_refused_stream_is_kept_open() {
    within(gated(Http::One, Route::RefuseEarly, Fate::Broken)).await;
}

#[tokio::test]
async fn ten_mebibytes_over_http2_are_resent_whole_while_the_refused_stream_is_kept_open() {
    within(gated(Http::Two, Route::RefuseEarly, Fate::Broken)).await;
}

#[tokio::test]
async fn ten_mebibytes_over_http1_are_resent_whole_when_the_server_drops_the_refused_stream() {
    within(gated(Http::One, Route::RefuseAndDrop, Fate::Dropped)).await;
}

#[tokio::test]
async fn ten_mebibytes_over_http2_are_resent_whole_when_the_server_drops_the_refused_stream() {
    within(gated(Http::Two, Route::RefuseAndDrop, Fate::Dropped)).await;
}

async fn refused_before_its_first_byte(http: Http) {
    for upload in [Upload::new(LENGTH), unannounced(LENGTH)] {
        let refused = Refused::after(0, http, Route::RefuseEarly, upload).await;
        refused.is_paused_at(0).await;
        let (world, _) = refused.resend(LENGTH).await;
        let first = &world.api.requests()[0];
        assert_eq!((first.upload, first.body.len()), (Fate::Broken, 0));
    }
}

fn unannounced(length: u64) -> (Upload, UploadControl) {
    let (body, upload) = Upload::new(length);
    (body.unannounced(), upload)
}

#[tokio::test]
async fn an_upload_over_http1_may_be_refused_before_its_first_byte() {
    within(refused_before_its_first_byte(Http::One)).await;
}

#[tokio::test]
async fn an_upload_over_http2_may_be_refused_before_its_first_byte() {
    within(refused_before_its_first_byte(Http::Two)).await;
}

async fn refused_between_frames(http: Http) {
    // In the middle, at the limit to the byte, and after the last byte but before the end.
    for (sent, length) in [(20_000, 52_000), (LIMIT, 3 * LIMIT), (52_000, 52_000)] {
        let refused = Refused::after(sent, http, Route::RefuseEarly, unannounced(length)).await;
        refused.is_paused_at(sent).await;
        refused.resend(length).await;
    }
}

#[tokio::test]
async fn an_upload_over_http1_may_be_refused_between_any_two_frames() {
    within(refused_between_frames(Http::One)).await;
}

#[tokio::test]
async fn an_upload_over_http2_may_be_refused_between_any_two_frames() {
    within(refused_between_frames(Http::Two)).await;
}

async fn refused_with_trailers(http: Http) {
    let with_trailer = |length| {
        let (body, upload) = Upload::new(length);
        (body.trailer("digest", "of-everything"), upload)
    };
    let digest = HeaderMap::from_iter([("digest".parse().unwrap(), "of-everything".parse().unwrap())]);
    // Before they were produced, and afterwards.
    let early = Refused::after(SENT, http, Route::RefuseEarly, with_trailer(LENGTH)).await;
    let (world, _) = early.resend(LENGTH).await;
    assert_eq!(world.api.requests()[1].trailers.as_ref(), Some(&digest));

    let world = World::revoked(http, |api| api).await;
    let (body, upload) = with_trailer(SENT);
    upload.allow_all();
    let mut request = post(world.url("/"), body);
    request.headers_mut().insert(header::TRAILER, "digest".parse().unwrap());
    let response = world.client().oneshot(request).await.unwrap();
    assert_eq!(json(response.into_body()).await["checksum"], checksum(SENT));
    let requests = world.api.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.trailers.as_ref() == Some(&digest)), "{requests:?}");
}

#[tokio::test]
async fn trailers_over_http1_come_with_the_resend() {
    within(refused_with_trailers(Http::One)).await;
}

#[tokio::test]
async fn trailers_over_http2_come_with_the_resend() {
    within(refused_with_trailers(Http::Two)).await;
}

async fn refused_and_not_refreshed(http: Http) {
    let refused = Refused::after(SENT, http, Route::RefuseEarly, Upload::new(LENGTH)).await;
    refused.is_paused_at(SENT).await;
    let Refused { world, client: _client, upload, call, fetch } = refused;
    world.authority.fail_always(Endpoint::Refresh, Failure::Status(StatusCode::BAD_GATEWAY, "{}"));
    fetch.open();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    let outcome = response.extensions().get::<Outcome>().unwrap();
    assert_eq!((outcome.attempts(), outcome.not_resent()), (1, Some(NotResent::RefreshFailed)));
    let failure = response.extensions().get::<RefreshFailure>().unwrap();
    assert_eq!(failure.error().kind(), ErrorKind::Transient);
    assert_eq!(json(response.into_body()).await["error"], "invalid_token");

    world.server.idle().await;
    upload.gone().await;
    let requests = world.api.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].upload, Fate::Complete, "the upload that was refused goes on to its end");
    assert_eq!(ModelApi::checksum(&requests[0].body), checksum(LENGTH));
}

#[tokio::test]
async fn an_upload_over_http1_goes_on_when_the_refresh_fails() {
    within(refused_and_not_refreshed(Http::One)).await;
}

#[tokio::test]
async fn an_upload_over_http2_goes_on_when_the_refresh_fails() {
    within(refused_and_not_refreshed(Http::Two)).await;
}

/// The source is faster than the round trip: when the refusal is read, more than is kept has left.
async fn ungated(http: Http, route: Route) {
    let keeps_open = matches!(route, Route::RefuseEarly);
    let world = World::revoked(http, |api| api.route("/upload", route)).await;
    let judge = world.api.hold_path(Phase::Judge, "/upload");
    let (body, upload) = Upload::new(LENGTH);
    upload.allow_all();
    let client = world.client();
    let call = tokio::spawn(client.clone().oneshot(post(world.url("/upload"), body)));
    upload.produced(LIMIT + 1).await;
    judge.open();
    match call.await.unwrap() {
        Ok(response) => {
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let outcome = response.extensions().get::<Outcome>().unwrap();
            assert_eq!(outcome.not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
            assert_eq!(outcome.attempts(), 1);
            assert_eq!(json(response.into_body()).await["error"], "invalid_token");
            // The refresh was asked for, for the others: the next request is accepted at once.
            let next = client.clone().oneshot(get(world.url("/"))).await.unwrap();
            assert_eq!(next.status(), StatusCode::OK);
            assert!(next.extensions().get::<Outcome>().is_none());
            assert_eq!(world.authority.counts().refreshes, 1);
        }
        Err(error) => {
            assert!(!keeps_open, "{error}");
            assert!(error.is::<hyper_util::client::legacy::Error>(), "{error}");
        }
    }
    world.server.idle().await;
    upload.gone().await;
    let requests = world.api.requests();
    assert_eq!(requests.iter().filter(|request| request.head.uri.path() == "/upload").count(), 1);
    if keeps_open {
        assert_eq!(requests[0].upload, Fate::Complete);
        assert_eq!(ModelApi::checksum(&requests[0].body), checksum(LENGTH));
    }
    assert!(upload.progress().peak <= LIMIT + TRANSPORT, "{:?}", upload.progress());
}

#[tokio::test]
async fn an_upload_over_http1_that_outran_the_limit_is_not_resent() {
    within(ungated(Http::One, Route::RefuseEarly)).await;
}

#[tokio::test]
async fn an_upload_over_http2_that_outran_the_limit_is_not_resent() {
    within(ungated(Http::Two, Route::RefuseEarly)).await;
}

#[tokio::test]
async fn an_upload_over_http1_that_outran_the_limit_is_not_resent_when_the_server_drops_it() {
    within(ungated(Http::One, Route::RefuseAndDrop)).await;
}

#[tokio::test]
async fn an_upload_over_http2_that_outran_the_limit_is_not_resent_when_the_server_drops_it() {
    within(ungated(Http::Two, Route::RefuseAndDrop)).await;
}

/// Nobody decides whether the refusal or the limit comes first.
async fn racing(http: Http) {
    for route in [Route::RefuseEarly, Route::RefuseAndDrop, Route::RefuseAndDrop] {
        let world = World::revoked(http, |api| api.route("/upload", route)).await;
        let (body, upload) = Upload::new(LENGTH);
        upload.allow_all();
        let client = world.client();
        match client.clone().oneshot(post(world.url("/upload"), body)).await {
            Ok(response) if response.status() == StatusCode::OK => {
                assert_eq!(json(response.into_body()).await["checksum"], checksum(LENGTH));
            }
            Ok(response) => {
                let outcome = response.extensions().get::<Outcome>().unwrap();
                assert_eq!(outcome.not_resent(), Some(NotResent::Body(NotReplayable::TooLarge)));
            }
            Err(error) => assert!(error.is::<hyper_util::client::legacy::Error>(), "{error}"),
        }
        world.server.idle().await;
        upload.gone().await;
        let requests = world.api.requests();
        assert!(requests.len() <= 2);
        for request in requests.iter().filter(|request| request.upload == Fate::Complete) {
            assert_eq!(ModelApi::checksum(&request.body), checksum(LENGTH));
        }
    }
}

#[tokio::test]
async fn an_upload_over_http1_that_races_its_refusal_is_never_resent_wrong() {
    within(racing(Http::One)).await;
}

#[tokio::test]
async fn an_upload_over_http2_that_races_its_refusal_is_never_resent_wrong() {
    within(racing(Http::Two)).await;
}

/// The server answers before the upload has ended, and says yes.
async fn accepted_early(http: Http) {
    let (sender, mut lengths) = mpsc::unbounded_channel();
    let (first, mut first_bytes) = mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<Tracked<Incoming>>| {
        let (sender, first) = (sender.clone(), first.clone());
        async move {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut all = Vec::new();
                while !body.is_end_stream() {
                    let frame = body.frame().await.expect("there is more").expect("the upload goes on");
                    all.extend_from_slice(frame.data_ref().expect("data"));
                    let _ = first.send(all.len() as u64);
                }
                let _ = sender.send((all.len() as u64, ModelApi::checksum(&all)));
            });
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from_static(b"welcome"))))
        }
    });
    let world = World::with(http, |api| api).await;
    let server = Server::start(http, handler).await;
    let client = world.client_at(&server);
    let (body, upload) = Upload::new(LENGTH);
    upload.allow(SENT);
    let response = client.clone().oneshot(post(server.url("/"), body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    while first_bytes.recv().await.unwrap() < SENT {}
    // All of it has left, and nobody will ask for it again.
    upload.until(|progress| progress.produced == SENT && progress.alive == 0).await;
    upload.allow_all();
    assert_eq!(lengths.recv().await.unwrap(), (LENGTH, checksum(LENGTH)));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "welcome");
    server.idle().await;
    upload.gone().await;
}

#[tokio::test]
async fn acceptance_over_http1_frees_what_was_kept_and_the_upload_goes_on() {
    within(accepted_early(Http::One)).await;
}

#[tokio::test]
async fn acceptance_over_http2_frees_what_was_kept_and_the_upload_goes_on() {
    within(accepted_early(Http::Two)).await;
}

/// A client that sends its body when the server asks for it, and a server that refuses instead of asking.
async fn refused_instead_of_continue(http: Http, (body, upload): (Upload, UploadControl)) {
    let world = World::revoked(http, |api| api.route("/upload", Route::RefuseAndDrop)).await;
    let second = world.api.hold_path(Phase::Judge, "/upload");
    second.let_through(1);
    let mut request = post(world.url("/upload"), body);
    request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
    let asked = upload.clone();
    hyper::ext::on_informational(&mut request, move |_| asked.allow_all());
    let call = tokio::spawn(world.client().oneshot(request));
    second.arrived(2).await;
    assert_eq!(upload.progress().produced, 0, "the refused attempt took nothing");
    second.open();
    if http == Http::Two {
        // hyper's server says "100 Continue" over HTTP/1.1 only.
        upload.allow_all();
    }
    let response = call.await.unwrap().unwrap();
    assert_eq!(json(response.into_body()).await["checksum"], checksum(LENGTH));
    assert_eq!(world.api.requests()[0].body.len(), 0);
    assert!(world.api.requests().iter().all(|request| request.head.headers.contains_key(header::EXPECT)));
}

#[tokio::test]
async fn a_body_over_http1_that_was_refused_instead_of_continued_is_sent_with_the_resend() {
    for upload in [Upload::new(LENGTH), unannounced(LENGTH)] {
        within(refused_instead_of_continue(Http::One, upload)).await;
    }
}

#[tokio::test]
async fn a_body_over_http2_that_was_refused_instead_of_continued_is_sent_with_the_resend() {
    for upload in [Upload::new(LENGTH), unannounced(LENGTH)] {
        within(refused_instead_of_continue(Http::Two, upload)).await;
    }
}
