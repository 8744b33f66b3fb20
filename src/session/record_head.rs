//! Which of the store's records a session stands at.

use crate::store::{Record, SessionId, StoredToken};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) session: SessionId,
    pub(crate) revision: u64,
}

impl Record {
    pub(crate) fn head(&self) -> RecordHead {
        RecordHead { session: self.session, revision: self.revision }
    }
}

impl RecordHead {
    /// The same session's next record. A store may hold the last number there is.
    pub(crate) fn following(self) -> Self {
        RecordHead { revision: self.revision.saturating_add(1), ..self }
    }

    pub(crate) fn record(self, token: Option<StoredToken>) -> Record {
        Record { session: self.session, revision: self.revision, token }
    }
}
