//! What a store that is shared makes of a save; the same for every kind of store.

use super::{LeaseLost, Record, Superseded};
use crate::error::BoxError;

/// The record to keep, or why none is. `leases` is the number of the last lease, `stored` what is kept now.
///
/// A refresh saves under a lease and gives way to whatever came after it. A login or logout saves without one and is
/// obeyed: its revision is raised above that of any refresh that may be under way, one step beyond what is stored, so
/// that everybody finds it to be the newer.
pub(super) fn admit(
    record: &Record,
    fence: Option<u64>,
    leases: u64,
    stored: Option<&Record>,
) -> Result<Record, BoxError> {
    let present = stored.map_or(0, |stored| stored.revision);
    match fence {
        Some(fence) if fence < leases => Err(LeaseLost.into()),
        Some(_) if record.revision < present => Err(Superseded.into()),
        Some(_) => Ok(record.clone()),
        None => Ok(Record { revision: record.revision.max(present.saturating_add(2)), ..record.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SessionId;

    fn of(revision: u64) -> Record {
        Record { session: SessionId(1), revision, token: None }
    }

    fn revision(record: u64, fence: Option<u64>, leases: u64, stored: Option<u64>) -> Option<u64> {
        admit(&of(record), fence, leases, stored.map(of).as_ref()).ok().map(|record| record.revision)
    }

    #[test]
    fn a_refresh_gives_way_to_a_later_lease_and_to_a_later_record() {
        for (record, fence, leases, stored, kept) in [
            (1, 1, 1, None, Some(1)),
            (6, 3, 3, Some(5), Some(6)),
            (6, 4, 3, Some(5), Some(6)),
            (6, 2, 3, Some(5), None),
            (6, 3, 3, Some(6), Some(6)),
            (6, 3, 3, Some(7), None),
        ] {
            assert_eq!(revision(record, Some(fence), leases, stored), kept, "{record} {fence} {stored:?}");
        }
    }

    #[test]
    fn a_login_is_obeyed_and_beats_the_refresh_that_is_under_way() {
        for (record, stored, kept) in [(1, None, 2), (6, Some(5), 7), (2, Some(15), 17), (9, Some(5), 9)] {
            assert_eq!(revision(record, None, 40, stored), Some(kept));
        }
    }

    #[test]
    fn only_a_later_record_makes_a_save_pointless() {
        let by_lease = admit(&of(6), Some(1), 2, None).unwrap_err();
        assert!(by_lease.is::<LeaseLost>(), "under the next lease it may be saved");
        assert!(admit(&of(6), Some(2), 2, Some(&of(7))).unwrap_err().is::<Superseded>());
    }
}
