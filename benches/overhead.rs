//! What the layer adds to a request whose token is good, by the shape of the request and by policy.

mod kit {
    pub(crate) mod inner;
    pub(crate) mod layer;
    pub(crate) mod requests;
    pub(crate) mod resends;
    pub(crate) mod runtime;
    pub(crate) mod session;
    pub(crate) mod static_header;
}

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, ServiceBuilder, retry::RetryLayer};
use tower_token_refresh::{
    Answer, FetchContext, FetchError, Origin, Scope, Session, Token, TokenRefreshLayer, body::Rebuild,
    classify::Verdict, placement::Placement, source_fn,
};

use self::kit::{
    inner::Reads,
    layer::layer,
    requests::Shape,
    resends::Resends,
    runtime::runtime,
    session::{ORIGIN, session},
    static_header::static_header,
};

/// A case: a stack, and the requests that are sent through it.
fn case<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut stack: S,
    request: impl Fn() -> Request<Full<Bytes>>,
) where
    S: Service<Request<Full<Bytes>>, Response = Response<()>, Error = BoxError>,
{
    group.bench_function(name, |bencher| {
        // Nothing in these stacks has to be waited for.
        bencher.iter(|| stack.call(request()).now_or_never().expect("ready").expect("an answer"));
    });
}

fn with_token(session: Session) -> TokenRefreshLayer {
    runtime().block_on(session.token()).expect("a token");
    layer(&session, ORIGIN)
}

fn shapes(criterion: &mut Criterion) {
    let layer = with_token(session());
    for shape in Shape::ALL {
        let mut group = criterion.benchmark_group(format!("overhead/{}", shape.name()));
        let request = || shape.request();
        case(&mut group, "bare", Reads, request);
        case(&mut group, "static-header", static_header().layer(Reads), request);
        let retry = ServiceBuilder::new().layer(RetryLayer::new(Resends)).layer(static_header());
        case(&mut group, "retry-static-header", retry.service(Reads), request);
        case(&mut group, "layer", layer.layer(Reads), request);
        group.finish();
    }
}

fn policies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("overhead/policy");
    let post = || Shape::Post.request();
    let layer = with_token(session());
    case(&mut group, "default", layer.layer(Reads), post);
    case(&mut group, "without-replay", layer.clone().without_replay().layer(Reads), post);
    case(&mut group, "rebuild", layer.layer(Reads), || {
        let mut request = Shape::Post.request();
        let body = request.body().clone();
        request.extensions_mut().insert(Rebuild::new(move || body.clone()));
        request
    });
    let classifier = |answer: &Answer<'_>| match answer.status() {
        StatusCode::FORBIDDEN => Verdict::Reject,
        _ => Verdict::Accept,
    };
    case(&mut group, "classifier", layer.clone().classifier(classifier).layer(Reads), post);

    let others = (0..8).map(|number| format!("https://other-{number}.test"));
    let scope = others
        .chain([ORIGIN.to_owned()])
        .map(|origin| Scope::from(origin.parse::<Origin>().expect("an origin")));
    let scope = scope.reduce(Scope::and).expect("at least one");
    let session = session();
    runtime().block_on(session.token()).expect("a token");
    case(&mut group, "9-origins", TokenRefreshLayer::new(session, scope).layer(Reads), post);

    let basic = with_token(placed(Placement::basic()));
    case(&mut group, "basic", basic.layer(Reads), post);
    let query = with_token(placed(Placement::query("access_token").expect("a name")));
    case(&mut group, "query", query.layer(Reads), post);
    group.finish();
}

fn placed(placement: Placement) -> Session {
    let source = source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("token")) });
    Session::builder(source).placement(placement).build()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = shapes, policies
}
criterion_main!(benches);
