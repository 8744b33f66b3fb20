//! `GrpcStatusLayer` over whatever a server may say.

use std::{collections::VecDeque, convert::Infallible, future::Future, pin::pin, task::Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body::Body;
use tower::{Layer, Service, service_fn};
use tower_token_refresh::{
    Answer, Classify, GrpcStatusLayer, GrpcUnauthenticated, Verdict,
    peek::grpc::{GrpcStatus, Unary},
};

use crate::{
    feed::Poller,
    message::{Message, essence},
    runtime::run,
    steps::{Step, Steps, compare, steps},
};

/// More frames than this are not read ahead, and it is not tested where exactly that begins.
const FRAMES: usize = 1000;
/// Up to here the message of a unary call is waited for.
const LIMIT: usize = 64 * 1024;

/// The input is a [`Message`] whose body is [`steps`], of which data that begins with `grpc-` is a block of trailers.
///
/// 1. The body is handed on frame for frame, with the size hints it had.
/// 2. The status is the one that another reading of the documentation finds, and 16 alone refuses the token.
/// 3. Who can go on is woken, and only a unary call waits.
pub fn grpc_status(input: &[u8]) {
    let message = Message::parse(input);
    let mut left: VecDeque<Step> = steps(message.body).into_iter().map(trailers).collect();
    if message.says("long") {
        left.push_front(Step::Data(Bytes::from(vec![0; LIMIT - 8])));
    }
    let body = Steps { left, tells: message.says("sized") };
    let is_unary = message.says("unary");

    let mut service = GrpcStatusLayer::new().layer(service_fn(|_: Request<()>| {
        let mut response = Response::new(body.clone());
        *response.status_mut() = message.status;
        *response.headers_mut() = message.headers.clone();
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let mut request = Request::new(());
    if is_unary {
        request.extensions_mut().insert(Unary);
    }
    let mut responding = pin!(service.call(request));
    let mut caller = Poller::default();
    let response = loop {
        match caller.poll(|cx| responding.as_mut().poll(cx)) {
            Poll::Ready(Ok(response)) => break response,
            Poll::Pending => assert!(is_unary, "a stream is not waited for"),
        }
    };
    assert_eq!(response.status(), message.status);
    assert_eq!(response.headers(), &message.headers);
    if body.left.len() < FRAMES {
        let expected = status(&message.headers, &body, is_unary);
        assert_eq!(response.extensions().get().map(|status: &GrpcStatus| status.code()), expected);
        let (method, uri) = (Method::POST, Uri::from_static("https://api.test/"));
        let verdict = GrpcUnauthenticated.classify(&Answer::new(&method, &uri, 1, &response));
        assert_eq!(verdict, if expected == Some(16) { Verdict::Reject } else { Verdict::Accept });
    }
    run(compare(response.into_body(), body));
}

fn trailers(step: Step) -> Step {
    match step {
        Step::Data(data) if data.starts_with(b"grpc-") => {
            Step::Trailers(Message::parse(&[b"\n", &data[..]].concat()).headers)
        }
        step => step,
    }
}

/// What the documentation of `peek::grpc` promises.
fn status(headers: &HeaderMap, body: &Steps, is_unary: bool) -> Option<u32> {
    if let Some(status) = number(headers) {
        return Some(status);
    }
    let essence = essence(headers)?;
    if (essence != "application/grpc" && !essence.starts_with("application/grpc+")) || body.is_end_stream() {
        return None;
    }
    if !is_unary {
        let Some(Step::Trailers(trailers)) = body.left.front() else { return None };
        return number(trailers);
    }
    if body.size_hint().lower() > LIMIT as u64 {
        return None;
    }
    let mut length = 0;
    for step in &body.left {
        match step {
            Step::Trailers(trailers) => return number(trailers),
            Step::Data(data) => length += data.len(),
            Step::Fail => return None,
            Step::Wait => {}
        }
        if length > LIMIT {
            return None;
        }
    }
    None
}

/// The number in the first `grpc-status`. A plus before it does no harm.
fn number(headers: &HeaderMap) -> Option<u32> {
    let text = std::str::from_utf8(headers.get("grpc-status")?.as_bytes()).ok()?;
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
