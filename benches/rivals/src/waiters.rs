//! What it costs to wait for a fetch that is under way.

use std::{
    future::Future,
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};
use toolkit_auth::oauth2::TokenProvider;
use tower_token_refresh::Session;

use crate::{
    authority::{Authority, Conduct},
    contest::Tokens,
    rivals::{
        async_singleflight::AsyncSingleflight, double_check::DoubleCheck, moka::Moka, once_cell::CellForEach,
        ours::OursInFull,
    },
    runtime::one_thread,
};

/// Something to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub name: &'static str,
    /// Lets a crowd wait for one fetch, so many times over.
    pub wait: fn(Crowd),
    /// Until the last of so many has its token, in a runtime that is busy with other things.
    pub last_served: fn(usize) -> Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub waiters: usize,
    pub rounds: usize,
}

impl Crowd {
    /// Small ones come several times, so that what a round costs by itself evens out.
    pub const SIZES: [Crowd; 6] = [
        Crowd { waiters: 1, rounds: 100 },
        Crowd { waiters: 10, rounds: 100 },
        Crowd { waiters: 100, rounds: 10 },
        Crowd { waiters: 1_000, rounds: 1 },
        Crowd { waiters: 10_000, rounds: 1 },
        Crowd { waiters: 100_000, rounds: 1 },
    ];

    /// As many fetches that nobody waits for but their leader.
    pub fn leaders_only(self) -> Crowd {
        Crowd { waiters: 0, ..self }
    }

    pub fn in_all(self) -> usize {
        self.waiters * self.rounds
    }
}

pub const TOKENS: [Waiting; 7] = [
    of::<DoubleCheck<Arc<str>>>(),
    of::<CellForEach>(),
    of::<AsyncSingleflight>(),
    of::<Moka>(),
    of::<TokenProvider>(),
    of::<OursInFull>(),
    of::<Session>(),
];

/// What else is going on in the runtime in which the last waiter's time is taken: tasks that are always ready, and work for
/// so long whenever it is their turn.
const BUSY_TASKS: usize = 64;
const BUSY_FOR: Duration = Duration::from_micros(5);

const fn of<T: Tokens>() -> Waiting {
    Waiting { name: T::NAME, wait: wait::<T>, last_served: last_served::<T> }
}

/// The least that tasks can do which wait: the baseline.
pub fn spawn_and_yield(crowd: Crowd) {
    one_thread().block_on(async {
        for _ in 0..crowd.rounds {
            let wait = |begun: Begun| async move {
                begun.note();
                yield_now().await;
                Instant::now()
            };
            gather(crowd.waiters, wait, || ()).await;
        }
    });
}

fn wait<T: Tokens>(crowd: Crowd) {
    one_thread().block_on(async {
        for _ in 0..crowd.rounds {
            served::<T>(crowd.waiters).await;
        }
    });
}

fn last_served<T: Tokens>(waiters: usize) -> Duration {
    one_thread().block_on(async {
        for _ in 0..BUSY_TASKS {
            tokio::spawn(async {
                loop {
                    let turn = Instant::now();
                    while turn.elapsed() < BUSY_FOR {
                        spin_loop();
                    }
                    yield_now().await;
                }
            });
        }
        served::<T>(waiters).await
    })
}

/// From the authority's answer until the last of the waiters has its token.
async fn served<T: Tokens>(waiters: usize) -> Duration {
    let authority = Authority::new(Conduct::Generous);
    authority.answers().close();
    let tokens = Arc::new(T::new(&authority));
    let wait = |begun: Begun| {
        let tokens = tokens.clone();
        async move {
            begun.note();
            tokens.token().await.expect("a token");
            Instant::now()
        }
    };
    let leader = tokio::spawn(wait(Begun::default()));
    authority.answers().reached(1).await;
    let mut answered = Instant::now();
    let release = || {
        answered = Instant::now();
        authority.answers().open();
    };
    let served = gather(waiters, wait, release).await;
    let leader_served = leader.await.expect("the leader ends");
    served.into_iter().max().unwrap_or(leader_served) - answered
}

/// Spawns a task for each waiter, releases them when all have begun to wait, and waits for the last.
async fn gather<F>(waiters: usize, wait: impl Fn(Begun) -> F, release: impl FnOnce()) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let begun = Begun::default();
    let mut tasks = Vec::with_capacity(waiters);
    for _ in 0..waiters {
        // Not wrapped in another future: moving that would cost more than some waiters do.
        tasks.push(tokio::spawn(wait(begun.clone())));
    }
    while begun.0.load(Relaxed) < waiters {
        yield_now().await;
    }
    release();
    let mut outputs = Vec::with_capacity(waiters);
    for task in tasks {
        outputs.push(task.await.expect("a waiter ends"));
    }
    outputs
}

/// How many have begun to wait.
#[derive(Debug, Clone, Default)]
struct Begun(Arc<AtomicUsize>);

impl Begun {
    fn note(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}
