//! The right to refresh, which ends by itself unless it is prolonged.

use std::time::Duration;

use redis::Cmd;
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};
use tower_token_refresh::store::Lease;

use crate::{RedisStore, failure::Failure, news, random_id, script};

/// The number of the lease, or 0 while somebody else has it. Numbers count on from the time, so that none comes again where
/// the last one was lost.
const TAKE: &str = r"
    if redis.call('EXISTS', KEYS[2]) == 1 then
        return 0
    end
    local time = redis.call('TIME')
    local number = tonumber(time[1]) * 1000000 + tonumber(time[2])
    local last = tonumber(redis.call('HGET', KEYS[1], 'lease') or '') or 0
    if number <= last then
        number = last + 1
    end
    redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', number), 'holder', ARGV[1])
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
    return number
";

/// Whether it has not been given back and nobody else has had one since. It is given again where it has ended.
const PROLONG: &str = r"
    if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
        return 0
    end
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
    return 1
";

const RELEASE: &str = r"
    if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
        redis.call('HDEL', KEYS[1], 'holder')
        redis.call('DEL', KEYS[2])
        redis.pcall('PUBLISH', ARGV[2], '')
    end
    return 1
";

/// How long to wait before the next look, at first and at most, where nobody tells that the lease is free. So also before
/// it is prolonged, where that has failed.
const SOON: Duration = Duration::from_millis(25);
const LATER: Duration = Duration::from_secs(1);

/// Runs on the thread of the connection.
pub(crate) async fn wait_for(store: RedisStore) -> Result<Lease, Failure> {
    let mut news = store.server.news(&store.name);
    let mut pause = SOON;
    loop {
        news.mark_unchanged();
        // In a task: where nobody waits for the answer any more, the lease is given back after it has come.
        let taking = tokio::spawn(take(store.clone()));
        if let Some(lease) = taking.await.map_err(|_| Failure::of_task())?? {
            return Ok(lease);
        }
        let _ = timeout(pause, news.changed()).await;
        pause = (2 * pause).min(LATER);
    }
}

async fn take(store: RedisStore) -> Result<Option<Lease>, Failure> {
    // What this comes to may be given back at once.
    let _under_way = store.server.release();
    // Given back also where it was taken, and the answer was lost.
    let mut held = Held { id: random_id(), prolonging: None, store };
    let store = &held.store;
    let number: u64 = store.server.ask(held.script(TAKE, &[&millis(store.lease)])).await?;
    if number == 0 {
        // It is another's, whom a release would not hurt, and need not bother.
        held.id.clear();
        return Ok(None);
    }
    let prolonging = prolong(held.store.clone(), held.script(PROLONG, &[&millis(store.lease)]));
    held.prolonging = Some(tokio::spawn(prolonging).abort_handle());
    Ok(Some(Lease::new(number, held)))
}

async fn prolong(store: RedisStore, command: Cmd) {
    let third = store.lease / 3;
    let (mut pause, mut after_failure) = (third, SOON);
    loop {
        sleep(pause).await;
        (pause, after_failure) = match store.server.ask(command.clone()).await {
            // Somebody else has had one.
            Ok(false) => return,
            Ok(true) => (third, SOON),
            // There may be a connection again soon.
            Err(_) => (after_failure, (2 * after_failure).min(LATER).min(third)),
        };
    }
}

/// Gives the lease back when it is dropped.
struct Held {
    store: RedisStore,
    /// What stands in the key. Empty: nothing of ours.
    id: String,
    prolonging: Option<AbortHandle>,
}

impl Held {
    fn script(&self, text: &str, arguments: &[&str]) -> Cmd {
        let key = self.store.key();
        let mut command = script(text, &[&key, &format!("{key}:lease")]);
        command.arg(&self.id).arg(arguments);
        command
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Else one whose release fails would go on.
        self.prolonging.iter().for_each(AbortHandle::abort);
        if self.id.is_empty() {
            return;
        }
        let release = self.script(RELEASE, &[&news::channel(&self.store.name)]);
        let (server, under_way) = (self.store.server.clone(), self.store.server.release());
        self.store.server.thread().spawn(async move {
            let _: Result<bool, _> = server.ask(release).await;
            drop(under_way);
        });
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}
