//! Requests whose token is good.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, retry::RetryLayer};

use super::Workload;
use crate::kit::{
    inner::Reads,
    layer::layer,
    requests::Shape,
    resends::Resends,
    runtime::runtime,
    session::{ORIGIN, session},
    static_header::static_header,
};

const STACKS: [&str; 5] = ["bare", "static-header", "retry-static-header", "layer", "layer-without-replay"];

pub(super) fn workloads() -> Vec<Workload> {
    let cases = Shape::ALL.into_iter().flat_map(|shape| STACKS.map(|stack| (shape, stack)));
    cases
        .map(|(shape, stack)| Workload {
            name: format!("request/{}/{stack}", shape.name()),
            base: (stack != "bare").then(|| format!("request/{}/bare", shape.name())),
            few: 500,
            many: 1500,
            run: Box::new(move |requests| runtime().block_on(send_through(stack, shape, requests))),
        })
        .collect()
}

async fn send_through(stack: &str, shape: Shape, requests: usize) {
    let session = session();
    session.token().await.expect("a token");
    let layer = layer(&session, ORIGIN);
    match stack {
        "bare" => send(Reads, shape, requests).await,
        "static-header" => send(static_header().layer(Reads), shape, requests).await,
        "retry-static-header" => {
            let stack = ServiceBuilder::new().layer(RetryLayer::new(Resends)).layer(static_header());
            send(stack.service(Reads), shape, requests).await;
        }
        "layer" => send(layer.layer(Reads), shape, requests).await,
        _ => send(layer.without_replay().layer(Reads), shape, requests).await,
    }
}

async fn send<S>(mut service: S, shape: Shape, requests: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<()>, Error = BoxError>,
{
    for _ in 0..requests {
        let service = service.ready().await.expect("always ready");
        service.call(shape.request()).await.expect("an answer");
    }
}
