//! `JsonCodeLayer` over whatever a server may say.

use std::convert::Infallible;

use http::{Method, Request, Response, StatusCode, header};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{ErrorCode, JsonCodeLayer};

use crate::{
    answers::json,
    message::{Message, essence},
    runtime::run,
    steps::{Step, Steps, compare, steps},
};

/// More frames than this are not read ahead, and it is not tested where exactly that begins.
const FRAMES: usize = 1000;

/// The input is a [`Message`] whose body is [`steps`].
///
/// 1. The body is handed on frame for frame, with the size hints it had.
/// 2. The code is the one that another reading of the documentation finds.
pub fn json_codes(input: &[u8]) {
    let message = Message::parse(input);
    let body = Steps { left: steps(message.body), tells: message.says("sized") };
    let limit = if message.says("short") { 16 } else { 4096 };
    let method = if message.says("HEAD") { Method::HEAD } else { Method::GET };

    let answer = |_: Request<()>| {
        let mut response = Response::new(body.clone());
        *response.status_mut() = message.status;
        *response.headers_mut() = message.headers.clone();
        std::future::ready(Ok::<_, Infallible>(response))
    };
    let layer = JsonCodeLayer::new()
        .pointers(["/error_code", "/error/0/code"])
        .unwrap()
        .success("OK")
        .limit(limit)
        .unwrap();
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    run(async {
        let response = layer.layer(service_fn(answer)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), message.status);
        assert_eq!(response.headers(), &message.headers);
        if body.left.len() < FRAMES {
            let expected = if method == Method::HEAD { None } else { code(&message, &body, limit) };
            assert_eq!(response.extensions().get::<ErrorCode>().cloned(), expected);
        }
        compare(response.into_body(), body.clone()).await;
    });
}

/// What the documentation of `peek::json` promises.
fn code(message: &Message<'_>, body: &Steps, limit: u64) -> Option<ErrorCode> {
    let status = message.status;
    if status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        || message
            .headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .flat_map(|codings| codings.as_bytes().split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
    {
        return None;
    }
    let essence = essence(&message.headers)?;
    if essence != "application/json" && !essence.ends_with("+json") {
        return None;
    }
    let mut text = Vec::new();
    for step in &body.left {
        match step {
            Step::Data(data) => text.extend_from_slice(data),
            Step::Fail => return None,
            Step::Trailers(_) | Step::Wait => {}
        }
    }
    if text.len() as u64 > limit {
        return None;
    }
    let json = json(&text)?;
    let at = |value: Option<&Value>| match value? {
        Value::Number(number) => number.as_i64().filter(|code| *code != 0).map(ErrorCode::from),
        Value::String(text) if text == "OK" || text.trim().trim_matches('0').is_empty() => None,
        Value::String(text) => Some(ErrorCode::from(text.as_str())),
        _ => None,
    };
    at(json.get("error_code")).or_else(|| {
        let errors = json.get("error")?;
        let first = errors.get(0).or_else(|| errors.get("0"));
        at(first?.get("code"))
    })
}
