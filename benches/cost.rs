//! What the layer costs a request whose token is good, in instructions: `scripts/cost` counts them.
//!
//! `cost STACK SHAPE REQUESTS` sends so many requests of a shape through a stack and does nothing else that depends on
//! their number, so that the difference of two runs is the cost of the requests alone.

use std::{
    env,
    future::{Ready, ready},
    process::ExitCode,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use tower::{
    Layer, Service, ServiceBuilder,
    retry::{Policy, RetryLayer},
};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Origin, Session, Token, TokenRefreshLayer, source_fn,
};

const SHAPES: [&str; 2] = ["get", "post"];
const STACKS: [&str; 4] = ["bare", "retry", "layer", "layer-without-replay"];

/// Reads the request's body to its end, as a client does.
#[derive(Clone)]
struct Reads;

impl<B> Service<Request<B>> for Reads
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<()>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        async move {
            let mut body = std::pin::pin!(request.into_body());
            while let Some(frame) = body.frame().await {
                frame.map_err(Into::into)?;
            }
            Ok(Response::new(()))
        }
        .boxed()
    }
}

/// What `Retry` needs to be able to send a request again, and never does.
#[derive(Clone)]
struct Resends;

impl Policy<Request<Full<Bytes>>, Response<()>, BoxError> for Resends {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<()>, BoxError>,
    ) -> Option<Ready<()>> {
        let is_refused = result.as_ref().is_ok_and(|response| response.status() == 401);
        is_refused.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

fn request(shape: &str) -> Request<Full<Bytes>> {
    let get = Request::get("https://api.test/orders");
    let request = match shape {
        "get" => get.body(Full::default()),
        _ => get
            .method("POST")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("user-agent", "bench")
            .header("x-request-id", "0")
            .body(Full::new(Bytes::from_static(&[b'x'; 1024]))),
    };
    request.expect("a valid request")
}

fn layer(runtime: &tokio::runtime::Runtime) -> TokenRefreshLayer {
    let source = source_fn(|_: FetchContext| async {
        Ok::<_, FetchError>(Token::new("token").expires_in(Duration::from_secs(7200)))
    });
    let session = Session::builder(source).build();
    runtime.block_on(session.token()).expect("a token");
    TokenRefreshLayer::new(session, "https://api.test".parse::<Origin>().expect("an origin"))
}

fn send<S>(runtime: &tokio::runtime::Runtime, mut service: S, shape: &str, requests: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<()>>,
    S::Error: std::fmt::Debug,
{
    runtime.block_on(async {
        for _ in 0..requests {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
            service.call(request(shape)).await.expect("an answer");
        }
    });
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let parts: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (stack, shape, requests) = match parts[..] {
        [stack, shape, requests] if STACKS.contains(&stack) && SHAPES.contains(&shape) => {
            (stack, shape, requests.parse::<usize>())
        }
        _ => {
            eprintln!("cost STACK SHAPE REQUESTS\nSTACK: {STACKS:?}\nSHAPE: {SHAPES:?}");
            return ExitCode::FAILURE;
        }
    };
    let Ok(requests) = requests else {
        eprintln!("REQUESTS is a number");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match stack {
        "bare" => send(&runtime, Reads, shape, requests),
        "retry" => {
            let token = fixed_header();
            send(
                &runtime,
                ServiceBuilder::new().layer(RetryLayer::new(Resends)).layer(token).service(Reads),
                shape,
                requests,
            );
        }
        "layer" => send(&runtime, layer(&runtime).layer(Reads), shape, requests),
        _ => send(&runtime, layer(&runtime).without_replay().layer(Reads), shape, requests),
    }
    ExitCode::SUCCESS
}

/// A fixed header, as clients without any refresh have it.
fn fixed_header()
-> impl Layer<Reads, Service: Service<Request<Full<Bytes>>, Response = Response<()>, Error = BoxError> + Clone>
{
    let value = HeaderValue::from_static("Bearer token");
    tower::util::MapRequestLayer::new(move |mut request: Request<Full<Bytes>>| {
        request.headers_mut().insert(AUTHORIZATION, value.clone());
        request
    })
}
