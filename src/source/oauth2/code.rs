use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::TokenEndpoint;
use crate::{
    secret::Secret,
    source::{FetchContext, FetchError, OwnWords, TokenSource, wire::Grant},
    token::Token,
};

/// Exchanges the authorization code of one redirect (RFC 6749 §4.1.3), once.
///
/// A code that may have arrived is never presented again, because an authority takes that for theft; afterwards this
/// source says that a login is required. The [module docs](super) show how a user logs in with it.
#[must_use]
pub struct AuthorizationCodeGrant {
    endpoint: TokenEndpoint,
    code: Mutex<Option<Secret>>,
    redirect_uri: String,
    verifier: Option<Secret>,
}

impl AuthorizationCodeGrant {
    /// A source that presents the code which came to this redirect URI, at this endpoint.
    pub fn new(endpoint: TokenEndpoint, code: impl Into<Secret>, redirect_uri: &str) -> Self {
        AuthorizationCodeGrant {
            endpoint,
            code: Mutex::new(Some(code.into())),
            redirect_uri: redirect_uri.to_owned(),
            verifier: None,
        }
    }

    /// The verifier whose challenge went with the authorization request (PKCE, RFC 7636).
    pub fn pkce_verifier(mut self, verifier: impl Into<Secret>) -> Self {
        self.verifier = Some(verifier.into());
        self
    }

    fn code(&self) -> MutexGuard<'_, Option<Secret>> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenSource for AuthorizationCodeGrant {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        cx.wants_credentials()?;
        // Taken before it is sent, so that a fetch which is dropped halfway has used it.
        let Some(code) = self.code().take() else {
            return Err(FetchError::login_required(OwnWords("the authorization code has been used")));
        };
        let mut parts = vec![("code", code.expose()), ("redirect_uri", &self.redirect_uri)];
        parts.extend(self.verifier.as_ref().map(|verifier| ("code_verifier", verifier.expose())));
        let outcome = self.endpoint.present(&cx, Grant::OAuthLogin, "authorization_code", &parts).await;
        if outcome.as_ref().is_err_and(|failure| failure.was_not_processed) {
            *self.code() = Some(code.clone());
        }
        outcome
    }
}

impl fmt::Debug for AuthorizationCodeGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationCodeGrant").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
