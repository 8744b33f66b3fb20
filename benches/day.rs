//! A day of traffic in paused time: what lives on the heap at each hour. It fails where that grows after the first hour, and
//! where anything is left at the end. `day [HOURS]`; 56 are a million requests.
//!
//! Five requests a second, which are given up once a minute; tokens that live for 20 minutes; a revocation every 7
//! minutes; every 50 minutes the authority is away for a minute.

mod kit {
    pub(crate) mod arguments;
    pub(crate) mod layer;
    pub(crate) mod lines;
    pub(crate) mod tokens;
}

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure, opt_out};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{self, sleep},
};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_token_refresh::{FetchContext, FetchError, ReplayBody, Session, source_fn, test_util::TestClock};

use self::kit::{arguments::arguments, layer::layer, lines::line, tokens::Tokens};

const MINUTE: usize = 60;
const REQUESTS_A_SECOND: usize = 5;

type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<()>, BoxError>;

struct World {
    tokens: Tokens,
    is_away: Arc<AtomicBool>,
    fetches: Arc<AtomicUsize>,
    client: Client,
}

impl World {
    fn new() -> Self {
        let (tokens, is_away, fetches) =
            (Tokens::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let source = {
            let (tokens, is_away, fetches) = (tokens.clone(), is_away.clone(), fetches.clone());
            source_fn(move |_: FetchContext| {
                fetches.fetch_add(1, Ordering::Relaxed);
                let token = tokens.issue().expires_in(Duration::from_secs(20 * 60));
                let is_away = is_away.load(Ordering::Relaxed);
                async move {
                    sleep(Duration::from_millis(200)).await;
                    if is_away {
                        Err(FetchError::transient("away"))
                    } else {
                        Ok(token.refresh_token("spare"))
                    }
                }
            })
        };
        let api = {
            let tokens = tokens.clone();
            service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
                let is_accepted = tokens.accept(request.headers());
                async move {
                    sleep(Duration::from_millis(50)).await;
                    let mut response = Response::new(());
                    if !is_accepted {
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                    }
                    Ok::<_, BoxError>(response)
                }
            })
        };
        let session = Session::builder(source).clock(TestClock::new()).build();
        let client = layer(&session, "https://api.test").layer(api);
        World { tokens, is_away, fetches, client: BoxCloneSyncService::new(client) }
    }

    /// Sends an hour's requests, and gives how many were accepted.
    async fn hour(&self, hour: usize) -> usize {
        let mut accepted = 0;
        for second in hour * 60 * MINUTE..(hour + 1) * 60 * MINUTE {
            if second % (7 * MINUTE) == 0 {
                self.tokens.revoke();
            }
            // Never in the last minute of an hour: what is remembered of a failure would be counted then.
            self.is_away.store(second / MINUTE % 50 == 25, Ordering::Relaxed);
            let next = time::Instant::now() + Duration::from_secs(1);
            let mut requests = JoinSet::new();
            for _ in 0..REQUESTS_A_SECOND {
                let request = Request::post("https://api.test/orders").body(Full::from("an order"));
                requests.spawn(self.client.clone().oneshot(request.expect("a valid request")));
            }
            if second % MINUTE == 0 {
                // While they are sent, or, if they were refused, while they wait for the refresh.
                let is_early = second / MINUTE % 2 == 0;
                sleep(Duration::from_millis(if is_early { 20 } else { 120 })).await;
                requests.abort_all();
            }
            while let Some(answer) = requests.join_next().await {
                // A request that was given up has none; while the authority is away there may be no token.
                let is_accepted = matches!(answer, Ok(Ok(response)) if response.status() == StatusCode::OK);
                accepted += usize::from(is_accepted);
            }
            time::sleep_until(next).await;
        }
        accepted
    }
}

/// So many hours of it. Everything ends afterwards but the runtime, and has had the time to.
fn day(runtime: &Runtime, hours: usize, mut each: impl FnMut(usize, &AllocationInfo, usize)) -> usize {
    let world = World::new();
    for hour in 0..hours {
        let mut accepted = 0;
        let heap = measure(|| accepted = runtime.block_on(world.hour(hour)));
        opt_out(|| each(hour + 1, &heap, accepted));
    }
    let fetches = world.fetches.load(Ordering::Relaxed);
    drop(world);
    runtime.block_on(sleep(Duration::from_secs(3600)));
    fetches
}

fn main() {
    let hours = arguments().first().map_or(24, |hours| hours.parse().expect("a number of hours"));
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let _entered = runtime.enter();
    // What the thread and the runtime keep for good, whatever they have done.
    let mut live = measure(|| _ = day(&runtime, 1, |_, _, _| {})).bytes_current as f64;
    let mut after_the_first = None;
    let mut fetches = 0;
    let all = measure(|| {
        fetches = day(&runtime, hours, |hour, heap, accepted| {
            live += heap.bytes_current as f64;
            let name = format!("day/{hour}");
            line(&name, "live_bytes", live);
            line(&name, "accepted", accepted as f64);
            let first = *after_the_first.get_or_insert(live);
            assert!(live <= first, "{live} bytes live after hour {hour}, {first} after the first");
        });
    });
    line("day/all", "fetches", fetches as f64);
    let left = (all.count_current, all.bytes_current);
    assert_eq!(left, (0, 0), "allocations and bytes that are left of {} in all", all.count_total);
}
