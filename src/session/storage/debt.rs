//! A record that is owed to the store.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::traces::Traces;
use crate::{
    session::record_head::RecordHead,
    store::{Record, SessionId, StoredToken},
};

pub(super) struct Debt {
    pub(super) record: Record,
    /// The revision of the first record that has been owed since the store was last known to hold ours: what is there of
    /// that revision or a later one is a sibling's.
    first: u64,
    /// The number that memory stood at when the first of those was made, if that is a replacement, or else its own: a
    /// refresh that is owed does not count up, so that there may be a later one of that number, too.
    stood_at: u64,
    /// The number of the lease that a refresh was made under.
    pub(super) fence: Option<u64>,
    /// A login, replacement or logout, or the refresh of one that the store does not have yet. It counts over whatever the
    /// store has, which this process may never have read.
    is_change: AtomicBool,
    /// A refresh that it stands for has spent the refresh token which the store still has: until it is written, the lease
    /// keeps others from presenting that.
    pub(super) keeps_the_lease: bool,
    /// Tokens that the store may still have: of a logout, the one that memory had; of a refresh, all that it and the
    /// refreshes before it have replaced. The store has the first of those, unless a write that seemed to fail got through.
    before: Traces,
    kind: Kind,
    refresh_token: RefreshToken,
    /// The store is known to have had the refresh token.
    was_stored: AtomicBool,
    /// The store must be read before the write: the record has to be numbered above what is there, or an earlier attempt
    /// may have been saved although it seemed to fail.
    has_to_look: AtomicBool,
    /// The revision with which a save that was not confirmed may have put it, or its refresh token, into the store: what is
    /// above that has come of it. 0 if there was no such save, the highest if nobody knows above what it was saved.
    may_be_there_as: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Login,
    Logout,
    Replacement,
    Refresh {
        /// Of a login that was owed.
        of_login: bool,
    },
}

/// Where the refresh token is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RefreshToken {
    /// A login or a refresh.
    Own,
    /// A replacement has kept it, and it has not been spent since: a sibling's later one takes its place.
    Kept,
    /// A replacement has brought it, or it was got with one that did: what a sibling has stored is not kept beside it,
    /// until the store has had it, too.
    Brought,
}

impl Debt {
    fn of(record: Record, kind: Kind) -> Self {
        let replaces = u64::from(kind == Kind::Replacement);
        Debt {
            first: record.revision,
            stood_at: record.revision.saturating_sub(replaces),
            record,
            fence: None,
            is_change: AtomicBool::new(true),
            keeps_the_lease: false,
            before: Traces::default(),
            kind,
            refresh_token: RefreshToken::Own,
            was_stored: AtomicBool::new(false),
            has_to_look: AtomicBool::new(true),
            may_be_there_as: AtomicU64::new(0),
        }
    }

    pub(super) fn of_login(record: Record) -> Self {
        Debt::of(record, Kind::Login)
    }

    /// A logout, and the token that it has ended in memory.
    pub(super) fn of_logout(record: Record, had: Option<StoredToken>) -> Self {
        let mut debt = Debt::of(record, Kind::Logout);
        debt.before.add(&had);
        debt
    }

    /// The token that a logout has found in the store, unless it is the one that memory had.
    pub(super) fn ends(&self, found: Record) -> Option<StoredToken> {
        let is_known = |found: &StoredToken| match found.refresh {
            Some(_) => self.before.have_both_of(found),
            None => self.before.have_access_of(found),
        };
        found.token.filter(|found| self.record.token.is_none() && !is_known(found))
    }

    /// A replacement, which keeps the refresh token or has its own, and what was owed until then.
    pub(super) fn of_replacement(record: Record, keeps: bool, owed: Option<&Debt>) -> Self {
        let is_brought = !keeps || owed.is_some_and(|owed| owed.refresh_token() == RefreshToken::Brought);
        let refresh_token = if is_brought { RefreshToken::Brought } else { RefreshToken::Kept };
        let mut debt = Debt { refresh_token, ..Debt::of(record, Kind::Replacement) };
        if let Some(owed) = owed.filter(|_| keeps) {
            if let (Some(own), Some(newest)) = (&mut debt.record.token, &owed.record.token) {
                // Memory is behind a refresh that is being saved, and may be behind what that was of. Or it is ahead: it
                // has found what a sibling has saved since.
                let is_ahead = debt.record.revision > owed.record.revision.saturating_add(1);
                let is_newer = owed.record.session == debt.record.session && !is_ahead;
                if is_newer || owed.has_spent_the_refresh_token_of(own) {
                    take_another_refresh_of(own, newest);
                }
            }
            debt.take_over(owed);
        }
        debt
    }

    /// A refresh, the token it was of, or which of several, and what was owed until then, for which it stands from now on.
    pub(super) fn of_refresh(
        record: Record,
        refreshed: impl IntoIterator<Item = StoredToken>,
        fence: Option<u64>,
        owed: Option<&Debt>,
    ) -> Self {
        let refreshed: Vec<_> = refreshed.into_iter().collect();
        let is_change = AtomicBool::new(owed.is_some_and(Debt::is_change));
        let is_kept =
            |before: &StoredToken| record.token.as_ref().is_some_and(|own| has_same_refresh(own, before));
        let keeps_the_lease = refreshed.iter().any(|before| before.refresh.is_some() && !is_kept(before));
        let refresh_token = match owed.map_or(RefreshToken::Own, Debt::refresh_token) {
            RefreshToken::Kept if !refreshed.iter().any(is_kept) => RefreshToken::Own,
            before => before,
        };
        let kind = Kind::Refresh { of_login: owed.is_some_and(Debt::brings_a_login) };
        let mut debt = Debt { fence, is_change, keeps_the_lease, refresh_token, ..Debt::of(record, kind) };
        if let Some(owed) = owed {
            debt.take_over(owed);
        }
        debt.before.add(&refreshed);
        // Of a replacement, whose revision the store has raised: one above that is news to others, with the same token.
        let is_handed_down = debt.record.token.as_ref().is_some_and(|own| debt.before.have_access_of(own));
        // To a store that refuses whoever has no lease, or none that counts any more, it would be a change.
        let is_unleased = fence.is_none();
        debt.has_to_look = AtomicBool::new(owed.is_some() || is_handed_down || is_unleased);
        debt
    }

    /// Whether it might write over what has become of it, or over a refresh token that it has to keep, unless it knows
    /// what is there.
    pub(super) fn needs_to_know_what_is_there(&self) -> bool {
        let has_one = self.record.token.as_ref().is_some_and(|token| token.refresh.is_some());
        self.may_be_there_as.load(Ordering::Relaxed) > 0 || (has_one && self.keeps_what_is_there())
    }

    /// It is being saved with this revision, if somebody knows what is there.
    pub(super) fn begin_save(&self, revision: Option<u64>) {
        self.may_be_there_as.store(revision.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The last attempt to save it has come to nothing, or does not count any more.
    pub(super) fn forget_attempt(&self) {
        self.may_be_there_as.store(0, Ordering::Relaxed);
    }

    fn keeps_what_is_there(&self) -> bool {
        self.refresh_token() == RefreshToken::Kept
    }

    fn refresh_token(&self) -> RefreshToken {
        match self.refresh_token {
            RefreshToken::Brought if self.was_stored.load(Ordering::Relaxed) => RefreshToken::Kept,
            from => from,
        }
    }

    fn take_over(&mut self, owed: &Debt) {
        let tokens = self.record.token.as_ref().zip(owed.record.token.as_ref());
        if tokens.is_some_and(|(own, owed)| has_same_refresh(own, owed)) {
            *self.may_be_there_as.get_mut() = owed.may_be_there_as.load(Ordering::Relaxed);
        }
        (self.first, self.stood_at) = (owed.first, owed.stood_at);
        self.before.clone_from(&owed.before);
        self.keeps_the_lease |= owed.keeps_the_lease;
    }

    /// Whether it is this token with this head; others may have saved another one with that.
    pub(super) fn is(&self, head: RecordHead, token: &StoredToken) -> bool {
        let own = self.record.token.as_ref();
        self.record.head() == head && own.is_some_and(|own| own.access.same_as(&token.access))
    }

    /// Whether this is the number of a later lease than its own: others may have had one between, and have saved under the
    /// number that it has.
    pub(super) fn may_be_outdone(&self, fence: Option<u64>) -> bool {
        self.fence < fence
    }

    pub(super) fn is_refresh(&self) -> bool {
        matches!(self.kind, Kind::Refresh { .. })
    }

    pub(super) fn is_logout(&self) -> bool {
        self.kind == Kind::Logout
    }

    fn brings_a_login(&self) -> bool {
        matches!(self.kind, Kind::Login | Kind::Refresh { of_login: true })
    }

    pub(super) fn is_change(&self) -> bool {
        self.is_change.load(Ordering::Relaxed)
    }

    /// The login that it was the refresh of is in the store.
    pub(super) fn stand_for_itself(&self) {
        self.is_change.store(false, Ordering::Relaxed);
    }

    /// Begins an attempt to write it. Returns whether the store must be read first: at the first attempt if `has_to_look`
    /// says so, and at every later one.
    pub(super) fn begin(&self) -> bool {
        self.has_to_look.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody has logged in since the first look for the sake of a logout, which ended this session then, and
    /// its own.
    pub(super) fn is_before_the_login_of(&self, found: &Record, ended: SessionId) -> bool {
        self.is_logout() && found.token.is_some() && ![ended, self.record.session].contains(&found.session)
    }

    /// Takes notice of what the store has. A session is of one login: where there is anything of it, the login has got
    /// there, whatever the store has said, and that is the login or what has become of it. A refresh token that is there
    /// may be spent by a sibling from now on, and one that was there may have been.
    pub(super) fn take_notice_of(&self, found: &Record) {
        if self.record.session != found.session {
            return;
        }
        if self.brings_a_login() {
            self.stand_for_itself();
        }
        let tokens = self.record.token.as_ref().zip(found.token.as_ref());
        let is_there = tokens.is_some_and(|(own, there)| has_same_refresh(own, there));
        let tried_as = self.may_be_there_as.load(Ordering::Relaxed);
        if is_there || (tried_as > 0 && tried_as < found.revision) {
            self.was_stored.store(true, Ordering::Relaxed);
        }
    }

    /// Whether what was found in the store is later. `lost_lease` is the number of the last lease that counts no more. A
    /// login elsewhere gets nothing from what may not be written.
    pub(super) fn gives_way_to(&self, found: &Record, lost_lease: Option<u64>, may_be_written: bool) -> bool {
        // While its lease is kept nobody else has refreshed: the tokens of its session with numbers up to its own are
        // ours, of which not all are remembered.
        let may_be_ours = self.record.session == found.session && found.token.is_some();
        let is_alone = may_be_ours && self.keeps_the_lease && self.fence > lost_lease;
        let is_over_ours =
            if is_alone { self.record.revision < found.revision } else { self.first <= found.revision };
        let may_follow = self.record.session == found.session || may_be_written;
        let is_later = is_over_ours && !(may_follow && self.follows(found));
        !self.is_change() && (is_later || self.kind == Kind::Login)
    }

    /// Whether this is a refresh of the very record that was saved. One that has only the refresh token in common with it is
    /// a replacement that came between and has kept that.
    pub(super) fn is_refresh_of(&self, saved: &Record) -> bool {
        self.is_refresh()
            && self.record.session == saved.session
            && saved.token.as_ref().is_some_and(|token| self.before.have_access_of(token))
    }

    /// Whether this is a refresh of what was found. That may have the higher revision all the same: a store raises that
    /// of a login, and does not say by how much.
    pub(super) fn follows(&self, found: &Record) -> bool {
        let is_of_session = self.record.session == found.session;
        let has_next = self.record.token.as_ref().is_some_and(|own| own.refresh.is_some());
        found.token.as_ref().is_some_and(|token| {
            (is_of_session || has_next) && self.has_spent_the_refresh_token_of(token)
                || is_of_session && self.has_refreshed(token)
        })
    }

    /// Beside the same access token may stand a later refresh token: one that was not there, and is not what this has
    /// brought.
    fn has_refreshed(&self, found: &StoredToken) -> bool {
        let is_own = self.record.token.as_ref().is_some_and(|own| has_same_refresh(own, found));
        if is_own { self.before.have_access_of(found) } else { self.before.have_both_of(found) }
    }

    /// A replacement by a sibling has kept the refresh token that this refresh has spent, or somebody has logged in with
    /// it.
    fn has_spent_the_refresh_token_of(&self, found: &StoredToken) -> bool {
        let is_next = self.record.token.as_ref().is_some_and(|own| !has_same_refresh(own, found));
        is_next && self.before.have_refresh_of(found)
    }

    /// The record of a login, replacement or logout above what was found. The refresh token that a replacement keeps may
    /// be a sibling's, which this process has not seen yet.
    pub(super) fn change_above(&self, found: Option<&Record>) -> Record {
        let mut record = above(&self.record, found);
        let is_siblings = |found: &&Record| {
            found.session == self.record.session && found.revision >= self.stood_at && !self.follows(found)
        };
        let siblings = found.filter(|_| self.keeps_what_is_there()).filter(is_siblings);
        let siblings = siblings.and_then(|found| found.token.as_ref());
        if let (Some(token), Some(siblings)) = (&mut record.token, siblings) {
            take_another_refresh_of(token, siblings);
        }
        record
    }

    /// The record of a refresh above what it has refreshed. A replacement or login that was made meanwhile gets the refresh
    /// token.
    pub(super) fn refresh_above(&self, found: Option<&Record>) -> Record {
        let Some(found) = found.filter(|found| self.follows(found)) else { return self.record.clone() };
        let mut record = Record { session: found.session, ..above(&self.record, Some(found)) };
        if let (Some(own), Some(token)) = (&self.record.token, &found.token) {
            if !self.before.have_access_of(token) {
                let mut token = token.clone();
                token.take_refresh_of(own);
                record.token = Some(token);
            }
        }
        record
    }
}

fn above(record: &Record, found: Option<&Record>) -> Record {
    let stored = found.map_or(0, |found| found.revision);
    Record { revision: record.revision.max(stored.saturating_add(1)), ..record.clone() }
}

/// The same refresh token stays as it is: when it ends, the caller has said, or memory knows.
fn take_another_refresh_of(own: &mut StoredToken, other: &StoredToken) {
    if !has_same_refresh(own, other) {
        own.take_refresh_of(other);
    }
}

fn has_same_refresh(one: &StoredToken, other: &StoredToken) -> bool {
    matches!((&one.refresh, &other.refresh), (Some(one), Some(other)) if one.same_as(other))
}
