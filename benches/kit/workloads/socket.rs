//! Requests over a loopback socket, client and server in one thread.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::watch;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::Workload;
use crate::kit::{
    layer::layer,
    loopback::{Http, client, serve},
    runtime::runtime,
    session::session,
    static_header::static_header,
};

pub(super) fn workloads() -> Vec<Workload> {
    Http::BOTH
        .into_iter()
        .flat_map(|http| ["static-header", "layer"].map(|stack| (http, stack)))
        .map(|(http, stack)| Workload {
            name: format!("socket/{}/{stack}", http.name()),
            base: (stack == "layer").then(|| format!("socket/{}/static-header", http.name())),
            few: 200,
            many: 1200,
            run: Box::new(move |requests| runtime().block_on(send_through(http, stack, requests))),
        })
        .collect()
}

async fn send_through(http: Http, stack: &str, requests: usize) {
    let address = serve(http, watch::Sender::default(), answer).await;
    let origin = format!("http://{address}");
    let url = format!("{origin}/orders");
    let session = session();
    session.token().await.expect("a token");
    match stack {
        "static-header" => send(static_header().layer(client(http)), &url, requests).await,
        _ => send(layer(&session, &origin).layer(client(http)), &url, requests).await,
    }
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    request.into_body().collect().await?;
    Ok(Response::new(Full::from("done")))
}

async fn send<S>(mut service: S, url: &str, requests: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error: Into<BoxError>>,
{
    let body = Bytes::from_static(&[b'x'; 1024]);
    for _ in 0..requests {
        let request = Request::post(url)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("user-agent", "bench")
            .header("x-request-id", "0")
            .body(Full::new(body.clone()));
        let service = service.ready().await.map_err(Into::into).expect("always ready");
        let answer = service.call(request.expect("a valid request")).await.map_err(Into::into);
        answer.expect("an answer").collect().await.expect("all of it");
    }
}
