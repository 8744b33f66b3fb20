//! What has happened, and what should not have.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard},
};

#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    events: BTreeMap<&'static str, usize>,
    /// How often each has come, by its text without the numbers in it, and the first of them.
    violations: BTreeMap<String, (usize, String)>,
}

impl Tally {
    pub(crate) fn count(&self, event: &'static str) {
        *self.counts().events.entry(event).or_default() += 1;
    }

    pub(crate) fn of(&self, event: &'static str) -> usize {
        self.counts().events.get(event).copied().unwrap_or_default()
    }

    /// Something that must not happen.
    pub(crate) fn violation(&self, what: impl fmt::Display) {
        let what = what.to_string();
        let kind = what.replace(|letter: char| letter.is_ascii_digit(), "");
        self.counts().violations.entry(kind).or_insert((0, what)).0 += 1;
    }

    pub(crate) fn violations(&self) -> usize {
        self.counts().violations.values().map(|(times, _)| times).sum()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nothing panics while it counts")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        for (event, times) in &counts.events {
            writeln!(f, "{times:>12}  {event}")?;
        }
        for (times, first) in counts.violations.values() {
            writeln!(f, "{times:>12}  violations, the first of them: {first}")?;
        }
        Ok(())
    }
}
