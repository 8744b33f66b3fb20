//! Who has to look at what has changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

const PREFIX: &str = "tower-token-refresh:";

/// The channel on which the changes of this name are told.
pub(crate) fn channel(name: &str) -> String {
    format!("{PREFIX}{{{name}}}")
}

/// Those who wait for changes, by their channel.
#[derive(Clone, Default)]
pub(crate) struct News(Arc<Mutex<HashMap<String, watch::Sender<()>>>>);

impl News {
    /// All channels, so that a process has one subscription, however many names it uses.
    pub(crate) const PATTERN: &str = "tower-token-refresh:*";

    pub(crate) fn of(&self, name: &str) -> watch::Receiver<()> {
        let mut waiting = self.waiting();
        // Before it would grow, which is seldom enough.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|_, waiting| waiting.receiver_count() > 0);
        }
        waiting.entry(channel(name)).or_default().subscribe()
    }

    /// A message wakes those whose channel it names; anything else, such as the end of a connection, wakes all.
    pub(crate) fn tell(&self, message: &PushInfo) {
        match (&message.kind, message.data.get(1)) {
            (PushKind::PMessage, Some(Value::BulkString(channel))) => {
                let waiting = self.waiting();
                let waiting = str::from_utf8(channel).ok().and_then(|channel| waiting.get(channel));
                waiting.into_iter().for_each(|waiting| waiting.send_replace(()));
            }
            _ => self.tell_all(),
        }
    }

    /// A message may have been missed.
    pub(crate) fn tell_all(&self) {
        self.waiting().values().for_each(|waiting| waiting.send_replace(()));
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_no_more_takes_no_room() {
        let news = News::default();
        let kept: Vec<_> = (0..50).map(|name| news.of(&format!("kept-{name}"))).collect();
        for name in 0..10_000 {
            drop(news.of(&format!("brief-{name}")));
        }
        assert!(news.waiting().len() < 300, "{}", news.waiting().len());
        assert!(kept.iter().all(|kept| !kept.has_changed().unwrap()), "each has its sender");
    }

    #[test]
    fn a_message_wakes_those_of_its_channel_and_what_else_comes_wakes_all() {
        let news = News::default();
        let waiting = ["one", "other"].map(|name| news.of(name));
        let woken = || waiting.each_ref().map(|waiting| waiting.has_changed().unwrap());
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let data = vec![text(News::PATTERN), text(&channel("one")), text("")];
        news.tell(&PushInfo { kind: PushKind::PMessage, data });
        assert_eq!(woken(), [true, false]);
        news.tell(&PushInfo { kind: PushKind::Disconnection, data: Vec::new() });
        assert_eq!(woken(), [true, true]);
    }
}
