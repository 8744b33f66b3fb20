//! A record that is owed to the store.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    secret::Secret,
    store::{Record, StoredToken},
};

pub(super) struct Debt {
    pub(super) record: Record,
    /// The number of the lease that a refresh was made under.
    pub(super) fence: Option<u64>,
    /// A login, replacement or logout, or the refresh of one that has not got into the store yet: it counts, whatever the
    /// store has, which this process may never have looked into.
    is_change: AtomicBool,
    pub(super) is_refresh: bool,
    /// The access tokens before that of a refresh: any of them may be what the store has.
    before: Vec<Secret>,
    /// An earlier refresh, or this one, may be in the store although that could not say so.
    has_to_look: AtomicBool,
}

impl Debt {
    /// A login, replacement or logout.
    pub(super) fn of_change(record: Record) -> Self {
        Debt {
            record,
            fence: None,
            is_change: AtomicBool::new(true),
            is_refresh: false,
            before: Vec::new(),
            has_to_look: AtomicBool::new(false),
        }
    }

    /// A refresh, the token it was of, and what was owed until then, for which it stands from now on.
    pub(super) fn of_refresh(
        record: Record,
        refreshed: Option<Secret>,
        fence: Option<u64>,
        owed: Option<&Debt>,
    ) -> Self {
        let mut before = owed.map(|owed| owed.before.clone()).unwrap_or_default();
        before.extend(refreshed);
        Debt {
            record,
            fence,
            is_change: AtomicBool::new(owed.is_some_and(Debt::is_change)),
            is_refresh: true,
            before,
            has_to_look: AtomicBool::new(owed.is_some()),
        }
    }

    pub(super) fn is_change(&self) -> bool {
        self.is_change.load(Ordering::Relaxed)
    }

    /// The login that it was the refresh of is in the store.
    pub(super) fn stands_for_itself(&self) {
        self.is_change.store(false, Ordering::Relaxed);
    }

    /// Whether the store has to be read before this is written. From the first attempt on it has.
    pub(super) fn has_to_look(&self) -> bool {
        self.has_to_look.swap(true, Ordering::Relaxed)
    }

    /// Whether what was found in the store is later.
    pub(super) fn is_outdone_by(&self, found: &Record) -> bool {
        !self.is_change() && self.record.revision < found.revision && !self.follows(found)
    }

    /// Whether this is a refresh of what was found. That may have the higher revision all the same: a store raises that
    /// of a login, and does not say by how much.
    pub(super) fn follows(&self, found: &Record) -> bool {
        let is_before = |token: &StoredToken| self.before.iter().any(|before| before.same_as(&token.access));
        self.record.session == found.session && found.token.as_ref().is_some_and(is_before)
    }
}
