//! Credentials that the authority has refused are not shown to it again.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{FetchError, OwnWords};
use crate::{secret::Secret, token::Token};

/// A person who mistypes a password does so a few times.
const CREDENTIALS: usize = 16;
/// Those of the users whose sessions share a source. More would be presented again in turns.
const REFRESH_TOKENS: usize = 1024;

/// The credentials that were refused last.
pub(super) struct Refused {
    most: usize,
    /// They are good for one attempt: whatever may have reached the authority has used them up.
    are_used_up: bool,
    /// A change of the user's credentials may make them good again.
    may_be_forgotten: bool,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    credentials: VecDeque<Vec<Secret>>,
    /// After which change of the credentials they were refused.
    change: u64,
}

impl Refused {
    pub(super) fn credentials() -> Self {
        Refused { most: CREDENTIALS, are_used_up: false, may_be_forgotten: true, list: Mutex::default() }
    }

    /// A code that is used up stays so, whatever has changed.
    pub(super) fn codes() -> Self {
        Refused { are_used_up: true, may_be_forgotten: false, ..Self::credentials() }
    }

    /// One that was refused never comes back to life, whatever has changed.
    pub(super) fn refresh_tokens() -> Self {
        Refused { most: REFRESH_TOKENS, may_be_forgotten: false, ..Self::credentials() }
    }

    /// Makes an attempt with these credentials, unless they were refused before and have not changed since, as far as
    /// its session knows ([`FetchContext::last_change`](super::FetchContext)) and the others that share the source.
    /// Attempts may end in another order than they were begun in: what one of before a change comes to says nothing of
    /// after it.
    pub(super) async fn try_with(
        &self,
        last_change: u64,
        credentials: Vec<Secret>,
        attempt: impl Future<Output = Result<Token, FetchError>>,
    ) -> Result<Token, FetchError> {
        let change = {
            let mut list = self.list();
            if self.may_be_forgotten && list.change < last_change {
                *list = List { change: last_change, ..List::default() };
            }
            if list.credentials.iter().any(|refused| are_same(refused, &credentials)) {
                return Err(FetchError::login_required(OwnWords(
                    "these credentials were presented before, in vain",
                )));
            }
            // An attempt that is dropped may have arrived.
            if self.are_used_up {
                self.add(&mut list, credentials.clone());
            }
            list.change
        };
        let outcome = attempt.await;
        let is_refused = outcome.as_ref().is_err_and(|failure| self.is_refusal(failure));
        if is_refused != self.are_used_up {
            let mut list = self.list();
            if !is_refused {
                list.credentials.retain(|noted| !are_same(noted, &credentials));
            } else if list.change == change {
                self.add(&mut list, credentials);
            }
        }
        outcome
    }

    fn add(&self, list: &mut List, credentials: Vec<Secret>) {
        list.credentials.truncate(self.most - 1);
        list.credentials.push_front(credentials);
    }

    /// One that allows no fallback speaks of the account or of its owner, who may have come round by the next time.
    fn is_refusal(&self, failure: &FetchError) -> bool {
        failure.allows_fallback() || self.are_used_up && !failure.was_not_processed
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn are_same(one: &[Secret], other: &[Secret]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.same_as(other))
}
