//! Requests over loopback sockets, client and server in one thread, one after the other, of which none, one in a hundred, or each is refused.

mod kit {
    pub(crate) mod layer;
    pub(crate) mod loopback;
    pub(crate) mod runtime;
    pub(crate) mod static_header;
    pub(crate) mod tokens;
}

use std::{future::ready, time::Duration};

use bytes::Bytes;
use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{runtime::Runtime, sync::watch, time::Instant};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_token_refresh::{FetchContext, FetchError, Session, source_fn};

use self::kit::{
    layer::layer,
    loopback::{Http, client, serve},
    runtime::runtime,
    static_header::static_header,
    tokens::Tokens,
};

/// Sends requests one after the other, and revokes the token before every so many.
fn requests<S>(bencher: &mut Bencher<'_>, runtime: &Runtime, url: &str, mut stack: S, before: impl Fn(u64))
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error: Into<BoxError>>,
{
    bencher.iter_custom(|requests| {
        runtime.block_on(async {
            let start = Instant::now();
            for number in 0..requests {
                before(number);
                let body = Full::new(Bytes::from_static(&[b'x'; 1024]));
                let request = Request::post(url).body(body).expect("a valid request");
                let service = stack.ready().await.map_err(Into::into).expect("always ready");
                let response = service.call(request).await.map_err(Into::into).expect("an answer");
                assert_eq!(response.status(), StatusCode::OK);
                response.collect().await.expect("all of it");
            }
            start.elapsed()
        })
    });
}

fn end_to_end(criterion: &mut Criterion) {
    for http in Http::BOTH {
        let runtime = runtime();
        let tokens = Tokens::default();
        let server = tokens.clone();
        let address = runtime.block_on(serve(http, watch::Sender::default(), move |request| {
            let is_accepted = server.accept(request.headers());
            async move {
                request.into_body().collect().await?;
                let mut response = Response::new(Full::from("done"));
                if !is_accepted {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                Ok::<_, hyper::Error>(response)
            }
        }));
        let url = format!("http://{address}");
        let authority = tokens.clone();
        let source = source_fn(move |_: FetchContext| ready(Ok::<_, FetchError>(authority.issue())));
        let session = Session::builder(source).build();
        runtime.block_on(session.token()).expect("a token");
        let layer = layer(&session, &url);

        let mut group = criterion.benchmark_group(format!("end-to-end/{}", http.name()));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(30);
        group.bench_function("static-header", |bencher| {
            requests(bencher, &runtime, &url, static_header().layer(client(http)), |_| ());
        });
        group.bench_function("layer", |bencher| {
            requests(bencher, &runtime, &url, layer.layer(client(http)), |_| ());
        });
        for (name, every) in [("1-percent-refused", 100), ("100-percent-refused", 1)] {
            group.bench_function(name, |bencher| {
                requests(bencher, &runtime, &url, layer.layer(client(http)), |number| {
                    if number % every == 0 {
                        tokens.revoke();
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
