//! What the layer adds to a request whose token is good, over an inner service that is always ready.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};
use tower_token_refresh::{FetchContext, FetchError, Origin, Session, Token, TokenRefreshLayer, source_fn};

#[derive(Clone)]
struct AlwaysReady;

impl<B> Service<Request<B>> for AlwaysReady {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

fn post() -> Request<Full<Bytes>> {
    Request::post("https://api.test/orders")
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .header("user-agent", "bench")
        .header("x-request-id", "0")
        .body(Full::new(Bytes::from_static(&[b'x'; 1024])))
        .expect("a valid request")
}

fn get() -> Request<Full<Bytes>> {
    Request::get("https://api.test/orders").body(Full::default()).expect("a valid request")
}

fn overhead(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let session =
        Session::builder(source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("token")) }))
            .build();
    runtime.block_on(session.token()).expect("a token");
    let origin: Origin = "https://api.test".parse().expect("an origin");
    let mut layered = TokenRefreshLayer::new(session, origin).layer(AlwaysReady);
    let mut bare = AlwaysReady;
    for (shape, request) in [("post_1_kib", post as fn() -> _), ("get", get)] {
        let mut group = criterion.benchmark_group(shape);
        group.bench_function("bare", |bencher| {
            bencher.iter(|| runtime.block_on(bare.call(request())).expect("an answer"));
        });
        group.bench_function("token_refresh", |bencher| {
            bencher.iter(|| runtime.block_on(layered.call(request())).expect("an answer"));
        });
        group.finish();
    }
}

criterion_group!(benches, overhead);
criterion_main!(benches);
