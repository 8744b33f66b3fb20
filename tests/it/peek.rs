//! Evidence in bodies and trailers: what is read ahead, what is made of it, and that the body stays whole.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    marker::PhantomPinned,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, util::BoxCloneService};
use tower_token_refresh::{
    Classify, Codes, ErrorCode, ErrorKind, GrpcStatusLayer, GrpcUnauthenticated, JsonCodeLayer, ReplayBody,
    Standard, TokenRefreshLayer,
    peek::{
        PeekBody,
        grpc::{GrpcStatus, Unary},
    },
    test_util::ModelBody,
};

use crate::{
    script::{Reset, numbered, outcome, within},
    world::{get, origin, post},
};

const LIMIT: usize = 64 * 1024;

/// The far end of a [`Fed`] body.
#[derive(Clone, Default)]
struct Feed(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    frames: VecDeque<Result<Frame<Bytes>, Reset>>,
    closed: bool,
    ended: bool,
    polls: usize,
    waker: Option<Waker>,
    /// What is left of an announced length.
    length: Option<u64>,
}

/// A body fed by hand. It is not `Unpin`, its data lies in two pieces, and nobody may read past its end.
struct Fed(Feed, PhantomPinned);

type Pieces = bytes::buf::Chain<Bytes, Bytes>;

impl Feed {
    fn new(length: impl Into<Option<u64>>) -> (Self, Fed) {
        let feed = Feed::default();
        feed.0.lock().unwrap().length = length.into();
        (feed.clone(), Fed(feed, PhantomPinned))
    }

    fn push(&self, item: Result<Frame<Bytes>, Reset>) {
        let mut queue = self.0.lock().unwrap();
        queue.frames.push_back(item);
        queue.waker.take().into_iter().for_each(Waker::wake);
    }

    fn data(&self, data: impl Into<Bytes>) {
        self.push(Ok(Frame::data(data.into())));
    }

    fn close(&self) {
        let mut queue = self.0.lock().unwrap();
        queue.closed = true;
        queue.waker.take().into_iter().for_each(Waker::wake);
    }

    fn polls(&self) -> usize {
        self.0.lock().unwrap().polls
    }

    /// Whether the body is gone.
    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Body for Fed {
    type Data = Pieces;
    type Error = Reset;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Pieces>, Reset>>> {
        let mut queue = self.0.0.lock().unwrap();
        assert!(!queue.ended, "read past its end");
        queue.polls += 1;
        match queue.frames.pop_front() {
            Some(item) => {
                if let (Some(length), Ok(frame)) = (queue.length, &item) {
                    queue.length = Some(length - frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                Poll::Ready(Some(item.map(|frame| {
                    frame.map_data(|mut data| {
                        let first = data.split_to(data.len() / 2);
                        first.chain(data)
                    })
                })))
            }
            None if queue.closed => {
                queue.ended = true;
                Poll::Ready(None)
            }
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.0.lock().unwrap().length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// A whole body in these frames, of unknown length.
fn whole(frames: impl IntoIterator<Item = Frame<Bytes>>) -> (Feed, Fed) {
    let (feed, body) = Feed::new(None);
    frames.into_iter().for_each(|frame| feed.push(Ok(frame)));
    feed.close();
    (feed, body)
}

fn data(text: &str) -> Frame<Bytes> {
    Frame::data(text.to_owned().into())
}

fn trailers(status: &str) -> Frame<Bytes> {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", status.parse().unwrap());
    Frame::trailers(fields)
}

/// What a reader of a body sees: the hint before each frame, and the frame.
async fn seen<B>(body: B) -> Vec<(u64, Option<u64>, String)>
where
    B: Body<Error: fmt::Debug>,
{
    let (mut body, mut seen) = (Box::pin(body), Vec::new());
    loop {
        let hint = body.size_hint();
        let frame = match within(body.frame()).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => format!("{:?}", data.copy_to_bytes(data.remaining())),
                Err(frame) => format!("{:?}", frame.into_trailers().ok()),
            },
            Some(Err(error)) => format!("{error:?}"),
            None => return seen,
        };
        seen.push((hint.lower(), hint.upper(), frame));
    }
}

/// Gives these answers in turn.
fn answering<B, R>(
    answers: impl IntoIterator<Item = Response<R>>,
) -> impl Service<
    Request<B>,
    Response = Response<R>,
    Error = Infallible,
    Future = Ready<Result<Response<R>, Infallible>>,
> + Clone {
    let answers: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(answers.into_iter().collect()));
    tower::service_fn(move |_: Request<B>| {
        ready(Ok(answers.lock().unwrap().pop_front().expect("no more requests than answers")))
    })
}

fn json<R>(body: R) -> Response<R> {
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

fn at<R>(status: u16, mut response: Response<R>) -> Response<R> {
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// The answer as it comes out of the layer.
async fn through<R: Body>(layer: &JsonCodeLayer, answer: Response<R>) -> Response<PeekBody<R>> {
    within(layer.layer(answering([answer])).oneshot(Request::new(()))).await.unwrap()
}

async fn code_of(layer: &JsonCodeLayer, text: &str) -> Option<ErrorCode> {
    through(layer, json(ModelBody::from(text.to_owned()))).await.extensions().get().cloned()
}

async fn text_of<B: Body<Error: fmt::Debug>>(body: B) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test(start_paused = true)]
async fn a_code_in_the_body_of_a_200_is_refreshed_and_resent() {
    const EXPIRED: &str = r#"{"code":100385,"msg":"expired"}"#;
    const FINE: &str = r#"{"code":0,"data":[1,2,3]}"#;
    for last in [FINE, EXPIRED] {
        let (builder, fetches) = numbered();
        let layer = TokenRefreshLayer::new(builder.build(), origin())
            .classifier(Standard.or(Codes::reject([100385]).unwrap()));
        let peek = JsonCodeLayer::new().pointers(["/code"]).unwrap();
        let answers = [EXPIRED, last].map(|text| json(ModelBody::from(text)));
        let client = layer.layer(peek.layer(answering(answers)));
        let response = within(client.oneshot(post("/orders", "an order"))).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!((outcome(&response).attempts(), outcome(&response).is_refused()), (2, last == EXPIRED));
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        assert_eq!(text_of(response.into_body()).await, last);
    }
}

#[tokio::test(start_paused = true)]
async fn each_platforms_refusal_is_told_from_its_other_errors() {
    let reject = |codes: [i32; 3]| Codes::reject(codes).unwrap();
    let layer = |pointer: &str| JsonCodeLayer::new().pointers([pointer]).unwrap();
    let wechat = (layer("/errcode"), reject([40001, 40014, 42001]));
    let feishu = (layer("/code"), reject([99991663, 99991661, 99991664]).at([400]).unwrap());
    let seed = (layer("/error_code"), Codes::suspect([10006]).unwrap().at([403]).unwrap());
    let slack = (layer("/error"), Codes::reject(["token_expired"]).unwrap());
    let dingtalk = (layer("/code"), Codes::reject(["InvalidAuthentication"]).unwrap().at([400]).unwrap());
    for ((peek, codes), status, refusal, other_status, other) in [
        (wechat, 200, r#"{"errcode":42001,"errmsg":"access_token expired"}"#, 200, r#"{"errcode":45009}"#),
        (feishu, 400, r#"{"code":99991663,"msg":"Invalid access token"}"#, 400, r#"{"code":99991400}"#),
        (seed, 403, r#"{"error_code":10006}"#, 403, r#"{"error_code":10007}"#),
        (slack, 200, r#"{"ok":false,"error":"token_expired"}"#, 200, r#"{"ok":true}"#),
        (dingtalk, 400, r#"{"code":"InvalidAuthentication"}"#, 500, r#"{"code":"InvalidAuthentication"}"#),
    ] {
        let client = |answers| {
            let layer = TokenRefreshLayer::new(numbered().0.build(), origin()).classifier(codes.clone());
            layer.layer(peek.layer(answering(answers)))
        };
        let refused = at(status, json(ModelBody::from(refusal)));
        let response = client(vec![refused, at(204, json(ModelBody::default()))]).oneshot(get("/me"));
        assert_eq!(within(response).await.unwrap().status(), 204, "{refusal}");
        let response = client(vec![at(other_status, json(ModelBody::from(other)))]).oneshot(get("/me"));
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), other_status, "{other}");
        assert_eq!(text_of(response.into_body()).await, other);
    }
}

#[tokio::test(start_paused = true)]
async fn above_the_token_refresh_a_code_is_found_but_refreshes_nothing() {
    const EXPIRED: &str = r#"{"error_code":10006}"#;
    let (builder, fetches) = numbered();
    let refresh =
        TokenRefreshLayer::new(builder.build(), origin()).classifier(Codes::reject([10006]).unwrap());
    let client = JsonCodeLayer::new().layer(refresh.layer(answering([json(ModelBody::from(EXPIRED))])));
    let response = within(client.oneshot(get("/me"))).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&ErrorCode::from(10006)));
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
    assert_eq!(text_of(response.into_body()).await, EXPIRED);
}

#[tokio::test]
async fn frames_trailers_and_hints_are_handed_on_as_they_came() {
    const CODE: &str = r#"{"error_code":7}"#;
    type Make = fn() -> (Feed, Fed);
    let bodies: [Make; 6] = [
        || whole([data(CODE)]),
        || whole([data(CODE), trailers("0")]),
        || whole(CODE.chars().map(|byte| data(&byte.to_string()))),
        || whole([data(""), data(&CODE[..3]), data(""), data(&CODE[3..]), data(""), trailers("0")]),
        || {
            let (feed, body) = Feed::new(CODE.len() as u64);
            feed.data(&CODE.as_bytes()[..5]);
            feed.data(&CODE.as_bytes()[5..]);
            feed.close();
            (feed, body)
        },
        || whole([trailers("0")]),
    ];
    for (index, body) in bodies.into_iter().enumerate() {
        let response = through(&JsonCodeLayer::new(), json(body().1)).await;
        let code = (index < 5).then(|| ErrorCode::from(7));
        assert_eq!(response.extensions().get(), code.as_ref(), "{index}");
        assert!(!response.body().is_end_stream());
        assert_eq!(seen(response.into_body()).await, seen(body().1).await, "{index}");
    }
}

#[tokio::test]
async fn a_body_of_the_limit_is_read_and_one_of_a_byte_more_is_not() {
    let of = |length: usize| {
        let code = r#"{"error_code":7}"#;
        format!("{code}{}", " ".repeat(length - code.len()))
    };
    for (layer, limit) in [(JsonCodeLayer::new(), LIMIT), (JsonCodeLayer::new().limit(100).unwrap(), 100)] {
        for (length, is_read) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
            for is_announced in [true, false] {
                let (feed, body) = Feed::new(is_announced.then_some(length as u64));
                feed.data(of(length));
                feed.close();
                let response = through(&layer, json(body)).await;
                let found = response.extensions().get::<ErrorCode>().is_some();
                assert_eq!(found, is_read, "{length} {is_announced}");
                let polls = if is_read { 2 } else { usize::from(!is_announced) };
                assert_eq!(feed.polls(), polls, "{length} {is_announced}");
                assert_eq!(text_of(response.into_body()).await, of(length));
            }
        }
    }
}

#[tokio::test]
async fn a_body_in_countless_small_frames_is_given_up_soon() {
    let code = r#"{"error_code":7}"#;
    let padded = (0..1023).map(|_| data(" ")).chain([data(code)]);
    let response = through(&JsonCodeLayer::new(), json(whole(padded).1)).await;
    assert_eq!(response.extensions().get(), Some(&ErrorCode::from(7)));

    let (feed, body) = Feed::new(None);
    (0..100_000).for_each(|_| feed.data(""));
    let response = through(&JsonCodeLayer::new(), json(body)).await;
    assert!(response.extensions().is_empty());
    assert_eq!(feed.polls(), 1025);
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_streams_on_after_what_was_read() {
    let (feed, body) = Feed::new(None);
    feed.data(vec![b' '; LIMIT]);
    feed.data("more");
    let response = through(&JsonCodeLayer::new(), json(body)).await;
    assert_eq!(feed.polls(), 2);
    let mut body = response.into_body();
    for length in [LIMIT, 4] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), length);
    }
    let mut next = task::spawn(body.frame());
    assert_pending!(next.poll());
    feed.data("the rest");
    assert!(next.is_woken());
    assert_eq!(assert_ready!(next.poll()).unwrap().unwrap().into_data().unwrap(), "the rest");
}

#[tokio::test]
async fn the_head_comes_with_the_end_of_the_body_and_a_caller_that_gives_up_drops_it() {
    let (feed, body) = Feed::new(None);
    let mut call = task::spawn(JsonCodeLayer::new().layer(answering([json(body)])).oneshot(Request::new(())));
    feed.data(r#"{"error_code""#);
    assert_pending!(call.poll());
    feed.data(":7}");
    assert!(call.is_woken());
    assert_pending!(call.poll());
    feed.close();
    assert!(call.is_woken());
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&ErrorCode::from(7)));

    let (feed, body) = Feed::new(None);
    let mut call = task::spawn(JsonCodeLayer::new().layer(answering([json(body)])).oneshot(Request::new(())));
    feed.data("{");
    assert_pending!(call.poll());
    drop(call);
    assert!(feed.is_alone());
}

#[tokio::test]
async fn while_the_body_is_waited_for_the_permit_of_the_call_is_free() {
    let (feed, body) = Feed::new(None);
    let (other_feed, other) = whole([data("{}")]);
    let mut limited = ConcurrencyLimit::new(answering([json(body), json(other)]), 1);
    let mut call = task::spawn(JsonCodeLayer::new().layer(limited.clone()).oneshot(Request::new(())));
    assert_pending!(call.poll());
    let mut second = task::spawn(limited.ready());
    assert_ready!(second.poll()).unwrap();
    drop((feed, other_feed));
}

#[tokio::test]
async fn a_body_that_fails_does_so_in_its_place_and_gives_no_code() {
    let make = || {
        let (feed, body) = Feed::new(None);
        feed.data(r#"{"error_code":7}"#);
        feed.push(Err(Reset));
        feed.data("what nobody should read");
        feed.close();
        (feed, body)
    };
    let (feed, body) = make();
    let response = through(&JsonCodeLayer::new(), json(body)).await;
    assert!(response.extensions().is_empty());
    assert_eq!(feed.polls(), 2);
    assert_eq!(seen(response.into_body()).await, seen(make().1).await);
}

#[tokio::test]
async fn what_cannot_hold_a_code_is_not_read() {
    let typed = |content_type: &str| Response::builder().header("content-type", content_type);
    let json = || typed("application/json");
    for answer in [
        json().status(101),
        json().status(204),
        json().status(304),
        json().status(418),
        json().header("content-encoding", "gzip"),
        json().header("content-encoding", "identity").header("content-encoding", "gzip"),
        typed("text/event-stream"),
        typed("text/event-stream; charset=utf-8"),
        typed("text/html"),
        typed("application/jsonl"),
        typed("application/x-ndjson"),
        typed("application/json-seq"),
        typed("x-application/json"),
        typed(""),
        typed("\u{e9}"),
        Response::builder(),
    ] {
        let (feed, body) = Feed::new(None);
        let layer = JsonCodeLayer::new().statuses([101, 200, 204, 304]).unwrap();
        let response = through(&layer, answer.body(body).unwrap()).await;
        assert!(response.extensions().is_empty());
        assert_eq!(feed.polls(), 0, "{response:?}");
    }
    let (feed, body) = Feed::new(None);
    let request = Request::head("/").body(()).unwrap();
    let answer = json().header("content-length", "16").body(body).unwrap();
    within(JsonCodeLayer::new().layer(answering([answer])).oneshot(request)).await.unwrap();
    assert_eq!(feed.polls(), 0, "HEAD");
}

#[tokio::test]
async fn content_types_of_json_are_read_whatever_their_parameters() {
    let layer = JsonCodeLayer::new().content_type("Text/Plain").unwrap();
    for (content_type, method) in [
        (&b"application/json"[..], Method::GET),
        (b"application/json; charset=utf-8", Method::POST),
        (b"Application/JSON;encoding=utf-8", Method::PUT),
        (b"application/json ; charset=\"UTF-8\"", Method::DELETE),
        (b"application/problem+json", Method::PATCH),
        (b"application/vnd.api+JSON; v=1", Method::OPTIONS),
        (b"application/json; name=\"\xe5\xa0\xb1\"", Method::GET),
        (b"application/json;\xff", Method::GET),
        (b"text/plain; charset=utf-8", Method::GET),
    ] {
        let content_type = HeaderValue::from_bytes(content_type).unwrap();
        for status in [200, 226, 300, 400, 403, 500, 599] {
            let (_, body) = whole([data(r#"{"error_code":7}"#)]);
            let answer = Response::builder().header("content-type", &content_type).status(status).body(body);
            let request = Request::builder().method(&method).body(()).unwrap();
            let response = layer.layer(answering([answer.unwrap()])).oneshot(request);
            let response = within(response).await.unwrap();
            assert_eq!(response.extensions().get(), Some(&ErrorCode::from(7)), "{content_type:?} {status}");
        }
    }
}

#[tokio::test]
async fn what_is_no_whole_json_text_with_a_code_is_no_evidence() {
    let deep = format!("{}{}", r#"{"error_code":"#.repeat(10_000), "}".repeat(10_000));
    for text in [
        "",
        " ",
        "null",
        "7",
        "[7]",
        "true",
        "<html>",
        "error_code=7",
        r#"{"error_code":7"#,
        r#"{"error_code":7}}"#,
        r#"{"error_code":7}{"error_code":7}"#,
        r#"{"error_code":0}"#,
        r#"{"error_code":-0}"#,
        r#"{"error_code":null}"#,
        r#"{"error_code":true}"#,
        r#"{"error_code":7.5}"#,
        r#"{"error_code":7.0}"#,
        r#"{"error_code":1e3}"#,
        r#"{"error_code":""}"#,
        r#"{"error_code":" "}"#,
        r#"{"error_code":"0"}"#,
        r#"{"error_code":" 0 "}"#,
        r#"{"error_code":"00000"}"#,
        r#"{"error_code":[7]}"#,
        r#"{"error_code":{"code":7}}"#,
        r#"{"data":{"error_code":7}}"#,
        r#"{"error_code":9223372036854775808}"#,
        r#"{"Error_Code":7}"#,
        r#"{"error_code":7,"error_code":0}"#,
        &deep,
    ] {
        assert_eq!(code_of(&JsonCodeLayer::new(), text).await, None, "{text}");
    }
    let utf_16: Vec<u8> = r#"{"error_code":7}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let cut_short = [br#"{"error_code":7,"msg":""#, &[0xb9][..]].concat();
    for bytes in [utf_16, cut_short] {
        let response = through(&JsonCodeLayer::new(), json(ModelBody::from(bytes.clone()))).await;
        assert!(response.extensions().is_empty());
        assert_eq!(text_of(response.into_body()).await, bytes);
    }
}

#[tokio::test]
async fn no_byte_order_mark_no_message_in_another_charset_and_no_identity_coding_hides_a_code() {
    let beside = |message: &[u8]| [br#"{"error_code":7,"msg":""#, message, br#""}"#].concat();
    let gbk = beside(b"\xb9\xfd\xc6\xda");
    // With a backslash of ASCII in a character.
    let (shift_jis, big5) = (beside(b"\x8b\x40\x94\x5c\x82\xaa"), beside(b"\xa6\xa8\xa5\x5c"));
    let half_width = beside(b"\xb1\xb2\xb3\x95\x5c\x8e\xa6");
    let raw = beside(b"two\nlines\tand a tab");
    let marked = "\u{feff}{\"error_code\":7}".as_bytes().to_vec();
    let plain = br#"{"error_code":7}"#.to_vec();
    let codings = ["identity", "Identity", "", "identity, identity", "identity,,\tidentity "];
    let bare = [gbk, shift_jis, half_width, big5, raw, marked].map(|bytes| (bytes, None));
    for (bytes, coding) in bare.into_iter().chain(codings.map(|coding| (plain.clone(), Some(coding)))) {
        let mut answer = json(ModelBody::from(bytes.clone()));
        let coding = coding.map(HeaderValue::from_static);
        answer.headers_mut().extend(coding.map(|coding| (header::CONTENT_ENCODING, coding)));
        let response = through(&JsonCodeLayer::new(), answer).await;
        assert_eq!(response.extensions().get(), Some(&ErrorCode::from(7)));
        assert_eq!(text_of(response.into_body()).await, bytes, "handed on as it came");
    }
}

#[tokio::test]
async fn the_first_pointer_with_a_code_that_is_no_success_counts() {
    let layer = JsonCodeLayer::new()
        .pointers(["/errcode", "/code", "/error", "/error/a~1b", "/errors/0/code"])
        .unwrap()
        .success(200)
        .success("OK");
    for (text, code) in [
        (r#"{"errcode":42001,"code":7}"#, Some(42001.into())),
        (r#"{"code":7,"errcode":42001}"#, Some(42001.into())),
        (r#"{"errcode":0,"code":7}"#, Some(7.into())),
        (r#"{"errcode":"0","code":7}"#, Some(7.into())),
        (r#"{"errcode":"0E01","code":7}"#, Some("0E01".into())),
        (r#"{"errcode":"00e2","code":7}"#, Some("00e2".into())),
        (r#"{"errcode":null,"code":-7}"#, Some((-7).into())),
        (r#"{"code":200}"#, None),
        (r#"{"code":"200"}"#, Some("200".into())),
        (r#"{"code":"OK","error":"token_expired"}"#, Some("token_expired".into())),
        (r#"{"error":{"a/b":9223372036854775807}}"#, Some(i64::MAX.into())),
        (r#"{"errors":[{"code":"\u8fc7\u671f"}]}"#, Some("过期".into())),
        (r#"{"code":1,"code":2}"#, Some(2.into())),
        (r#"{"error_code":7}"#, None),
    ] {
        assert_eq!(code_of(&layer, text).await, code, "{text}");
    }
}

#[tokio::test]
async fn two_layers_leave_each_others_evidence_alone() {
    for (text, code) in [(r#"{"a":1}"#, 1), (r#"{"b":2}"#, 2), (r#"{"a":1,"b":2}"#, 1)] {
        let inner = JsonCodeLayer::new().pointers(["/b"]).unwrap();
        let outer = JsonCodeLayer::new().pointers(["/a"]).unwrap();
        let client = outer.layer(inner.layer(answering([json(ModelBody::from(text))])));
        let response = within(client.oneshot(Request::new(()))).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&ErrorCode::from(code)), "{text}");
        assert_eq!(text_of(response.into_body()).await, text);
    }
}

#[tokio::test]
async fn without_a_peek_layer_a_classifier_of_codes_reads_nothing() {
    let (feed, body) = Feed::new(None);
    let refresh =
        TokenRefreshLayer::new(numbered().0.build(), origin()).classifier(Codes::reject([7]).unwrap());
    feed.data(r#"{"error_code":7}"#);
    within(refresh.layer(answering([json(body)])).oneshot(get("/me"))).await.unwrap();
    assert_eq!(feed.polls(), 0);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let layer = JsonCodeLayer::new;
    for result in [
        layer().pointers([""; 0]),
        layer().pointers([""]),
        layer().pointers(["/code", "code"]),
        layer().pointers(["/a~"]),
        layer().pointers(["/a~2b"]),
        layer().statuses([0_u16; 0]),
        layer().statuses([200, 1000]),
        layer().limit(0),
        layer().content_type("text/event-stream"),
        layer().content_type("TEXT/Event-Stream"),
        layer().content_type("json"),
        layer().content_type("text/plain; charset=utf-8"),
        layer().content_type("text/plain,application/x-json"),
        layer().content_type("text/plain\n"),
        layer().content_type("text/"),
        layer().content_type("/plain"),
        layer().content_type("/"),
        layer().content_type("text/*"),
        layer().content_type("*/*"),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidValue);
    }
}

#[test]
fn a_peek_body_is_unpin_and_can_be_sent_whatever_is_in_it() {
    fn check<T: Unpin + Send>() {}
    check::<PeekBody<Fed>>();
}

fn grpc<R>(body: R) -> Response<R> {
    Response::builder().header("content-type", "application/grpc+proto").body(body).unwrap()
}

fn unary() -> Request<ModelBody> {
    let mut request = post("/orders.Orders/Get", "a message");
    request.extensions_mut().insert(Unary);
    request
}

async fn through_grpc<R: Body>(request: Request<ModelBody>, answer: Response<R>) -> Response<PeekBody<R>> {
    within(GrpcStatusLayer::new().layer(answering([answer])).oneshot(request)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_unauthenticated_grpc_call_is_refreshed_and_resent() {
    let in_header = |status: &str| {
        let mut answer = grpc(whole([]).1);
        answer.headers_mut().insert("grpc-status", status.parse().unwrap());
        answer
    };
    let in_trailers = |status: &str| grpc(whole([trailers(status)]).1);
    let after_a_message = |status: &str| grpc(whole([data("a message"), trailers(status)]).1);
    let stream = || post("/orders.Orders/Watch", "a message");
    type Make<'a> = (&'a dyn Fn() -> Request<ModelBody>, &'a dyn Fn(&str) -> Response<Fed>);
    let makes: [Make<'_>; 5] = [
        (&unary, &in_header),
        (&unary, &in_trailers),
        (&unary, &after_a_message),
        (&stream, &in_header),
        (&stream, &in_trailers),
    ];
    for (index, (request, answer)) in makes.into_iter().enumerate() {
        for (status, sent) in [("16", 2), ("0", 1), ("7", 1), ("14", 1), ("sixteen", 1)] {
            let (builder, fetches) = numbered();
            let refresh = TokenRefreshLayer::new(builder.build(), origin()).classifier(GrpcUnauthenticated);
            let answers = [answer(status), grpc(whole([data("fine"), trailers("0")]).1)];
            let client = refresh.layer(GrpcStatusLayer::new().layer(answering(answers)));
            let response = within(client.oneshot(request())).await.unwrap();
            assert_eq!(fetches.load(Ordering::Relaxed), sent, "{index} {status}");
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes() == "fine", sent == 2, "{index} {status}");
        }
    }
}

#[tokio::test]
async fn a_unary_call_is_waited_for_and_handed_on_whole() {
    let (feed, body) = Feed::new(None);
    let mut call = task::spawn(GrpcStatusLayer::new().layer(answering([grpc(body)])).oneshot(unary()));
    assert_pending!(call.poll());
    feed.data("a message");
    assert_pending!(call.poll());
    feed.push(Ok(trailers("16")));
    feed.close();
    assert!(call.is_woken());
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&GrpcStatus::UNAUTHENTICATED));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "16");
    assert_eq!(body.to_bytes(), "a message");
}

#[tokio::test]
async fn a_streaming_call_is_asked_once_and_passed_on_untouched() {
    // Not there yet.
    let (feed, body) = Feed::new(None);
    let response = through_grpc(get("/watch"), grpc(body)).await;
    assert_eq!((feed.polls(), response.extensions().is_empty()), (1, true));
    feed.data("one");
    feed.push(Ok(trailers("16")));
    feed.close();
    assert_eq!(seen(response.into_body()).await.len(), 2);

    // A message is there, and so is what follows.
    let make = || whole([data("one"), data("two"), trailers("16")]);
    let (feed, body) = make();
    let response = through_grpc(get("/watch"), grpc(body)).await;
    assert_eq!((feed.polls(), response.extensions().is_empty()), (1, true));
    assert_eq!(seen(response.into_body()).await, seen(make().1).await);
}

#[tokio::test]
async fn of_a_grpc_answer_no_more_is_read_than_tells_something() {
    // Its header says it.
    let (feed, body) = Feed::new(None);
    let mut answer = grpc(body);
    answer.headers_mut().insert("grpc-status", "7".parse().unwrap());
    let response = through_grpc(unary(), answer).await;
    assert_eq!((response.extensions().get::<GrpcStatus>().unwrap().code(), feed.polls()), (7, 0));

    // A long message.
    let (feed, body) = Feed::new(None);
    feed.data(vec![0; LIMIT + 1]);
    let response = through_grpc(unary(), grpc(body)).await;
    assert_eq!((response.extensions().is_empty(), feed.polls()), (true, 1));

    for (content_type, polls) in [
        ("application/grpc", 1),
        ("Application/GRPC; a=b", 1),
        ("application/grpc+json", 1),
        ("application/grpc-web+proto", 0),
        ("application/json", 0),
    ] {
        let (feed, body) = Feed::new(None);
        let answer = Response::builder().header("content-type", content_type).body(body).unwrap();
        through_grpc(get("/"), answer).await;
        assert_eq!(feed.polls(), polls, "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_in_the_header_is_classified_without_a_peek_layer() {
    let (builder, fetches) = numbered();
    let refresh = TokenRefreshLayer::new(builder.build(), origin()).classifier(GrpcUnauthenticated);
    let answer =
        |status| Response::builder().header("grpc-status", status).body(ModelBody::default()).unwrap();
    let client = refresh.layer(answering([answer("16"), answer("0")]));
    within(client.oneshot(unary())).await.unwrap();
    assert_eq!(fetches.load(Ordering::Relaxed), 2);
}

type Wire = BoxCloneService<Request<ReplayBody<ModelBody>>, Response<Incoming>, hyper::Error>;

/// A client of a server that gives these answers in turn over HTTP/1.1.
async fn over_http1(answers: Vec<Response<Fed>>) -> Wire {
    let (near, far) = tokio::io::duplex(1024);
    let service = TowerToHyperService::new(answering(answers));
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    BoxCloneService::new(tower::service_fn(move |request| {
        let sender = sender.clone();
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    }))
}

/// The same over HTTP/2.
async fn over_http2(answers: Vec<Response<Fed>>) -> Wire {
    let (near, far) = tokio::io::duplex(1024);
    let service = TowerToHyperService::new(answering(answers));
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(far), service));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
    let (sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    BoxCloneService::new(tower::service_fn(move |request| sender.clone().send_request(request)))
}

#[tokio::test]
async fn a_code_comes_over_both_versions_of_http_and_the_body_with_it() {
    const EXPIRED: &str = r#"{"error_code":10006}"#;
    let answers = || {
        let (_, expired) = whole([data(&EXPIRED[..4]), data(&EXPIRED[4..])]);
        vec![json(expired), json(whole([data(r#"{"data":"#), data("[1,2]}"), trailers("0")]).1)]
    };
    for wire in [over_http1(answers()).await, over_http2(answers()).await] {
        let refresh = TokenRefreshLayer::new(numbered().0.build(), origin())
            .classifier(Codes::reject([10006]).unwrap());
        let response = refresh.layer(JsonCodeLayer::new().layer(wire)).oneshot(get("/me")).await.unwrap();
        assert_eq!(outcome(&response).attempts(), 2);
        assert_eq!(text_of(response.into_body()).await, r#"{"data":[1,2]}"#);
    }
}

#[tokio::test]
async fn a_grpc_status_comes_in_the_trailers_of_http2() {
    let answers = vec![grpc(whole([trailers("16")]).1), grpc(whole([data("fine"), trailers("0")]).1)];
    let refresh = TokenRefreshLayer::new(numbered().0.build(), origin()).classifier(GrpcUnauthenticated);
    let client = refresh.layer(GrpcStatusLayer::new().layer(over_http2(answers).await));
    let response = client.oneshot(unary()).await.unwrap();
    assert_eq!(outcome(&response).attempts(), 2);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "fine");
}

#[tokio::test]
async fn a_layer_that_answers_by_itself_can_make_an_empty_body() {
    let body = PeekBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
    assert_eq!(body.collect().await.unwrap().to_bytes(), "");
}
