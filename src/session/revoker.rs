//! What becomes of tokens that nobody wants any more.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, time::timeout};

use crate::{reentry::Mark, timer, token::Token};

/// Takes a token that nobody wants.
pub(crate) type Revoke = dyn Fn(Token) -> BoxFuture<'static, ()> + Send + Sync;

pub(crate) struct Revoker {
    pub(super) revoke: Option<Box<Revoke>>,
    /// For how long it may go on.
    pub(super) limit: Duration,
    pub(super) runtime: Option<Handle>,
    pub(super) mark: Mark,
}

impl Revoker {
    /// Offers a token that nobody wants any more to whoever can revoke it, in a task of its own.
    pub(super) fn discard(&self, token: Token) {
        if let (Some(revoke), Some(runtime)) = (&self.revoke, timer::runtime(self.runtime.as_ref())) {
            let (limit, mark, revoking) = (self.limit, self.mark, revoke(token));
            runtime.spawn(async move { timeout(limit, mark.around(|| revoking)).await });
        }
    }
}
