//! Tasks that wait for one refresh, beside tasks that yield once.

use std::future::Future;

use tokio::task::yield_now;
use tower::{Layer, ServiceExt};

use super::Workload;
use crate::kit::{
    inner::Reads,
    layer::layer,
    requests::Shape,
    runtime::runtime,
    session::{ORIGIN, session},
};

const CASES: [(&str, Option<&str>); 4] = [
    ("yield", None),
    ("session", Some("yield")),
    ("yield-and-send", None),
    ("layer", Some("yield-and-send")),
];

pub(super) fn workloads() -> Vec<Workload> {
    let sizes = (0..=5).map(|power| 10_usize.pow(power));
    let cases = sizes.flat_map(|waiters| CASES.map(|(case, base)| (waiters, case, base)));
    cases
        .map(|(waiters, case, base)| Workload {
            name: format!("waiter/{case}/{waiters}"),
            base: base.map(|base| format!("waiter/{base}/{waiters}")),
            few: 0,
            many: waiters,
            run: Box::new(move |waiters| runtime().block_on(wait(case, waiters))),
        })
        .collect()
}

async fn wait(case: &str, waiters: usize) {
    match case {
        "yield" => spawn(waiters, yield_now).await,
        "session" => {
            let session = session();
            let token = || {
                let session = session.clone();
                async move { drop(session.token().await.expect("a token")) }
            };
            spawn(waiters, token).await;
        }
        "yield-and-send" => {
            let send = || async {
                yield_now().await;
                Reads.oneshot(Shape::Get.request()).await.expect("an answer");
            };
            spawn(waiters, send).await;
        }
        _ => {
            let service = layer(&session(), ORIGIN).layer(Reads);
            let send = || {
                let service = service.clone();
                async move { drop(service.oneshot(Shape::Get.request()).await.expect("an answer")) }
            };
            spawn(waiters, send).await;
        }
    }
}

/// The flight's task comes after all of these in the queue, so that all of them wait for it.
async fn spawn<F>(tasks: usize, task: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = (0..tasks).map(|_| tokio::spawn(task())).collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
}
