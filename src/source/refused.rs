//! Credentials that the authority has refused are not shown to it again.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{FetchContext, FetchError};
use crate::{secret::Secret, token::Token};

/// How many are remembered: a person who mistypes a password does so a few times.
const MOST: usize = 16;

/// The credentials that were refused last.
#[derive(Default)]
pub(super) struct Refused(Mutex<List>);

#[derive(Default)]
struct List {
    credentials: VecDeque<Vec<Secret>>,
    /// As of [`FetchContext::changes`] when the last attempt was made.
    changes: u64,
}

impl Refused {
    /// Makes an attempt with these credentials, unless they were refused before and nobody has said
    /// [`credentials_changed`](crate::Session::credentials_changed) since.
    pub(super) async fn try_anew_with(
        &self,
        cx: &FetchContext,
        credentials: Vec<Secret>,
        attempt: impl Future<Output = Result<Token, FetchError>>,
    ) -> Result<Token, FetchError> {
        {
            let mut list = self.list();
            if list.changes != cx.changes {
                *list = List { changes: cx.changes, ..List::default() };
            }
        }
        self.try_with(credentials, attempt).await
    }

    /// Makes an attempt with these credentials, unless they were ever refused before.
    pub(super) async fn try_with(
        &self,
        credentials: Vec<Secret>,
        attempt: impl Future<Output = Result<Token, FetchError>>,
    ) -> Result<Token, FetchError> {
        if self.list().credentials.iter().any(|refused| are_same(refused, &credentials)) {
            return Err(FetchError::login_required("the authority has refused these credentials before"));
        }
        let outcome = attempt.await;
        // One that allows no fallback speaks of the account or of its owner, who may have come round by the next time.
        if outcome.as_ref().is_err_and(FetchError::allows_fallback) {
            let list = &mut self.list().credentials;
            list.truncate(MOST - 1);
            list.push_front(credentials);
        }
        outcome
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn are_same(one: &[Secret], other: &[Secret]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.same_as(other))
}
