//! Frames of an upload on their way through the tee.

use bytes::Bytes;
use http::{Request, Response};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::Workload;
use crate::kit::{
    frames::{FRAME, Frames},
    inner::Reads,
    layer::layer,
    runtime::runtime,
    session::{ORIGIN, session},
};

/// More than any of these uploads.
const UNLIMITED: usize = 1 << 40;

pub(super) fn workloads() -> Vec<Workload> {
    // `kept`: every frame is within the limit. `passed`: all but the first four are beyond it.
    ["bare", "kept", "passed"]
        .map(|case| Workload {
            name: format!("frame/{case}"),
            base: (case != "bare").then(|| "frame/bare".to_owned()),
            few: 1024,
            many: 5 * 1024,
            run: Box::new(move |frames| runtime().block_on(upload_through(case, frames))),
        })
        .into()
}

async fn upload_through(case: &str, frames: usize) {
    let session = session();
    session.token().await.expect("a token");
    let layer = layer(&session, ORIGIN);
    match case {
        "bare" => upload(Reads, frames).await,
        "kept" => upload(layer.replay_limit(UNLIMITED).expect("not 0").layer(Reads), frames).await,
        _ => upload(layer.layer(Reads), frames).await,
    }
}

async fn upload<S>(service: S, frames: usize)
where
    S: Service<Request<Frames<Shared>>, Response = Response<()>, Error = BoxError>,
{
    let request = Request::post("https://api.test/files").body(Frames::new(frames * FRAME, shared()));
    service.oneshot(request.expect("a valid request")).await.expect("an answer");
}

type Shared = Box<dyn Fn(usize) -> Bytes + Send>;

/// Frames that share one allocation, so that making them costs little.
fn shared() -> Shared {
    let bytes = Bytes::from(vec![0; FRAME]);
    Box::new(move |length| bytes.slice(..length))
}
