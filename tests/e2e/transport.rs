//! Connections that fail instead of answering, and servers that close them.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, Error, Outcome,
    test_util::{Endpoint, Refusal},
};

use crate::kit::{Http, Server, Tracked, World, full, get, post, within};

/// A server that answers the first so many requests with a 401 and breaks the connections of all others.
async fn failing(http: Http, refusals: usize) -> (Server, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let service = service_fn(move |request: Request<Tracked<Incoming>>| {
        let count = count.clone();
        async move {
            request.into_body().collect().await?;
            if count.fetch_add(1, Ordering::SeqCst) >= refusals {
                return Err(BoxError::from("the server breaks down"));
            }
            let mut response = Response::new(Full::new(Bytes::from_static(b"no")));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok(response)
        }
    });
    (Server::start(http, service).await, seen)
}

async fn reset_on_the_first_attempt(http: Http) {
    let world = World::with(http, |api| api).await;
    let (server, seen) = failing(http, 0).await;
    let error = world.client_at(&server).oneshot(post(server.url("/"), full("hello"))).await.unwrap_err();
    assert!(error.is::<legacy::Error>(), "{error}");
    assert!(Error::find(&*error).is_none());
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    assert_eq!(world.authority.counts().refreshes, 0);
    server.idle().await;
}

#[tokio::test]
async fn a_reset_over_http1_is_the_callers_and_starts_no_refresh() {
    within(reset_on_the_first_attempt(Http::One)).await;
}

#[tokio::test]
async fn a_reset_over_http2_is_the_callers_and_starts_no_refresh() {
    within(reset_on_the_first_attempt(Http::Two)).await;
}

async fn reset_on_the_resend(http: Http) {
    let world = World::with(http, |api| api).await;
    let (server, seen) = failing(http, 1).await;
    let error = world.client_at(&server).oneshot(post(server.url("/"), full("hello"))).await.unwrap_err();
    assert!(error.is::<legacy::Error>(), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert_eq!(world.authority.counts().refreshes, 1);
    server.idle().await;
}

#[tokio::test]
async fn a_reset_of_the_resend_over_http1_is_the_answer_and_starts_no_refresh() {
    within(reset_on_the_resend(Http::One)).await;
}

#[tokio::test]
async fn a_reset_of_the_resend_over_http2_is_the_answer_and_starts_no_refresh() {
    within(reset_on_the_resend(Http::Two)).await;
}

#[tokio::test]
async fn a_connection_over_http1_is_handed_over_to_another_protocol_after_a_refusal() {
    within(async {
        for (method, status) in
            [(Method::GET, StatusCode::SWITCHING_PROTOCOLS), (Method::CONNECT, StatusCode::OK)]
        {
            let world = World::with(Http::One, |api| api).await;
            let seen = Arc::new(AtomicUsize::new(0));
            let service = service_fn(move |mut request: Request<Tracked<Incoming>>| {
                let is_refused = seen.fetch_add(1, Ordering::SeqCst) == 0;
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = if is_refused { StatusCode::UNAUTHORIZED } else { status };
                if status == StatusCode::SWITCHING_PROTOCOLS && !is_refused {
                    to_echo(response.headers_mut());
                }
                let connection = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(connection) = connection.await else { return };
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(connection));
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                });
                ready(Ok::<_, BoxError>(response))
            });
            let server = Server::start(Http::One, service).await;
            let mut request = get(server.url("/"));
            if method == Method::GET {
                to_echo(request.headers_mut());
            }
            *request.method_mut() = method;
            let mut response = world.client_at(&server).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
            let mut connection = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
            connection.write_all(b"hello").await.unwrap();
            let mut echo = [0; 5];
            connection.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"hello", "{status}");
        }
    })
    .await;
}

/// Asks for a protocol that says everything again, or agrees to it.
fn to_echo(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
}

async fn closed_with_the_refusal(http: Http) {
    let refusal = Response::builder().status(401).header(header::CONNECTION, "close");
    let refusal = Refusal::Custom(refusal.body(Bytes::from_static(b"no")).unwrap());
    let world = World::revoked(http, |api| api.refusal(refusal)).await;
    let fetch = world.authority.hold(Endpoint::Refresh);
    for n in 1..=3 {
        let call = tokio::spawn(world.client().oneshot(post(world.url("/echo"), full("hello"))));
        fetch.waiting(1).await;
        world.server.until(|traffic| traffic.connections == 0).await;
        fetch.let_through(1);
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        // The client has gone with its pool.
        world.server.until(|traffic| traffic.connections == 0).await;
        assert_eq!(world.server.traffic().accepted, 2 * n);
        world.authority.revoke_access();
    }
    assert_eq!(world.authority.counts().refreshes, 3);
}

#[tokio::test]
async fn a_refusal_over_http1_that_closes_its_connection_is_recovered_from_on_another() {
    within(closed_with_the_refusal(Http::One)).await;
}

#[tokio::test]
async fn a_refusal_over_http2_that_closes_its_connection_is_recovered_from_on_another() {
    within(closed_with_the_refusal(Http::Two)).await;
}

async fn refused_on_a_kept_connection(http: Http) {
    let world = World::with(http, |api| api).await;
    let client = world.client();
    for n in 1..=10 {
        world.authority.revoke_access();
        let response = client.clone().oneshot(get(world.url("/"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
        assert_eq!(world.authority.counts().refreshes, n);
    }
    // hyper's pool may open a second one while the first is on its way back.
    let accepted = world.server.traffic().accepted;
    assert!(accepted <= 2, "{accepted} connections for 20 requests in a row");
}

#[tokio::test]
async fn a_small_refusal_over_http1_leaves_its_connection_to_the_pool() {
    within(refused_on_a_kept_connection(Http::One)).await;
}

#[tokio::test]
async fn a_small_refusal_over_http2_leaves_its_connection_to_the_pool() {
    within(refused_on_a_kept_connection(Http::Two)).await;
}
