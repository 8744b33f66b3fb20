use std::{fmt, future::Future};

use http::Uri;

use super::{JsonVerify, exchange::Exchange};
use crate::{
    source::{
        AuthorityClient, Credentials, FetchContext, FetchError, JsonAnswer, TokenSource, Verification,
        credentials::{Provider, provider},
        wire::{Grant, json::Scalar},
    },
    token::Token,
};

/// Logs in with an account and a password: `POST {"account": …, "password": …}`.
///
/// The closure is asked at each login, and nothing of what it returns is stored. Where there are no credentials it
/// returns [`FetchError::login_required`]. See the [module docs](super) for an example.
#[must_use]
pub struct Password {
    exchange: Exchange,
    account: String,
    password: String,
    credentials: Provider<Credentials>,
}

impl Password {
    /// A source that logs in at this URL with what the closure returns. The answer is read as [`JsonAnswer::new`] says.
    pub fn new<F, Fut>(client: impl Into<AuthorityClient>, url: Uri, credentials: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, FetchError>> + Send + 'static,
    {
        Password {
            exchange: Exchange::new(client.into(), url, Grant::JsonLogin),
            account: "account".to_owned(),
            password: "password".to_owned(),
            credentials: provider(credentials),
        }
    }

    /// The names of account and password in the request.
    pub fn fields(mut self, account: &str, password: &str) -> Self {
        self.account = account.to_owned();
        self.password = password.to_owned();
        self
    }

    /// Adds a text to the request (a device or a client, say), in the place of an earlier one of the same name. Under the
    /// name of the account or of the password, the credential is sent and not the text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.exchange.constant(name, Scalar::Text(value.to_owned()));
        self
    }

    /// Adds a number to the request, with the same rule for its name as for a [`text`](Self::text).
    pub fn number(mut self, name: &str, value: i64) -> Self {
        self.exchange.constant(name, Scalar::Number(value));
        self
    }

    /// Where in the answer the parts are. Replaces everything of it that was set before.
    pub fn answer(mut self, answer: JsonAnswer) -> Self {
        self.exchange.reading.fields = answer;
        self
    }

    /// How to ask whether a stored token is still good.
    pub fn verify_with(mut self, verify: JsonVerify) -> Self {
        self.exchange.verify = Some(verify);
        self
    }
}

impl TokenSource for Password {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        cx.wants_credentials()?;
        let Credentials { account, password } = (self.credentials)().await?;
        let credentials = [(self.account.as_str(), &account), (self.password.as_str(), &password)];
        self.exchange.present(&cx, &credentials).await.map_err(FetchError::of_a_password)
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.exchange.verify(token).await
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").field("host", &self.exchange.url.host()).finish_non_exhaustive()
    }
}
