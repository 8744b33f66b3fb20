use std::{fmt, future::Future};

use super::TokenEndpoint;
use crate::{
    source::{
        Credentials, FetchContext, FetchError, TokenSource,
        credentials::{Provider, provider},
        refused::Refused,
        wire::Grant,
    },
    token::Token,
};

/// Logs in with an account and a password (RFC 6749 §4.3), for authorities that still allow it.
///
/// The closure is asked at each login, and nothing of what it returns is stored. Credentials that were refused are not
/// presented again (of the last 16), and the session is over: see [`login`](crate::source::login).
#[must_use]
pub struct PasswordGrant {
    endpoint: TokenEndpoint,
    credentials: Provider<Credentials>,
    refused: Refused,
}

impl PasswordGrant {
    /// A source that presents what the closure returns at this endpoint.
    pub fn new<F, Fut>(endpoint: TokenEndpoint, credentials: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, FetchError>> + Send + 'static,
    {
        PasswordGrant { endpoint, credentials: provider(credentials), refused: Refused::credentials() }
    }
}

impl TokenSource for PasswordGrant {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        cx.wants_credentials()?;
        let Credentials { account, password } = (self.credentials)().await?;
        let parts = [("username", account.expose()), ("password", password.expose())];
        let attempt = self.endpoint.present(&cx, Grant::OAuthLogin, "password", &parts);
        let login = self.refused.try_with(cx.last_change, vec![account.clone(), password.clone()], attempt);
        login.await.map_err(FetchError::of_a_password)
    }
}

impl fmt::Debug for PasswordGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordGrant").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
