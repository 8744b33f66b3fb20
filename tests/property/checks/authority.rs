//! Refresh tokens and flights, as the authority sees them.

use std::{collections::BTreeSet, time::Duration};

use super::{Book, Origin, Pair, Pid, Records, Root};

pub(crate) type CallId = usize;

/// A refresh is given up after two minutes, the time that it waits for its store included.
const SURELY_USED_WITHIN: Duration = Duration::from_secs(80);

/// All calls for a token.
#[derive(Default)]
pub(super) struct Fetching {
    calls: Vec<Call>,
    under_way: Vec<CallId>,
    /// The first call after which nobody has logged in or out. A replacement may go on with the identity before although a
    /// sibling has, and what has been spent of it may not be known any more.
    first_known: CallId,
}

struct Call {
    pid: Pid,
    epoch: u32,
    presented: Option<String>,
    root: usize,
    /// When its fetch began, by the monotonic clock.
    started: Duration,
    /// It was started under the lease, and with the store read.
    is_safe: bool,
    has_lease: bool,
    /// A login, replacement or logout came between: its result is not wanted.
    is_orphaned: bool,
    /// What it has spent is not needed any more, or was given up with it.
    is_forgotten: bool,
    end: End,
}

enum End {
    None,
    /// With this access token.
    Token(String),
    /// The same refresh token is good once more.
    Kept,
    Refused,
    /// Not known to whoever asked.
    Unknown,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    /// With this refresh token.
    Refresh(String),
    /// A login of this account.
    Login(String),
}

/// What whoever asked was told.
#[derive(Clone)]
pub(crate) enum Answered {
    Token(Pair),
    /// The grant or the credentials are over.
    Refused,
    /// Nothing that ends anything; to be tried again after that time.
    Failed {
        retry_after: Duration,
    },
    /// Whether anything was done is unknown.
    Silence,
}

impl Book {
    pub(crate) fn call_started(&self, pid: Pid, asking: &Asking) -> CallId {
        let mut records = self.records();
        records.next_tick();
        let [now, _] = records.now();
        // At once, or it is another fetch: a login that is known to be refused is not asked again.
        let falls_back = records.processes[pid].falls_back.take().filter(|(_, refused)| *refused == now);
        match (asking, falls_back.map(|(id, _)| id)) {
            (Asking::Login(account), Some(refused)) => records.start_login(pid, account, Some(refused)),
            (Asking::Login(account), None) => {
                records.check_start(pid);
                records.start_login(pid, account, None)
            }
            (Asking::Refresh(token), _) => {
                records.check_start(pid);
                records.check_lease(pid);
                records.check_refresh_token(pid, token);
                records.start_refresh(pid, token)
            }
        }
    }

    pub(crate) fn call_answered(&self, id: CallId, answered: &Answered) {
        let mut records = self.records();
        records.next_tick();
        records.end_call(id, answered);
    }

    /// Whoever asked has gone.
    pub(crate) fn call_dropped(&self, id: CallId) {
        let mut records = self.records();
        records.next_tick();
        if matches!(records.fetching.calls[id].end, End::None) {
            records.end_call(id, &Answered::Silence);
        }
    }

    /// How many calls this process has made.
    pub(crate) fn calls_of(&self, pid: Pid) -> usize {
        self.records().fetching.calls.iter().filter(|call| call.pid == pid).count()
    }

    /// How many logins of others this process has gone over to since it had made so many calls.
    pub(crate) fn logins_taken_over(&self, pid: Pid, since: usize) -> usize {
        let records = self.records();
        let calls = records.fetching.calls.iter().filter(|call| call.pid == pid).skip(since);
        let roots = calls.map(|call| call.root).filter(|&root| records.roots[root].by != pid);
        roots.collect::<BTreeSet<_>>().len()
    }
}

impl Records {
    /// One fetch for each process and epoch.
    fn check_start(&mut self, pid: Pid) {
        let process = &self.processes[pid];
        let is_second = self.fetching.under_way.iter().any(|&id| {
            let call = &self.fetching.calls[id];
            call.pid == pid && call.epoch == process.epoch
        });
        if is_second {
            self.broken("two fetches of one process and epoch at once");
        }
        self.check_pace(pid);
    }

    /// No refresh token is presented without the lease while the store gives it. A login spends none.
    fn check_lease(&mut self, pid: Pid) {
        if !self.processes[pid].access_to_store.allows_a_fetch() {
            self.broken("a refresh token is presented without the lease");
        }
    }

    fn check_refresh_token(&mut self, pid: Pid, token: &str) {
        let Some(refresh) = self.refreshes.get(token) else {
            return self.broken("a refresh token that nobody was given is presented");
        };
        let process = &self.processes[pid];
        let is_safe = process.access_to_store.is_undisturbed();
        let fault = refresh.calls.iter().find_map(|&id| {
            let call = &self.fetching.calls[id];
            let is_ours = call.pid == pid;
            // What another process has done can be known only from the store, and by the lease.
            let can_be_known = !self.config.sibling || id >= self.fetching.first_known;
            let is_seen = is_ours || (is_safe && call.is_safe);
            let concerns_us = !call.is_forgotten && can_be_known && is_seen;
            match &call.end {
                End::None => (can_be_known && (is_ours || concerns_us)).then_some("that is being presented"),
                End::Token(access) => {
                    let is_known =
                        is_ours || self.processes[call.pid].is_alive || self.accesses[access].is_stored;
                    (concerns_us && is_known).then_some("that the authority has replaced")
                }
                End::Refused => is_ours.then_some("that the authority has refused"),
                End::Kept | End::Unknown => None,
            }
        });
        if let Some(fault) = fault {
            self.broken(format!("a refresh token {fault} is presented again"));
        }
    }

    fn start_refresh(&mut self, pid: Pid, token: &str) -> CallId {
        let id = self.fetching.calls.len();
        let root = self.refreshes.get_mut(token).map_or(0, |refresh| {
            refresh.calls.push(id);
            refresh.root
        });
        // A replacement that has not been stored may go on with what a sibling has stored, and counts all the same.
        self.roots[root].is_shared |= self.config.sibling && self.owes_a_change(pid);
        self.start(pid, Some(token.to_owned()), root)
    }

    /// Whether the last login or replacement of the process is not known to be stored. That may have become a sibling's
    /// since, by a replacement that keeps its refresh token.
    fn owes_a_change(&self, pid: Pid) -> bool {
        self.processes[pid].owes.is_some()
    }

    /// A login that goes on where a refresh token was refused is wanted as much as that was.
    fn start_login(&mut self, pid: Pid, account: &str, refused: Option<CallId>) -> CallId {
        // In the place of a login that has not been stored, it counts as much as that.
        let origin = if self.owes_a_change(pid) { Origin::Replacement } else { Origin::Source };
        self.roots.push(Root::new(account, self.tick, pid, origin));
        let id = self.start(pid, None, self.roots.len() - 1);
        if let Some(before) = refused.map(|refused| &self.fetching.calls[refused]) {
            let Call { epoch, started, is_orphaned, is_forgotten, .. } = *before;
            let call = &mut self.fetching.calls[id];
            (call.epoch, call.started) = (epoch, started);
            (call.is_orphaned, call.is_forgotten) = (is_orphaned, is_forgotten);
        }
        id
    }

    fn start(&mut self, pid: Pid, presented: Option<String>, root: usize) -> CallId {
        let [started, _] = self.now();
        let process = &self.processes[pid];
        let id = self.fetching.calls.len();
        self.fetching.under_way.push(id);
        self.fetching.calls.push(Call {
            pid,
            epoch: process.epoch,
            presented,
            root,
            started,
            is_safe: process.access_to_store.is_undisturbed(),
            has_lease: process.access_to_store.has_lease(),
            is_orphaned: false,
            is_forgotten: false,
            end: End::None,
        });
        id
    }

    fn end_call(&mut self, id: CallId, answered: &Answered) {
        let [now, _] = self.now();
        self.fetching.under_way.retain(|&other| other != id);
        let call = &mut self.fetching.calls[id];
        let (pid, root, is_orphaned) = (call.pid, call.root, call.is_orphaned);
        // The refresh may be given up while its result is being saved.
        let is_late = now >= call.started + SURELY_USED_WITHIN;
        let may_be_given_up = is_late && matches!(answered, Answered::Token(_));
        call.is_orphaned |= may_be_given_up;
        call.is_forgotten |= may_be_given_up;
        let is_refresh = call.presented.is_some();
        let is_of_promise =
            call.presented.as_ref().is_some_and(|it| self.accesses.get(it).is_some_and(|it| it.is_promise));
        call.end = match answered {
            Answered::Token(pair) if pair.refresh.is_some() && pair.refresh != call.presented => {
                End::Token(pair.access.clone())
            }
            Answered::Token(_) | Answered::Failed { .. } => End::Kept,
            Answered::Refused => End::Refused,
            Answered::Silence => End::Unknown,
        };
        if let Answered::Token(pair) = answered {
            self.handed_out(root, pair, Some(id));
            if let (true, Some(refresh)) = (is_of_promise, &pair.refresh) {
                // If the answer comes too late for its fetch, the promise goes on with the next refresh token.
                let promise = Pair { access: refresh.clone(), refresh: Some(refresh.clone()) };
                self.handed_out(root, &promise, None);
            }
        }
        if is_refresh && self.config.password && matches!(answered, Answered::Refused) {
            self.processes[pid].falls_back = Some((id, now));
        }
        if !is_orphaned && self.processes[pid].is_alive {
            if let Answered::Token(pair) = answered {
                let account = self.roots[root].account.clone();
                let process = &mut self.processes[pid];
                if !may_be_given_up {
                    process.present.clear();
                }
                process.present.push(pair.access.clone());
                process.has_token |= !may_be_given_up;
                if !process.accounts.contains(&account) {
                    process.accounts.push(account);
                }
            }
            self.fetch_ended(pid, is_refresh, answered);
        }
    }

    /// Whether a token was fetched while the store gave no lease.
    pub(super) fn was_fetched_without_lease(&self, access: &str) -> bool {
        self.accesses[access].fetched_by.is_some_and(|id| !self.fetching.calls[id].has_lease)
    }

    /// Whether this process has fetched it.
    pub(super) fn was_fetched_by(&self, access: &str, pid: Pid) -> bool {
        self.accesses[access].fetched_by.is_some_and(|id| self.fetching.calls[id].pid == pid)
    }

    pub(super) fn what_is_spent_is_unknown(&mut self) {
        self.fetching.first_known = self.fetching.calls.len();
    }

    pub(super) fn calls_are_orphaned(&mut self, pid: Pid, keeps_refresh_token: bool) {
        // One that has brought a token may still be on its way into the store.
        for call in self.fetching.calls.iter_mut().filter(|call| call.pid == pid) {
            let is_stored = matches!(&call.end, End::Token(access) if self.accesses[access].is_stored);
            call.is_orphaned |= !is_stored;
            call.is_forgotten |= !is_stored && !keeps_refresh_token;
        }
    }

    /// Even one that has brought and stored a token may not have put it into use yet.
    pub(super) fn last_call_is_orphaned(&mut self, pid: Pid) {
        if let Some(call) = self.fetching.calls.iter_mut().rfind(|call| call.pid == pid) {
            call.is_orphaned = true;
        }
    }

    /// Their process was killed.
    pub(super) fn calls_are_lost(&mut self, pid: Pid) {
        for id in std::mem::take(&mut self.fetching.under_way) {
            if self.fetching.calls[id].pid == pid {
                self.fetching.calls[id].end = End::Unknown;
            } else {
                self.fetching.under_way.push(id);
            }
        }
    }
}
