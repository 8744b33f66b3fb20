//! Requests, as the API and other hosts see them.

use http::{header, request::Parts};

use super::{Book, Pid, Records};
use crate::steps::Kind;

/// What is known of a request.
pub(super) struct Sent {
    pub(super) pid: Pid,
    kind: Kind,
    times: usize,
    /// The epoch of its first attempt.
    epoch: Option<u32>,
    /// An attempt has not been answered.
    pub(super) is_out: bool,
    /// It has waited since before a login, replacement or logout, which it is to go on with.
    pub(super) is_left_behind: bool,
}

/// In every token that the model authority hands out.
const MARK: &str = "-of-authority-";
pub(crate) const OWN: &str = "Bearer of-the-caller";

impl Book {
    pub(crate) fn request_made(&self, pid: Pid, id: usize, kind: Kind) {
        let sent = Sent { pid, kind, times: 0, epoch: None, is_out: false, is_left_behind: false };
        self.records().sent.insert(id, sent);
    }

    /// A request has arrived somewhere; returned is for the how manieth time.
    pub(crate) fn request_sent(&self, id: usize, head: &Parts) -> usize {
        let mut records = self.records();
        records.next_tick();
        let sent = records.sent.get_mut(&id).expect("it was made");
        sent.times += 1;
        (sent.is_out, sent.is_left_behind) = (true, false);
        let times = sent.times;
        records.check_request(id, head);
        times
    }

    pub(crate) fn request_answered(&self, id: usize) {
        self.records().sent.get_mut(&id).expect("it was made").is_out = false;
    }

    /// An attempt has been answered with a refusal of its token, which the session looks at.
    pub(crate) fn refused(&self, pid: Pid, head: &Parts) {
        if let Some(access) = credential(head) {
            if let Some(access) = self.records().accesses.get_mut(access) {
                access.refused_to.push(pid);
            }
        }
        self.waiters_may_wait_again();
    }
}

impl Records {
    fn check_request(&mut self, id: usize, head: &Parts) {
        let Sent { pid, kind, times, .. } = self.sent[&id];
        let is_ours = !matches!(kind, Kind::NoToken | Kind::Foreign(_) | Kind::Own);
        if times > if is_ours { 2 } else { 1 } {
            self.broken("a request is sent once too often");
        }
        if !is_ours {
            return self.check_that_nothing_is_shown(kind, head);
        }
        let epoch = self.processes[pid].epoch;
        let first = self.sent.get_mut(&id).expect("it was made").epoch.get_or_insert(epoch);
        if *first != epoch {
            self.broken("a request is sent again as somebody else");
        }
        self.check_credential(pid, head);
    }

    fn check_that_nothing_is_shown(&mut self, kind: Kind, head: &Parts) {
        let values = head.headers.values().map(|value| value.as_bytes());
        let uri = head.uri.to_string();
        let shows = |text: &[u8]| text.windows(MARK.len()).any(|window| window == MARK.as_bytes());
        if values.chain([uri.as_bytes()]).any(shows) {
            self.broken(format!("a credential is shown where it has no business: {kind:?}"));
        }
        let credential = head.headers.get(header::AUTHORIZATION);
        if matches!(kind, Kind::Own) && credential.is_none_or(|credential| credential != OWN) {
            self.broken("the caller's own credential is gone");
        }
    }

    fn check_credential(&mut self, pid: Pid, head: &Parts) {
        let process = &self.processes[pid];
        let known = credential(head).and_then(|access| self.accesses.get_key_value(access));
        let Some((text, access)) = known.filter(|(_, access)| !access.is_promise) else {
            return self.broken("a request is sent without a token of the authority's");
        };
        let broken = if process.logged_out {
            Some("a token is shown after the logout")
        } else if !process.accounts.contains(&self.roots[access.root].account) {
            Some("a token of another account is shown")
        } else if !access.has_been_saved && self.was_fetched_by(text, pid) {
            Some("a token is shown before its save has ended")
        } else {
            None
        };
        if let Some(broken) = broken {
            self.broken(broken);
        }
    }
}

/// The one credential of a request.
fn credential(head: &Parts) -> Option<&str> {
    let mut credentials = head.headers.get_all(header::AUTHORIZATION).iter();
    let credential = credentials.next()?.to_str().ok()?.strip_prefix("Bearer ")?;
    credentials.next().is_none().then_some(credential)
}
