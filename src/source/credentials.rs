//! Credentials that a closure of the user's brings.

use std::future::Future;

use futures_util::future::BoxFuture;

use super::FetchError;
use crate::secret::Secret;

/// An account and its password, as a closure returns them at each login.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(super) account: Secret,
    pub(super) password: Secret,
}

impl Credentials {
    /// Both texts are overwritten with zeros when they are dropped.
    pub fn new(account: impl Into<Secret>, password: impl Into<Secret>) -> Self {
        Credentials { account: account.into(), password: password.into() }
    }
}

pub(super) type Provider<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T, FetchError>> + Send + Sync>;

pub(super) fn provider<T, F, Fut>(provide: F) -> Provider<T>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, FetchError>> + Send + 'static,
{
    Box::new(move || Box::pin(provide()))
}
