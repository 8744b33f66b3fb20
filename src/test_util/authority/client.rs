//! The authority for tests that need no HTTP: its own client, through the same gates, failures and counts.

use std::time::Duration;

use http::{Request, Response, header};
use serde_json::Value;
use tower_service::Service;

use super::ModelAuthority;
use crate::{
    query,
    source::{FetchContext, FetchError, TokenSource, source_fn},
    test_util::body::ModelBody,
    token::Token,
};

impl ModelAuthority {
    /// Logs the first account in.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh).
    pub async fn login(&self) -> Result<Token, FetchError> {
        let (account, password) = self.state().ledger.accounts[0].clone();
        self.login_as(&account, &password).await
    }

    /// Logs an account in.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh); a wrong password requires a login, too.
    pub async fn login_as(&self, account: &str, password: &str) -> Result<Token, FetchError> {
        let body = serde_json::json!({ "account": account, "password": password });
        self.post("/login", "application/json", body.to_string()).await
    }

    /// Presents a refresh token.
    ///
    /// # Errors
    ///
    /// `login_required` after `invalid_grant`, otherwise a transient failure with the `Retry-After` of the answer.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Token, FetchError> {
        let refresh_token = query::pair("refresh_token", refresh_token);
        let body = format!("grant_type=refresh_token&{}", refresh_token.expose());
        self.post("/oauth/token", "application/x-www-form-urlencoded", body).await
    }

    /// A source over this authority: it presents the refresh token if there is one, otherwise it logs the first account
    /// in.
    ///
    /// Every failure but `invalid_grant` is transient to it, even an answer that got lost, so a refresh token is
    /// presented again soon. The sources of this crate wait longer then. To test them, use the authority as their client:
    /// give it to a [`TokenEndpoint`](crate::source::oauth2::TokenEndpoint), say.
    pub fn source(&self) -> impl TokenSource + Clone + use<> {
        let authority = self.clone();
        source_fn(move |cx: FetchContext| {
            let authority = authority.clone();
            async move {
                match cx.refresh_token() {
                    Some(token) => authority.refresh(token.expose()).await,
                    None => authority.login().await,
                }
            }
        })
    }

    async fn post(&self, path: &str, content_type: &str, body: String) -> Result<Token, FetchError> {
        let request =
            Request::post(path).header(header::CONTENT_TYPE, content_type).body(ModelBody::from(body))?;
        let answer = self.clone().call(request).await.map_err(FetchError::transient)?;
        read(&answer)
    }
}

fn read(answer: &Response<ModelBody>) -> Result<Token, FetchError> {
    let body: Value = serde_json::from_slice(answer.body().bytes()).unwrap_or_default();
    if let (true, Some(access)) = (answer.status().is_success(), body["access_token"].as_str()) {
        let token = Token::new(access).expires_in(body["expires_in"].as_u64().map(Duration::from_secs));
        return Ok(match body["refresh_token"].as_str() {
            Some(refresh) => token.refresh_token(refresh),
            None => token,
        });
    }
    if body["error"] == "invalid_grant" {
        return Err(FetchError::login_required("invalid_grant"));
    }
    let failure = FetchError::transient(format!("no token in an answer with status {}", answer.status()));
    let wait = answer.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
    Err(match wait {
        Some(seconds) => failure.retry_after(Duration::from_secs(seconds)),
        None => failure,
    })
}
