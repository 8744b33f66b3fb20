//! Uploads through the tee, by their length and by how much is kept; and the way of their first byte.

mod kit {
    pub(crate) mod frames;
    pub(crate) mod inner;
    pub(crate) mod layer;
    pub(crate) mod runtime;
    pub(crate) mod session;
}

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service};
use tower_token_refresh::TokenRefreshLayer;

use self::kit::{
    frames::Frames,
    inner::Reads,
    layer::layer,
    runtime::runtime,
    session::{ORIGIN, session},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const LENGTHS: [(&str, usize); 4] =
    [("1-kib", KIB), ("64-kib", 64 * KIB), ("1-mib", MIB), ("64-mib", 64 * MIB)];
const CAPS: [(&str, usize); 3] =
    [("keeps-64-kib", 64 * KIB), ("keeps-1-mib", MIB), ("keeps-128-mib", 128 * MIB)];

type Upload = Frames<fn(usize) -> Bytes>;

/// Each frame is memory of its own, as it is when a file is read.
fn upload(length: usize) -> Request<Upload> {
    let body = Frames::new(length, (|length| Bytes::from(vec![1; length])) as fn(usize) -> Bytes);
    Request::post("https://api.test/files").body(body).expect("a valid request")
}

fn send<S, B>(service: &mut S, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<()>, Error = BoxError>,
{
    // Neither the bodies nor the services have to be waited for.
    service.call(request).now_or_never().expect("ready").expect("an answer");
}

fn with_token() -> TokenRefreshLayer {
    let session = session();
    runtime().block_on(session.token()).expect("a token");
    layer(&session, ORIGIN)
}

fn replay(criterion: &mut Criterion) {
    let layer = with_token();
    for (name, length) in LENGTHS {
        let mut group = criterion.benchmark_group(format!("replay/{name}"));
        group
            .throughput(Throughput::Bytes(length as u64))
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20)
            .sampling_mode(SamplingMode::Flat);
        group.bench_function("bare", |bencher| bencher.iter(|| send(&mut Reads, upload(length))));
        // What a body costs that is behind a pointer and has boxed errors, as one must that a second attempt may take over.
        group.bench_function("boxed", |bencher| {
            let boxed = |body: Upload| body.map_err(BoxError::from).boxed_unsync();
            bencher.iter(|| send(&mut Reads, upload(length).map(boxed)));
        });
        let mut keeps_none = layer.clone().without_replay().layer(Reads);
        group.bench_function("keeps-none", |bencher| bencher.iter(|| send(&mut keeps_none, upload(length))));
        for (cap, bytes) in CAPS {
            let mut keeps = layer.clone().replay_limit(bytes).expect("not 0").layer(Reads);
            group.bench_function(BenchmarkId::from_parameter(cap), |bencher| {
                bencher.iter(|| send(&mut keeps, upload(length)));
            });
        }
        group.finish();
    }
}

/// Answers as soon as the first frame has come.
#[derive(Clone)]
struct ReadsFirst;

impl<B: Body<Error: Into<BoxError>> + Unpin> Service<Request<B>> for ReadsFirst {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = First<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> First<B> {
        First(request.into_body())
    }
}

struct First<B>(B);

impl<B: Body<Error: Into<BoxError>> + Unpin> Future for First<B> {
    type Output = Result<Response<()>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map(|frame| match frame {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) | None => Ok(Response::new(())),
        })
    }
}

fn first_byte(criterion: &mut Criterion) {
    let mut layered = with_token().layer(ReadsFirst);
    let mut group = criterion.benchmark_group("replay/first-byte");
    group.bench_function("bare", |bencher| bencher.iter(|| send(&mut ReadsFirst, upload(64 * MIB))));
    group.bench_function("layer", |bencher| bencher.iter(|| send(&mut layered, upload(64 * MIB))));
    group.finish();
}

criterion_group!(benches, replay, first_byte);
criterion_main!(benches);
