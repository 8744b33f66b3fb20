//! Tasks that wait for one refresh, beside tasks that yield once.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::Notify, task::yield_now};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{FetchContext, FetchError, Session, Token, source_fn};

use super::Workload;
use crate::kit::{inner::Reads, layer::layer, requests::Shape, runtime::runtime, session::ORIGIN};

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
    let fetch = Arc::new(Notify::new());
    let session = session(&fetch);
    match case {
        "yield" => {
            let task = |begun: Begun| async move {
                begun.note();
                yield_now().await;
            };
            gather(waiters, task, &fetch).await;
        }
        "session" => {
            let task = |begun: Begun| {
                let session = session.clone();
                async move {
                    begun.note();
                    session.token().await.expect("a token");
                }
            };
            gather(waiters, task, &fetch).await;
        }
        "yield-and-send" => {
            let task = |begun: Begun| async move {
                begun.note();
                yield_now().await;
                Reads.oneshot(Shape::Get.request()).await.expect("an answer");
            };
            gather(waiters, task, &fetch).await;
        }
        _ => {
            let service = layer(&session, ORIGIN).layer(Reads);
            let task = |begun: Begun| {
                let service = service.clone();
                async move {
                    begun.note();
                    service.oneshot(Shape::Get.request()).await.expect("an answer");
                }
            };
            gather(waiters, task, &fetch).await;
        }
    }
}

fn session(fetch: &Arc<Notify>) -> Session {
    let fetch = fetch.clone();
    let source = source_fn(move |_: FetchContext| {
        let fetch = fetch.clone();
        async move {
            fetch.notified().await;
            Ok::<_, FetchError>(Token::new("token"))
        }
    });
    Session::builder(source).build()
}

/// Spawns a leader and so many others, and lets the fetch go on when all of them wait. The leader is there with no
/// others, too, so that what the refresh costs by itself is not theirs.
async fn gather<F>(others: usize, task: impl Fn(Begun) -> F, fetch: &Notify)
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Begun::default();
    let tasks: Vec<_> = (0..=others).map(|_| tokio::spawn(task(begun.clone()))).collect();
    while begun.0.load(Ordering::Relaxed) < tasks.len() {
        yield_now().await;
    }
    fetch.notify_one();
    for task in tasks {
        task.await.expect("no task panics");
    }
}

/// How many tasks have begun.
#[derive(Clone, Default)]
struct Begun(Arc<AtomicUsize>);

impl Begun {
    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
