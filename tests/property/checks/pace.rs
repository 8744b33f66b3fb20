//! Why, and how soon, a fetch may start.

use std::time::Duration;

use super::{Answered, Pid, Process, Records};

/// What a failed fetch leaves behind.
#[derive(Default)]
pub(super) struct Pace {
    failures: u32,
    /// Until when the authority is left alone, by the monotonic clock.
    cooling: Option<Duration>,
    /// The authority has said that a login is needed.
    is_over: bool,
    /// The next failure may be of the credentials before, and leaves nothing behind.
    is_forgiven: bool,
}

/// A quarter less than the first wait, for the spread.
const LEAST: f64 = 0.75;
const MOST_SECONDS: u64 = 60;
const AFTER_SILENCE: Duration = Duration::from_secs(30);

impl Pace {
    /// What has failed so far counts no more; what is under way may still fail.
    pub(super) fn forget(&mut self) {
        *self = Pace { is_forgiven: self.is_forgiven, ..Pace::default() };
    }
}

impl super::Book {
    /// A token that has expired by now may be good again afterwards, when a refresh is on its way because of that. So may
    /// one that is in the store, which ends what went wrong before.
    pub(crate) fn clock_jumps(&self) {
        let mut records = self.records();
        for pid in 0..records.processes.len() {
            records.processes[pid].forced = records.is_justified(pid);
            records.processes[pid].pace.forget();
            records.processes[pid].seen = 0;
        }
    }

    /// The process may use other credentials.
    pub(crate) fn forgiven(&self, pid: Pid) {
        self.records().processes[pid].pace = Pace { is_forgiven: true, ..Pace::default() };
    }
}

impl Records {
    pub(super) fn check_pace(&mut self, pid: Pid) {
        let [now, _] = self.now();
        let is_justified = self.is_justified(pid);
        let process = &mut self.processes[pid];
        process.forced = false;
        let pace = &process.pace;
        let broken = if process.logged_out {
            Some("a fetch after a logout")
        } else if pace.is_over {
            Some("a fetch after the authority has said that a login is required")
        } else if pace.cooling.is_some_and(|until| now < until) {
            Some("a fetch before the last failure has cooled down")
        } else if !is_justified {
            Some("a fetch for which there is no reason")
        } else {
            None
        };
        if let Some(broken) = broken {
            self.broken(broken);
        }
    }

    /// The end of a call that somebody wants.
    pub(super) fn fetch_ended(&mut self, pid: Pid, is_refresh: bool, answered: &Answered) {
        let [now, _] = self.now();
        let has_password = self.config.password;
        // A session that has not been able to look into its store does not believe that all is over.
        let is_blind = self.processes[pid].access_to_store.has_failed_to_read();
        let Process { pace, forced, .. } = &mut self.processes[pid];
        match answered {
            Answered::Token(_) => *pace = Pace::default(),
            Answered::Refused if is_refresh && has_password => {}
            _ if pace.is_forgiven => {
                // Whoever has asked since is not told of that, and asks again.
                *forced = true;
                *pace = Pace::default();
            }
            Answered::Refused if !is_blind => pace.is_over = true,
            Answered::Refused | Answered::Failed { .. } | Answered::Silence => {
                let least = match answered {
                    Answered::Failed { retry_after } => *retry_after,
                    Answered::Silence => AFTER_SILENCE,
                    _ => Duration::ZERO,
                };
                let seconds = MOST_SECONDS.min(1 << pace.failures.min(6));
                let wait = Duration::from_secs(seconds).mul_f64(LEAST).max(least);
                pace.failures += 1;
                pace.cooling = Some(now + wait);
            }
        }
    }

    /// Whether the token in use was refused, is about to expire, or is not there at all; or whether somebody has asked
    /// for another one.
    fn is_justified(&self, pid: Pid) -> bool {
        let process = &self.processes[pid];
        let now = self.now();
        process.forced
            || !process.has_token
            || process.present.iter().any(|access| {
                let access = &self.accesses[access];
                let is_refused = access.refused_to.contains(&pid);
                let is_old = self.config.lifetime.is_some_and(|lifetime| {
                    // Renewal is due after three quarters of the life at the earliest, less some jitter.
                    let half = Duration::from_secs(lifetime) / 2;
                    access.born.iter().zip(now).any(|(&born, now)| now >= born + half)
                });
                is_refused || is_old || access.is_promise
            })
    }
}
