//! What must hold, and what is known from watching the authority, the API and the store: nobody asks a session.
//!
//! The models report to a [`Book`] whatever passes them. The first rule that is broken is kept until the run looks, as a
//! panic in a session's task would be caught there.

mod authority;
mod pace;
mod requests;
mod store;
mod waiters;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, UNIX_EPOCH},
};

use tower_token_refresh::{store::StoredToken, test_util::TestClock, time::Clock};

use self::{
    authority::Fetching,
    pace::Pace,
    requests::Sent,
    store::{AccessToStore, Kept},
};
pub(crate) use self::{
    authority::{Answered, Asking, CallId},
    requests::OWN,
    store::WithoutLease,
};
use crate::steps::Config;

/// A process is never the same again after a restart.
pub(crate) type Pid = usize;

/// The place of an event in the order of all events.
type Tick = u64;

/// The records of one run; clones are the same.
#[derive(Clone)]
pub(crate) struct Book(Arc<Mutex<Records>>);

struct Records {
    config: Config,
    clock: TestClock,
    tick: Tick,
    broken: Option<String>,
    /// How many refreshes have begun at this moment.
    at_once: (Duration, u32),
    processes: Vec<Process>,
    /// Whoever has logged in, or replaced a token: where all other tokens come from.
    roots: Vec<Root>,
    accesses: BTreeMap<String, Access>,
    refreshes: BTreeMap<String, Refresh>,
    fetching: Fetching,
    kept: Kept,
    sent: BTreeMap<usize, Sent>,
}

struct Process {
    is_alive: bool,
    /// Logins and logouts so far.
    epoch: u32,
    /// The last login, replacement or logout.
    changed: Tick,
    /// Nothing is fetched or shown until a login.
    logged_out: bool,
    logouts: Vec<Tick>,
    /// When the last of them was first tried to be saved, unless it was.
    owes_logout: Option<Tick>,
    /// The accounts that it may speak for.
    accounts: Vec<String>,
    /// The access tokens of which each may be the one in use.
    present: Vec<String>,
    /// One of them is: what was found in the store need not have been of use.
    has_token: bool,
    /// Somebody has asked for a new token, whatever the present one is.
    forced: bool,
    pace: Pace,
    /// A refused refresh token, after which the same fetch goes on with the password.
    falls_back: Option<(CallId, Duration)>,
    /// The root of its last login or replacement, until it knows that this is stored.
    owes: Option<usize>,
    access_to_store: AccessToStore,
    /// How many of the records in the store it has seen.
    seen: usize,
    /// Its last look into the store has failed.
    is_blind: bool,
    /// Looks into the store that have not ended.
    looks: usize,
    /// How many saves have ended, in whatever way.
    saves: usize,
    /// There were some at the last login, replacement or logout.
    looked_on: bool,
}

struct Root {
    account: String,
    /// When it was asked for.
    at: Tick,
    by: Pid,
    origin: Origin,
    /// When a record of it was stored first and last, and when its process knew that one was, or was killed.
    stored: Option<Tick>,
    stored_last: Option<Tick>,
    settled: Option<Tick>,
    /// When a token of it was stored that was fetched while the store gave no lease.
    forced_in: Option<Tick>,
    /// A replacement goes on with it that may still be stored, although a sibling has stored what it made of it.
    is_shared: bool,
}

impl Root {
    fn new(account: &str, at: Tick, by: Pid, origin: Origin) -> Self {
        let account = account.to_owned();
        let (stored, stored_last, settled) = (None, None, None);
        Root { account, at, by, origin, stored, stored_last, settled, forced_in: None, is_shared: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    Login,
    Replacement,
    /// A login by the source.
    Source,
}

struct Access {
    root: usize,
    /// A login has brought nothing but its refresh token, by whose name it is known.
    is_promise: bool,
    /// By the monotonic and the wall clock.
    born: [Duration; 2],
    /// The call that brought it.
    fetched_by: Option<CallId>,
    /// When it was handed out.
    at: Tick,
    /// A save of it has begun.
    is_being_saved: bool,
    /// One has ended, or has even succeeded.
    has_been_saved: bool,
    is_stored: bool,
    /// Who was told that it is refused.
    refused_to: Vec<Pid>,
}

struct Refresh {
    root: usize,
    calls: Vec<CallId>,
}

/// A token pair as the authority hands it out. Where there is no access token, the name of the refresh token stands for it.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
}

/// What a token is known by: its access token, or where it has none, its refresh token.
fn name(token: &StoredToken) -> &str {
    let access = token.access.expose();
    match &token.refresh {
        Some(refresh) if access.is_empty() => refresh.expose(),
        _ => access,
    }
}

impl Book {
    pub(crate) fn new(config: Config, clock: TestClock) -> Self {
        Book(Arc::new(Mutex::new(Records {
            config,
            clock,
            tick: 0,
            broken: None,
            at_once: (Duration::ZERO, 0),
            processes: Vec::new(),
            roots: Vec::new(),
            accesses: BTreeMap::new(),
            refreshes: BTreeMap::new(),
            fetching: Fetching::default(),
            kept: Kept::default(),
            sent: BTreeMap::new(),
        })))
    }

    /// The rule that was broken, if one was.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.records().broken.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn broken(&self, rule: impl Into<String>) {
        self.records().broken(rule);
    }

    pub(crate) fn process_started(&self) -> Pid {
        let mut records = self.records();
        records.processes.push(Process {
            is_alive: true,
            epoch: 0,
            changed: 0,
            logged_out: false,
            logouts: Vec::new(),
            owes_logout: None,
            accounts: Vec::new(),
            present: Vec::new(),
            has_token: false,
            forced: false,
            pace: Pace::default(),
            falls_back: None,
            owes: None,
            access_to_store: AccessToStore::default(),
            seen: 0,
            is_blind: false,
            looks: 0,
            saves: 0,
            looked_on: false,
        });
        records.processes.len() - 1
    }

    pub(crate) fn process_killed(&self, pid: Pid) {
        let mut records = self.records();
        records.processes[pid].is_alive = false;
        records.processes[pid].access_to_store = AccessToStore::default();
        records.calls_are_lost(pid);
        let tick = records.next_tick();
        for root in records.roots.iter_mut().filter(|root| root.by == pid) {
            root.settled.get_or_insert(tick);
        }
    }

    /// Once a rule is broken nobody is: what may go round in circles comes to rest.
    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        let records = self.records();
        records.broken.is_none() && records.processes[pid].is_alive
    }

    /// Somebody logs in on this process, with tokens of this account.
    pub(crate) fn login(&self, pid: Pid, account: &str, pair: &Pair) {
        let mut records = self.records();
        let root = records.change(pid, account, pair, Origin::Login);
        records.what_is_spent_is_unknown();
        let account = records.roots[root].account.clone();
        let process = &mut records.processes[pid];
        process.epoch += 1;
        process.logged_out = false;
        process.accounts = vec![account];
    }

    /// The account on this process gets tokens from elsewhere.
    pub(crate) fn replace(&self, pid: Pid, account: &str, pair: &Pair) {
        let mut records = self.records();
        let before = records.processes[pid].present.clone();
        let root = records.change(pid, account, pair, Origin::Replacement);
        if pair.refresh.is_some() {
            // Of a process that has not looked into the store yet it is another identity to all others.
            records.what_is_spent_is_unknown();
        } else {
            records.last_call_is_orphaned(pid);
            // The refresh token is kept, and is the replacement's from now on.
            let at = records.roots[root].at;
            let has_sibling = records.config.sibling;
            for access in before {
                let root = records.accesses[&access].root;
                let root = &mut records.roots[root];
                root.is_shared |= has_sibling;
                (root.at, root.by, root.origin) = (at, pid, Origin::Replacement);
                (root.stored, root.settled) = (None, None);
            }
        }
    }

    pub(crate) fn logout(&self, pid: Pid) {
        let mut records = self.records();
        let tick = records.next_tick();
        records.changed(pid, false);
        records.what_is_spent_is_unknown();
        let process = &mut records.processes[pid];
        process.logouts.push(tick);
        process.owes_logout = None;
        process.epoch += 1;
        process.logged_out = true;
        process.accounts.clear();
        process.present.clear();
        process.has_token = false;
    }

    /// The account of the process, where it is known for sure.
    pub(crate) fn account(&self, pid: Pid) -> Option<String> {
        match &self.records().processes[pid].accounts[..] {
            [account] => Some(account.clone()),
            _ => None,
        }
    }

    /// Somebody asks the session for a new token.
    pub(crate) fn forced(&self, pid: Pid) {
        self.records().processes[pid].forced = true;
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().expect("nothing panics while it holds the records")
    }
}

impl Records {
    fn broken(&mut self, rule: impl Into<String>) {
        self.broken.get_or_insert(rule.into());
    }

    /// Refreshes that end and begin again while no time passes would never end.
    fn check_progress(&mut self) {
        let [now, _] = self.now();
        let (moment, times) = self.at_once;
        self.at_once = if moment == now { (now, times + 1) } else { (now, 1) };
        if times > 1000 {
            self.broken("refreshes without end");
        }
    }

    fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    fn now(&self) -> [Duration; 2] {
        let wall = self.clock.wall().duration_since(UNIX_EPOCH).expect("the run begins late enough");
        [self.clock.monotonic(), wall]
    }

    /// A login or replacement.
    fn change(&mut self, pid: Pid, account: &str, pair: &Pair, origin: Origin) -> usize {
        let at = self.next_tick();
        self.roots.push(Root::new(account, at, pid, origin));
        let root = self.roots.len() - 1;
        self.handed_out(root, pair, None);
        self.changed(pid, origin == Origin::Replacement && pair.refresh.is_none());
        self.processes[pid].present = vec![pair.access.clone()];
        self.processes[pid].has_token = true;
        self.processes[pid].owes = Some(root);
        root
    }

    /// What failed before is forgotten, and what is under way is no longer wanted.
    fn changed(&mut self, pid: Pid, keeps_refresh_token: bool) {
        let tick = self.tick;
        let process = &mut self.processes[pid];
        process.changed = tick;
        process.looked_on = process.looks > 0;
        process.pace = Pace::default();
        process.owes = None;
        self.calls_are_orphaned(pid, keeps_refresh_token);
    }

    fn handed_out(&mut self, root: usize, pair: &Pair, fetched_by: Option<CallId>) {
        let born = self.now();
        let access = Access {
            root,
            is_promise: pair.refresh.as_ref() == Some(&pair.access),
            born,
            fetched_by,
            at: self.tick,
            is_being_saved: false,
            has_been_saved: false,
            is_stored: false,
            refused_to: Vec::new(),
        };
        self.accesses.entry(pair.access.clone()).or_insert(access);
        if let Some(refresh) = &pair.refresh {
            self.refreshes.entry(refresh.clone()).or_insert(Refresh { root, calls: Vec::new() });
        }
    }

    /// Whether a token of this root may be used after a login or logout at that moment by that process: it was
    /// asked for later, or somebody else had asked for it before and had not been able to store it.
    fn stands_against(&self, root: usize, at: Tick, by: Pid) -> bool {
        let (root, process) = (&self.roots[root], &self.processes[by]);
        let was_owed =
            root.origin != Origin::Source && root.by != by && root.settled.is_none_or(|settled| settled > at);
        // A logout that could not be saved gives way to a login that is stored meanwhile, whenever that was asked for; or to
        // what a sibling stores of one that it had ended, and that had been stored over.
        let is_owed = process.owes_logout.is_some_and(|tried| root.stored_last > Some(tried));
        let gives_way = is_owed && process.logouts.last() == Some(&at);
        root.at >= at
            || was_owed
            || gives_way
            || root.is_shared
            || root.forced_in.is_some_and(|forced_in| forced_in >= at)
    }
}
