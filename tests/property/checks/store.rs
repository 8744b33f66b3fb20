//! What is stored, and who has read it.

use tower_token_refresh::store::Record;

use super::{Book, Origin, Pid, Process, Records, Tick, name};

/// The records that the store has taken, in order.
#[derive(Default)]
pub(super) struct Kept {
    records: Vec<Stored>,
    /// The last login or logout that has got into the store, and who made it.
    change: Option<(Tick, Pid)>,
}

struct Stored {
    at: Tick,
    by: Pid,
    access: Option<String>,
}

/// A process's dealings with the store for its present refresh.
#[derive(Clone, Copy, Default)]
pub(super) struct AccessToStore {
    leases: usize,
    /// Why there is none: the store has failed, or else nobody has given it up in time.
    without_lease: Option<WithoutLease>,
    /// Since the lease was asked for.
    has_read: bool,
    has_failed_to_read: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum WithoutLease {
    Failed,
    GivenUp,
}

impl AccessToStore {
    pub(super) fn has_lease(self) -> bool {
        self.leases > 0
    }

    pub(super) fn has_failed_to_read(self) -> bool {
        self.has_failed_to_read
    }

    /// Whoever else has the lease is refreshing; a store that fails altogether stops nobody.
    pub(super) fn allows_a_fetch(self) -> bool {
        match self.without_lease {
            _ if self.has_lease() => true,
            Some(WithoutLease::Failed) => true,
            Some(WithoutLease::GivenUp) => self.has_failed_to_read,
            None => false,
        }
    }

    /// Whether the process knows all that the others have stored, and nobody else is refreshing.
    pub(super) fn is_undisturbed(self) -> bool {
        self.has_lease() && self.has_read && !self.has_failed_to_read
    }
}

impl Book {
    pub(crate) fn lease_asked_for(&self, pid: Pid) {
        let mut records = self.records();
        records.check_progress();
        let access = &mut records.processes[pid].access_to_store;
        *access = AccessToStore { leases: access.leases, ..AccessToStore::default() };
    }

    pub(crate) fn lease_taken(&self, pid: Pid) {
        self.records().processes[pid].access_to_store.leases += 1;
    }

    pub(crate) fn lease_returned(&self, pid: Pid) {
        let access = &mut self.records().processes[pid].access_to_store;
        access.leases = access.leases.saturating_sub(1);
    }

    pub(crate) fn lease_not_taken(&self, pid: Pid, why: WithoutLease) {
        self.records().processes[pid].access_to_store.without_lease = Some(why);
    }

    /// Returned is how many saves of the process have ended so far.
    pub(crate) fn load_begins(&self, pid: Pid) -> usize {
        let process = &mut self.records().processes[pid];
        process.looks += 1;
        process.saves
    }

    pub(crate) fn load_ended(&self, pid: Pid) {
        self.records().processes[pid].looks -= 1;
    }

    /// A look into the store has failed, or was given up.
    pub(crate) fn load_failed(&self, pid: Pid) {
        let mut records = self.records();
        records.processes[pid].access_to_store.has_failed_to_read = true;
        records.processes[pid].is_blind = true;
        records.save_may_be_given_up(pid);
    }

    pub(crate) fn stored_so_far(&self) -> usize {
        self.records().kept.records.len()
    }

    /// The process has read the last of so many records, and begun that after so many saves of its own. What another
    /// one has stored since it looked last may be used from now on, and puts an end to whatever went wrong before.
    pub(crate) fn loaded(&self, pid: Pid, stored: usize, saves: usize) {
        let mut records = self.records();
        // What is read while a save ends is read again.
        let counts = records.processes[pid].saves == saves;
        records.processes[pid].access_to_store.has_read = true;
        records.processes[pid].is_blind = false;
        records.save_may_be_given_up(pid);
        let seen = std::mem::replace(&mut records.processes[pid].seen, stored);
        let Some(&Stored { at, by, access: Some(ref access) }) =
            records.kept.records.get(..stored).and_then(<[Stored]>::last)
        else {
            return;
        };
        let access = access.clone();
        if counts {
            records.is_known_to_be_stored(pid, &access);
        }
        // A look on the way of a save goes over to nothing: the one after it may.
        if seen >= stored && records.processes[pid].present.len() < 2 {
            return;
        }
        let changed = records.processes[pid].changed;
        let root = records.accesses[&access].root;
        let stands = !records.processes[pid].logged_out || records.stands_against(root, changed, pid);
        // A refresh that is stored may bring the next refresh token to a replacement of a sibling's.
        let is_ours = by == pid && (records.roots[root].by == pid || records.was_fetched_by(&access, pid));
        // What it has fetched without a lease gives way to whatever is there, a save of its own that has taken long
        // included.
        let gives_way =
            records.processes[pid].present.iter().any(|access| records.was_fetched_without_lease(access));
        if is_ours && !gives_way || at < changed || !stands {
            return;
        }
        let account = records.roots[root].account.clone();
        let process = &mut records.processes[pid];
        process.logged_out = false;
        process.pace.forget();
        if !process.accounts.contains(&account) {
            process.accounts.push(account);
        }
        if !process.present.contains(&access) {
            process.present.push(access);
        }
    }

    /// Whether this is what somebody has logged in with.
    pub(crate) fn is_login(&self, record: &Record) -> bool {
        record.token.as_ref().is_some_and(|token| self.records().is_of_login(name(token)))
    }

    /// How many records had been stored when the process looked last, whatever became of the look since.
    pub(crate) fn seen(&self, pid: Pid) -> usize {
        self.records().processes[pid].seen
    }

    /// The store has taken a record of a process that had seen so many when it began to save.
    pub(crate) fn stored(&self, pid: Pid, record: &Record, seen: usize) {
        let mut records = self.records();
        let at = records.next_tick();
        let access = record.token.as_ref().map(|token| name(token).to_owned());
        match &access {
            None => {
                // Which of several logouts it is of is not known: of the first that may be.
                let before = records.kept.change.filter(|&(_, by)| by == pid).map_or(0, |(at, _)| at);
                let logouts = &records.processes[pid].logouts;
                let logout = logouts.iter().copied().find(|&logout| logout > before);
                let logout = logout.or(logouts.last().copied()).expect("there was one");
                records.processes[pid].owes_logout = None;
                records.kept.change = Some((logout, pid));
            }
            Some(access) => {
                records.check_stored(pid, at, access);
                records.handed_down(record, access);
            }
        }
        let unseen = &records.kept.records[seen..];
        let has_looked = !records.processes[pid].is_blind;
        if has_looked && unseen.iter().any(|stored| stored.by != pid) {
            // What is written over here has come between the look before a save and the save.
            records.what_is_spent_is_unknown();
        }
        records.kept.records.push(Stored { at, by: pid, access });
    }

    /// What was fetched before a login, replacement or logout is left out; unless its save was on by then, which may begin
    /// with a look into the store.
    pub(crate) fn save_begins(&self, pid: Pid, record: &Record) {
        let mut records = self.records();
        let Some(access) = record.token.as_ref().map(name) else {
            let tick = records.next_tick();
            records.processes[pid].owes_logout.get_or_insert(tick);
            return;
        };
        let was_fetched_here = records.accesses.contains_key(access) && records.was_fetched_by(access, pid);
        let Process { changed, looked_on, .. } = records.processes[pid];
        let Some(access) = records.accesses.get_mut(access) else { return };
        let is_first = !std::mem::replace(&mut access.is_being_saved, true);
        if was_fetched_here && is_first && access.at < changed && !looked_on {
            records.broken("a refresh is saved although a login, replacement or logout has come between");
        }
    }

    /// A save has ended, whether it has succeeded or not.
    pub(crate) fn save_ended(&self, pid: Pid, record: &Record) {
        let mut records = self.records();
        records.processes[pid].saves += 1;
        if let Some(access) = record.token.as_ref().map(name) {
            records.accesses.entry(access.to_owned()).and_modify(|access| access.has_been_saved = true);
        }
    }

    /// The process knows that this record is stored.
    pub(crate) fn save_succeeded(&self, pid: Pid, record: &Record) {
        if let Some(token) = &record.token {
            self.records().is_known_to_be_stored(pid, name(token));
        }
    }

    /// There is something later, which the process may go over to although it has seen it before.
    pub(crate) fn save_refused(&self, pid: Pid) {
        let mut records = self.records();
        let before_it = records.kept.records.len().saturating_sub(1);
        let seen = &mut records.processes[pid].seen;
        *seen = before_it.min(*seen);
    }

    /// The end of a run: everybody has stored what there was to store. A logout after which nothing was asked for must
    /// be in the store.
    pub(crate) fn check_last_logout(&self) {
        let mut records = self.records();
        let last = (0..records.processes.len()).max_by_key(|&pid| records.processes[pid].changed);
        let Some(pid) =
            last.filter(|&pid| records.processes[pid].logged_out && records.processes[pid].is_alive)
        else {
            return;
        };
        let logout = records.processes[pid].changed;
        let root = records.kept.records.last().and_then(|stored| stored.access.as_ref());
        let root = root.map(|access| records.accesses[access].root);
        if root.is_some_and(|root| !records.stands_against(root, logout, pid)) {
            records.broken("a token is stored although a logout was the last that happened");
        }
    }
}

impl Records {
    fn is_of_login(&self, access: &str) -> bool {
        let Some(access) = self.accesses.get(access) else { return false };
        access.fetched_by.is_none() && self.roots[access.root].origin == Origin::Login
    }

    fn is_known_to_be_stored(&mut self, pid: Pid, access: &str) {
        let at = self.next_tick();
        let id = self.accesses[access].root;
        self.processes[pid].owes.take_if(|owes| *owes == id);
        let root = &mut self.roots[id];
        if root.by == pid {
            root.settled.get_or_insert(at);
        }
    }

    /// Some saves begin with a look into the store, and end with it.
    fn save_may_be_given_up(&mut self, pid: Pid) {
        for access in self.processes[pid].present.clone() {
            self.accesses.entry(access).and_modify(|access| access.has_been_saved = true);
        }
    }

    /// A refresh token that is stored beside the access token of a later replacement goes on with that.
    fn handed_down(&mut self, record: &Record, access: &str) {
        let refresh = record.token.as_ref().and_then(|token| token.refresh.as_ref());
        let refresh = refresh.and_then(|refresh| self.refreshes.get(refresh.expose()));
        if let (Some(refresh), Some(access)) = (refresh, self.accesses.get(access)) {
            let at = self.roots[access.root].at.max(self.roots[refresh.root].at);
            self.roots[refresh.root].at = at;
            // One that was owed may have come over a login that it had not seen.
            if let Some((change, _)) =
                self.kept.change.filter(|&(change, by)| self.stands_against(access.root, change, by))
            {
                self.roots[refresh.root].forced_in = Some(change);
            }
        }
    }

    /// Nothing that was asked for before a login or logout is stored after it.
    fn check_stored(&mut self, pid: Pid, at: Tick, text: &str) {
        let Some(access) = self.accesses.get_mut(text) else {
            return self.broken("a token that nobody was given is stored");
        };
        access.is_stored = true;
        let root = access.root;
        if self.was_fetched_without_lease(text) {
            // What others have saved between the look and the save, it is written over without a number.
            self.roots[root].forced_in = Some(at);
        }
        if let Some((change, by)) = self.kept.change {
            if !self.stands_against(root, change, by) {
                self.broken("a token from before a login or logout is stored after it");
            }
        }
        let root = &mut self.roots[root];
        root.stored.get_or_insert(at);
        root.stored_last = Some(at);
        if root.stored == Some(at) && root.origin == Origin::Login {
            self.kept.change = Some((root.at, pid));
        }
    }
}
