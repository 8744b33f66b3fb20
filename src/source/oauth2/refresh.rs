use std::fmt;

use super::TokenEndpoint;
use crate::{
    source::{FetchContext, FetchError, TokenSource, refused::Refused, wire::Grant},
    token::Token,
};

/// Presents the session's refresh token (RFC 6749 §6).
///
/// A new refresh token in the answer replaces the old one; an answer without one keeps it. If the session has no refresh
/// token, or one that was refused before, the authority is not asked: a login is required, which is the work of the next
/// source of a chain. The last 1024 that were refused are remembered. See the [module docs](super) for an example.
#[must_use]
pub struct RefreshTokenGrant {
    endpoint: TokenEndpoint,
    refused: Refused,
}

impl RefreshTokenGrant {
    /// A source that presents the session's refresh token at this endpoint.
    pub fn new(endpoint: TokenEndpoint) -> Self {
        RefreshTokenGrant { endpoint, refused: Refused::refresh_tokens() }
    }
}

impl TokenSource for RefreshTokenGrant {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let token = cx.wants_refresh_token()?;
        let parts = [("refresh_token", token.expose())];
        let attempt = self.endpoint.present(&cx, Grant::Refresh, "refresh_token", &parts);
        self.refused.try_with(cx.last_change, vec![token.clone()], attempt).await
    }
}

impl fmt::Debug for RefreshTokenGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokenGrant").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
