//! What a store that is shared makes of a save; the same for every kind of store.

use super::{LeaseLost, Record, Superseded};
use crate::error::BoxError;

/// The numbers of a store that is shared, for [`Record::admit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The number of the last lease that was handed out; 0 if none was.
    pub lease: u64,
    /// The revision of the record that is kept; 0 if there is none. [`Record::admit`] says what it is if a record may get
    /// lost.
    pub revision: u64,
}

impl Record {
    /// For a store that is shared, when this record is to be [saved](super::TokenStore::save) with this `fence`: the
    /// record to keep.
    ///
    /// Hold a lock, or use one transaction, from reading the `last` numbers until the record is stored: meanwhile nobody
    /// else may save or get a lease.
    ///
    /// A refresh saves under a lease and gives way to whatever came after it. A login, logout or replacement saves without
    /// one and always counts: its revision is raised above that of any refresh that may be under way (one more than what is
    /// stored), so that all others take it for the newer record.
    ///
    /// Where the record may get lost (a file that is removed, a row that is deleted) the store has to remember the highest
    /// revision that it has kept, beside the number of the lease. Give that `revision` for a save without a lease: those
    /// who have seen the lost record would take no notice of a lower one, and overwrite it. For a refresh give the revision
    /// of what is there.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] or [`Superseded`], which `save` hands on.
    pub fn admit(&self, fence: Option<u64>, last: Numbers) -> Result<Record, BoxError> {
        match fence {
            Some(fence) if fence < last.lease => Err(LeaseLost.into()),
            Some(_) if self.revision < last.revision => Err(Superseded.into()),
            Some(_) => Ok(self.clone()),
            None => {
                Ok(Record { revision: self.revision.max(last.revision.saturating_add(2)), ..self.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SessionId;

    fn of(revision: u64) -> Record {
        Record { session: SessionId(1), revision, token: None }
    }

    fn revision(record: u64, fence: Option<u64>, lease: u64, stored: u64) -> Option<u64> {
        of(record).admit(fence, Numbers { lease, revision: stored }).ok().map(|record| record.revision)
    }

    #[test]
    fn a_refresh_gives_way_to_a_later_lease_and_to_a_later_record() {
        for (record, fence, leases, stored, kept) in [
            (1, 1, 1, 0, Some(1)),
            (6, 3, 3, 5, Some(6)),
            (6, 4, 3, 5, Some(6)),
            (6, 2, 3, 5, None),
            (6, 3, 3, 6, Some(6)),
            (6, 3, 3, 7, None),
        ] {
            assert_eq!(revision(record, Some(fence), leases, stored), kept, "{record} {fence} {stored}");
        }
    }

    #[test]
    fn a_login_is_obeyed_and_beats_the_refresh_that_is_under_way() {
        for (record, stored, kept) in [(1, 0, 2), (6, 5, 7), (2, 15, 17), (9, 5, 9)] {
            assert_eq!(revision(record, None, 40, stored), Some(kept));
        }
    }

    #[test]
    fn only_a_later_record_makes_a_save_pointless() {
        let by_lease = of(6).admit(Some(1), Numbers { lease: 2, revision: 0 }).unwrap_err();
        assert!(by_lease.is::<LeaseLost>(), "under the next lease it may be saved");
        assert!(of(6).admit(Some(2), Numbers { lease: 2, revision: 7 }).unwrap_err().is::<Superseded>());
    }
}
