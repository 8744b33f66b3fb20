//! How long it takes from the end of a fetch until the last of its waiters has the token.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    task::{JoinSet, yield_now},
    time::Instant,
};
use tower_token_refresh::{FetchContext, FetchError, Session, Token, source_fn};

const WAITERS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// Tasks that do nothing but yield, on a busy runtime.
const BUSY: usize = 64;

#[derive(Clone, Copy)]
struct Setting {
    is_multi_thread: bool,
    is_busy: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_multi_thread { "multi-thread" } else { "current-thread" })?;
        f.write_str(if self.is_busy { "-busy" } else { "-idle" })
    }
}

impl Setting {
    fn runtime(self) -> Runtime {
        let builder =
            if self.is_multi_thread { Builder::new_multi_thread() } else { Builder::new_current_thread() };
        { builder }.enable_all().build().expect("a runtime")
    }
}

/// One refresh with so many waiters.
async fn last_of(waiters: usize, is_busy: bool) -> Duration {
    let answer = Arc::new(Notify::new());
    let waiting = Arc::new(AtomicUsize::new(0));
    let source = {
        let (answer, waiting) = (answer.clone(), waiting.clone());
        source_fn(move |_: FetchContext| {
            let (answer, waiting) = (answer.clone(), waiting.clone());
            async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                answer.notified().await;
                Ok::<_, FetchError>(Token::new("token"))
            }
        })
    };
    let session = Session::builder(source).build();
    let mut tasks = JoinSet::new();
    for _ in 0..waiters {
        let (session, waiting) = (session.clone(), waiting.clone());
        tasks.spawn(async move {
            waiting.fetch_add(1, Ordering::Relaxed);
            session.token().await.expect("a token");
        });
    }
    // The fetch waits, too.
    while waiting.load(Ordering::Relaxed) < waiters + 1 {
        yield_now().await;
    }
    let is_over = Arc::new(AtomicBool::new(!is_busy));
    for _ in 0..BUSY {
        let is_over = is_over.clone();
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                yield_now().await;
            }
        });
    }
    let start = Instant::now();
    answer.notify_one();
    while let Some(waiter) = tasks.join_next().await {
        waiter.expect("no waiter panics");
    }
    let time = start.elapsed();
    is_over.store(true, Ordering::Relaxed);
    time
}

fn contention(criterion: &mut Criterion) {
    for (is_multi_thread, is_busy) in [(false, false), (false, true), (true, false), (true, true)] {
        let setting = Setting { is_multi_thread, is_busy };
        let runtime = setting.runtime();
        let mut group = criterion.benchmark_group(format!("contention/{setting}"));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        for waiters in WAITERS {
            group.throughput(Throughput::Elements(waiters as u64));
            group.bench_function(BenchmarkId::from_parameter(waiters), |bencher| {
                bencher.iter_custom(|refreshes| {
                    // A task of the runtime's own: one more thread would compete with its busy ones.
                    let all = runtime.spawn(async move {
                        let mut time = Duration::ZERO;
                        for _ in 0..refreshes {
                            time += last_of(waiters, is_busy).await;
                        }
                        time
                    });
                    runtime.block_on(all).expect("no waiter panics")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, contention);
criterion_main!(benches);
