//! The most memory that an upload holds on its way, beyond what it holds without the layer.

use bytes::Bytes;
use http::{Request, Response};
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::{
    Count,
    kit::{
        frames::Frames,
        inner::Reads,
        layer::layer,
        runtime::runtime,
        session::{ORIGIN, session},
    },
};

const KIB: usize = 1024;

const UPLOADS: [(&str, usize); 4] =
    [("1-kib", KIB), ("limit", 64 * KIB), ("limit-and-1-byte", 64 * KIB + 1), ("64-mib", 64 * KIB * KIB)];

pub(crate) fn all() -> Vec<Count> {
    UPLOADS
        .map(|(case, length)| Count {
            name: format!("upload/{case}"),
            metric: "bytes_kept",
            value: Box::new(move || kept(length)),
        })
        .into()
}

fn kept(length: usize) -> f64 {
    let runtime = runtime();
    let session = session();
    runtime.block_on(session.token()).expect("a token");
    let layered = layer(&session, ORIGIN).layer(Reads);
    let peak = |upload: &dyn Fn()| allocation_counter::measure(upload).bytes_max as f64;
    peak(&|| runtime.block_on(upload(layered.clone(), length)))
        - peak(&|| runtime.block_on(upload(Reads, length)))
}

async fn upload<S>(service: S, length: usize)
where
    S: Service<Request<Frames<fn(usize) -> Bytes>>, Response = Response<()>, Error = BoxError>,
{
    let body = Frames::new(length, fresh as fn(usize) -> Bytes);
    let request = Request::post("https://api.test/files").body(body).expect("a valid request");
    service.oneshot(request).await.expect("an answer");
}

/// Each frame is memory of its own.
fn fresh(length: usize) -> Bytes {
    Bytes::from(vec![0; length])
}
