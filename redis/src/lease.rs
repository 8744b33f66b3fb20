//! The right to refresh, which ends by itself unless it is prolonged.

use std::time::Duration;

use redis::Script;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tower_token_refresh::{BoxError, store::Lease};

use crate::{RedisStore, failure::Failure, news};

/// Its number, which is also what stands in the key, or 0 while somebody else has it.
const TAKE: &str = r"
    if redis.call('EXISTS', KEYS[2]) == 1 then
        return 0
    end
    local number = redis.call('HINCRBY', KEYS[1], 'lease', 1)
    redis.call('SET', KEYS[2], number, 'PX', ARGV[1])
    return number
";

const PROLONG: &str = r"
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then
        return 0
    end
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

const RELEASE: &str = r"
    if redis.call('GET', KEYS[1]) == ARGV[1] then
        redis.call('DEL', KEYS[1])
        redis.call('PUBLISH', ARGV[2], '')
    end
";

/// How long to wait before the next look, at first and at most, where nobody tells that the lease is free.
const SOON: Duration = Duration::from_millis(25);
const LATER: Duration = Duration::from_secs(1);

pub(crate) async fn wait_for(store: &RedisStore) -> Result<Lease, BoxError> {
    Failure::without_runtime()?;
    let mut news = store.server.news(&store.name);
    let mut pause = SOON;
    loop {
        news.mark_unchanged();
        // In a task: if nobody waits for the answer any more, the lease that it brings is given back.
        let store = store.clone();
        if let Some(lease) = tokio::spawn(async move { take(&store).await }).await?? {
            return Ok(lease);
        }
        let _ = timeout(pause, news.changed()).await;
        pause = (2 * pause).min(LATER);
    }
}

async fn take(store: &RedisStore) -> Result<Option<Lease>, Failure> {
    let mut connection = store.server.connection().await?;
    let take = Script::new(TAKE);
    let mut take = take.key(store.key());
    take.key(lease_key(store)).arg(millis(store.lease));
    let number: u64 = take.invoke_async(&mut connection).await.map_err(Failure::of)?;
    if number == 0 {
        return Ok(None);
    }
    let prolonging = tokio::spawn(prolong(store.clone(), number)).abort_handle();
    let held = Held { store: store.clone(), number, prolonging, runtime: Handle::current() };
    Ok(Some(Lease::new(number, held)))
}

async fn prolong(store: RedisStore, number: u64) {
    let prolong = Script::new(PROLONG);
    loop {
        sleep(store.lease / 3).await;
        let Ok(mut connection) = store.server.connection().await else { continue };
        let mut prolong = prolong.key(lease_key(&store));
        prolong.arg(number).arg(millis(store.lease));
        if let Ok(false) = prolong.invoke_async(&mut connection).await {
            // It has ended, and is somebody else's by now.
            return;
        }
    }
}

/// Ends the lease when it is dropped.
struct Held {
    store: RedisStore,
    number: u64,
    prolonging: AbortHandle,
    runtime: Handle,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Else one whose release fails would go on.
        self.prolonging.abort();
        let (store, number) = (self.store.clone(), self.number);
        // Where that runtime has ended, so does the lease, by itself.
        self.runtime.spawn(async move {
            let Ok(mut connection) = store.server.connection().await else { return };
            let release = Script::new(RELEASE);
            let mut release = release.key(lease_key(&store));
            release.arg(number).arg(news::channel(&store.name));
            let _: Result<(), _> = release.invoke_async(&mut connection).await;
        });
    }
}

fn lease_key(store: &RedisStore) -> String {
    format!("{}:lease", store.key())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
