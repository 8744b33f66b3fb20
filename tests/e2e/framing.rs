//! How a body is announced: the same on both attempts, and the same as without the layer.

use http::{
    HeaderMap, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, TRAILER, TRANSFER_ENCODING},
};
use tower::ServiceExt;
use tower_token_refresh::test_util::Route;

use crate::kit::{Http, Payload, Upload, World, delete, empty, full, get, head, pool, post, within};

const LONGER_THAN_THE_LIMIT: u64 = 100 * 1024;

/// What the server is told of this request when it is refused and sent again.
async fn announced(http: Http, make: impl Fn(String) -> Request<Payload>) -> HeaderMap {
    let world = World::revoked(http, |api| api).await;
    let response = world.client().oneshot(make(world.url("/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let bare = pool(http).request(make(world.url("/"))).await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    let [first, second, bare] = <[_; 3]>::try_from(world.api.requests())
        .expect("two attempts and the bare client's")
        .map(|mut request| {
            request.head.headers.remove(AUTHORIZATION);
            request.head.headers
        });
    assert_eq!(first, second);
    assert_eq!(first, bare);
    second
}

fn streamed(url: String, length: u64, shape: impl Fn(Upload) -> Upload) -> Request<Payload> {
    let (body, control) = Upload::new(length);
    control.allow_all();
    post(url, shape(body))
}

fn of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

async fn no_body(http: Http) {
    for headers in [announced(http, get).await, announced(http, head).await, announced(http, delete).await] {
        assert_eq!((of(&headers, &CONTENT_LENGTH), of(&headers, &TRANSFER_ENCODING)), (None, None));
    }
    // What hyper says of an empty POST is its own affair, as long as it says it twice.
    let headers = announced(http, |url| post(url, empty())).await;
    assert_eq!(of(&headers, &TRANSFER_ENCODING), None);
}

#[tokio::test]
async fn a_request_without_a_body_is_announced_alike_twice_over_http1() {
    within(no_body(Http::One)).await;
}

#[tokio::test]
async fn a_request_without_a_body_is_announced_alike_twice_over_http2() {
    within(no_body(Http::Two)).await;
}

async fn known_length(http: Http) {
    let headers = announced(http, |url| post(url, full("hello"))).await;
    assert_eq!((of(&headers, &CONTENT_LENGTH), of(&headers, &TRANSFER_ENCODING)), (Some("5"), None));
    // One that is recorded in several frames, and one too long to be kept whole, refused before its first byte.
    let headers = announced(http, |url| streamed(url, 40_000, |upload| upload)).await;
    assert_eq!((of(&headers, &CONTENT_LENGTH), of(&headers, &TRANSFER_ENCODING)), (Some("40000"), None));

    let world = World::revoked(http, |api| api.route("/early", Route::RefuseEarly)).await;
    let (client, mut judged) = world.watched_client();
    let (body, upload) = Upload::new(LONGER_THAN_THE_LIMIT);
    let call = tokio::spawn(client.oneshot(post(world.url("/early"), body)));
    judged.at_least(1).await;
    upload.allow_all();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    for request in world.api.requests() {
        assert_eq!(of(&request.head.headers, &CONTENT_LENGTH), Some("102400"));
        assert_eq!(of(&request.head.headers, &TRANSFER_ENCODING), None);
    }
}

#[tokio::test]
async fn a_known_length_is_announced_alike_twice_over_http1() {
    within(known_length(Http::One)).await;
}

#[tokio::test]
async fn a_known_length_is_announced_alike_twice_over_http2() {
    within(known_length(Http::Two)).await;
}

async fn unknown_length(http: Http) {
    let coding = (http == Http::One).then_some("chunked");
    let headers = announced(http, |url| streamed(url, 40_000, Upload::unannounced)).await;
    assert_eq!((of(&headers, &CONTENT_LENGTH), of(&headers, &TRANSFER_ENCODING)), (None, coding));

    let headers = announced(http, |url| {
        let mut request = streamed(url, 40_000, |upload| upload.trailer("digest", "d"));
        request.headers_mut().insert(TRAILER, "digest".parse().unwrap());
        request
    })
    .await;
    assert_eq!((of(&headers, &CONTENT_LENGTH), of(&headers, &TRANSFER_ENCODING)), (None, coding));
    assert_eq!(of(&headers, &TRAILER), Some("digest"));
}

#[tokio::test]
async fn an_unknown_length_is_announced_alike_twice_over_http1() {
    within(unknown_length(Http::One)).await;
}

#[tokio::test]
async fn an_unknown_length_is_announced_alike_twice_over_http2() {
    within(unknown_length(Http::Two)).await;
}
