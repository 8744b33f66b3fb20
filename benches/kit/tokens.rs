//! An authority that numbers its tokens and can revoke them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, header::AUTHORIZATION};
use tower_token_refresh::Token;

/// The number in the newest token, and in the newest one that is revoked; clones are the same authority.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    issued: Arc<AtomicUsize>,
    revoked: Arc<AtomicUsize>,
}

impl Tokens {
    pub(crate) fn issue(&self) -> Token {
        // All of the same length.
        Token::new(format!("token-{:08}", self.issued.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// All that are issued by now.
    pub(crate) fn revoke(&self) {
        self.revoked.store(self.issued.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A token without a number is nobody's, and always good.
    pub(crate) fn accept(&self, headers: &HeaderMap) -> bool {
        let credential = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = credential.and_then(|credential| credential.strip_prefix("Bearer token"));
        token.is_some_and(|token| match token.strip_prefix('-') {
            Some(number) => {
                number.parse().is_ok_and(|number: usize| number > self.revoked.load(Ordering::Relaxed))
            }
            None => true,
        })
    }
}
