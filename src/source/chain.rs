//! One source after another.

use std::sync::{Arc, atomic::Ordering};

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
                let own = FetchContext { is_read: Arc::default(), ..cx.clone() };
                let is_read = own.is_read.clone();
                let outcome = self.next.fetch(own).await;
                let of_next = is_read.load(Ordering::Relaxed);
                let of_first = cx.is_read.fetch_or(of_next, Ordering::Relaxed);
                match outcome {
                    // Another login's: not got with the refresh token that was refused just before.
                    Ok(token) if of_first && !of_next && token.keeps_refresh_token() => {
                        Ok(token.without_refresh_token())
                    }
                    outcome => outcome,
                }
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
