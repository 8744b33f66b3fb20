//! The sizes of response futures.

use std::future::{Ready, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, service_fn};
use tower_token_refresh::ReplayBody;

use crate::{
    Count,
    kit::{
        layer::layer,
        loopback::{Http, client},
        requests::Shape,
        runtime::runtime,
        session::{ORIGIN, session},
    },
};

type Body = ReplayBody<Full<Bytes>>;

pub(crate) fn all() -> Vec<Count> {
    [
        ("client/bare", (|| size(client(Http::One))) as fn() -> f64),
        ("client/layer", || size(layer(&session(), ORIGIN).layer(client::<Body>(Http::One)))),
        ("ready/bare", || size(service_fn(answer::<Full<Bytes>>))),
        ("ready/layer", || size(layer(&session(), ORIGIN).layer(service_fn(answer::<Body>)))),
    ]
    .map(|(case, value)| Count { name: format!("future/{case}"), metric: "bytes", value: Box::new(value) })
    .into()
}

fn answer<B>(_: Request<B>) -> Ready<Result<Response<()>, BoxError>> {
    ready(Ok(Response::new(())))
}

fn size<S: Service<Request<Full<Bytes>>>>(mut service: S) -> f64 {
    let _runtime = runtime().enter();
    size_of_val(&service.call(Shape::Post.request())) as f64
}
