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
    /// An earlier refresh, or this one, may be in the store although that could not say so; or what is there has a higher
    /// revision than is known.
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
        // Of a replacement, whose revision the store has raised: one above that is news to others, with the same token.
        let is_handed_down = record.token.as_ref().is_some_and(|token| is_among(&before, token));
        Debt {
            record,
            fence,
            is_change: AtomicBool::new(owed.is_some_and(Debt::is_change)),
            is_refresh: true,
            before,
            has_to_look: AtomicBool::new(owed.is_some() || is_handed_down),
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
        self.record.session == found.session
            && found.token.as_ref().is_some_and(|token| is_among(&self.before, token))
    }
}

fn is_among(accesses: &[Secret], token: &StoredToken) -> bool {
    accesses.iter().any(|access| access.same_as(&token.access))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SessionId;

    fn record(session: u128, revision: u64, access: &str) -> Record {
        Record { session: SessionId(session), revision, token: Some(StoredToken::new(access)) }
    }

    /// The refresh of `first`, which brought `second` as revision 6.
    fn refresh(owed: Option<&Debt>) -> Debt {
        Debt::of_refresh(record(1, 6, "second"), Some("first".into()), Some(1), owed)
    }

    #[test]
    fn a_refresh_gives_way_to_a_later_record_that_it_does_not_follow() {
        for (found, outdone) in [
            (record(1, 7, "others"), true),
            (record(1, 6, "others"), false),
            (record(1, 7, "first"), false),
            (record(2, 7, "first"), true),
            (Record { token: None, ..record(1, 7, "") }, true),
        ] {
            assert_eq!(refresh(None).is_outdone_by(&found), outdone, "{found:?}");
        }
    }

    #[test]
    fn a_refresh_follows_each_token_since_what_is_in_the_store() {
        let third =
            Debt::of_refresh(record(1, 6, "third"), Some("second".into()), None, Some(&refresh(None)));
        let follows = |session, access| third.follows(&record(session, 9, access));
        assert!(follows(1, "first") && follows(1, "second"));
        assert!(!follows(1, "third") && !follows(2, "first"));
    }

    #[test]
    fn the_refresh_of_a_login_that_is_owed_stands_for_it_until_that_is_saved() {
        let login = Debt::of_change(record(1, 5, "first"));
        let refresh = refresh(Some(&login));
        assert!(!refresh.is_outdone_by(&record(2, 9, "others")));
        refresh.stands_for_itself();
        assert!(refresh.is_outdone_by(&record(2, 9, "others")));
    }

    #[test]
    fn the_store_is_looked_into_before_a_refresh_is_written_again_or_after_one_that_is_owed() {
        let first = refresh(None);
        assert_eq!([first.has_to_look(), first.has_to_look()], [false, true]);
        assert!(refresh(Some(&first)).has_to_look());
    }
}
