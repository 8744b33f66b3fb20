//! Credentials that the authority has refused are not shown to it again.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::FetchError;
use crate::{secret::Secret, token::Token};

/// How many are remembered: a person who mistypes a password does so a few times.
const MOST: usize = 16;

/// The credentials that were refused last.
#[derive(Default)]
pub(super) struct Refused(Mutex<VecDeque<Vec<Secret>>>);

impl Refused {
    /// Makes an attempt with these credentials, unless they were refused before.
    pub(super) async fn try_with(
        &self,
        credentials: Vec<Secret>,
        attempt: impl Future<Output = Result<Token, FetchError>>,
    ) -> Result<Token, FetchError> {
        if self.list().iter().any(|refused| are_same(refused, &credentials)) {
            return Err(FetchError::login_required("the authority has refused these credentials before"));
        }
        let outcome = attempt.await;
        // One that allows no fallback speaks of the account or of its owner, who may have come round by the next time.
        if outcome.as_ref().is_err_and(FetchError::allows_fallback) {
            let mut list = self.list();
            list.truncate(MOST - 1);
            list.push_front(credentials);
        }
        outcome
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<Vec<Secret>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn are_same(one: &[Secret], other: &[Secret]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.same_as(other))
}
