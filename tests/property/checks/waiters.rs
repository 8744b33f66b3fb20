//! Requests that wait although there is nothing to wait for any more.

use super::{Book, Pid};

impl Book {
    /// The session of whoever waits on this process is another one now, and the services are ready for them.
    pub(crate) fn waiters_can_go_on(&self, pid: Pid) {
        for sent in self.records().sent.values_mut().filter(|sent| sent.pid == pid) {
            sent.is_left_behind = !sent.is_out;
        }
    }

    /// There is something else to wait for now.
    pub(crate) fn waiters_may_wait_again(&self) {
        for sent in self.records().sent.values_mut() {
            sent.is_left_behind = false;
        }
    }

    /// All have run for whom there was something to do, and this request has not ended.
    pub(crate) fn check_waits_for_something(&self, id: usize) {
        let mut records = self.records();
        if records.sent[&id].is_left_behind {
            records.broken("a request waits on although a login, replacement or logout has ended its wait");
        }
    }
}
