//! What callers leave open who give up while their refused request waits for a refresh.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{Answer, Classify, Standard};

use super::authority::Authority;
use crate::{
    Count,
    kit::{
        layer::layer,
        loopback::{Http, client, serve},
        runtime::runtime,
    },
};

const CALLERS: usize = 20;
/// How long a connection may take to close before it counts as left open.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Count> {
    Http::BOTH
        .map(|http| Count {
            name: format!("dropped/{}", http.name()),
            metric: "connections",
            value: Box::new(move || runtime().block_on(left_open(http)) as f64),
        })
        .into()
}

async fn left_open(http: Http) -> usize {
    let (opened, mut open) = watch::channel(0);
    let address = serve(http, opened, refuse).await;
    let url = format!("http://{address}");
    let (authority, session) = Authority::with_session().await;

    let (judged, mut has_judged) = watch::channel(0);
    let layer = layer(&session, &url).classifier(move |answer: &Answer<'_>| {
        judged.send_modify(|judged| *judged += 1);
        Standard.classify(answer)
    });
    let client = layer.layer(client(http));
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let upload = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 1024])))]);
        let request = Request::post(&url).body(StreamBody::new(upload.chain(stream::pending())));
        calls.spawn(client.clone().oneshot(request.expect("a valid request")));
    }
    has_judged.wait_for(|judged| *judged == CALLERS).await.expect("the layer lives");
    // The first token's fetch was one, too.
    authority.fetches.reached(2).await;
    calls.shutdown().await;
    drop(client);
    let all_closed = timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.is_ok();
    if all_closed { 0 } else { *open.borrow() }
}

/// Before the upload has come.
async fn refuse(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    Ok(response)
}
