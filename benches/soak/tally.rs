//! What has happened, and what should not have.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard},
};

/// More of them tell nothing new.
const SHOWN: usize = 20;

#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    events: BTreeMap<&'static str, usize>,
    violations: Vec<String>,
    violated: usize,
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
        let mut counts = self.counts();
        counts.violated += 1;
        if counts.violations.len() < SHOWN {
            counts.violations.push(what.to_string());
        }
    }

    pub(crate) fn violations(&self) -> usize {
        self.counts().violated
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
        for violation in &counts.violations {
            writeln!(f, "   violation  {violation}")?;
        }
        Ok(())
    }
}
