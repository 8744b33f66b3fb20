//! One source after another.

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
            Err(failure) if failure.allows_fallback() => self.next.fetch(cx).await,
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
