//! One source after another.

use std::sync::atomic::Ordering;

use super::{FetchContext, FetchError, TokenSource, Verification};
use crate::token::Token;

/// The source made by [`TokenSource::or_else`].
#[derive(Clone, Debug)]
pub struct OrElse<A, B> {
    first: A,
    next: B,
}

impl<A, B> OrElse<A, B> {
    pub(super) fn new(first: A, next: B) -> Self {
        OrElse { first, next }
    }
}

impl<A: TokenSource, B: TokenSource> TokenSource for OrElse<A, B> {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        match self.first.fetch(cx.clone()).await {
            Err(failure) if failure.allows_fallback() => {
                let reads = cx.reads.clone();
                let of_first = reads.load(Ordering::Relaxed);
                let token = self.next.fetch(cx).await?;
                // Another login's: not got with the refresh token that was refused just before.
                let is_another = of_first > 0 && reads.load(Ordering::Relaxed) == of_first;
                Ok(if is_another && token.keeps_refresh_token() {
                    token.without_refresh_token()
                } else {
                    token
                })
            }
            outcome => outcome,
        }
    }

    async fn verify(&self, token: &Token) -> Verification {
        match self.first.verify(token).await {
            Verification::Unknown => self.next.verify(token).await,
            said => said,
        }
    }
}
