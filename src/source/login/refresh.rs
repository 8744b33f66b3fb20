use std::fmt;

use http::Uri;

use super::{JsonVerify, exchange::Exchange};
use crate::{
    source::{
        AuthorityClient, FetchContext, FetchError, JsonAnswer, TokenSource, Verification,
        wire::{Grant, json::Scalar},
    },
    token::Token,
};

/// Presents the session's refresh token to an authority that does not speak OAuth 2: `POST {"refresh_token": …}`.
///
/// A new refresh token in the answer replaces the old one; an answer without one keeps it. If the session has no refresh
/// token, or one that was refused before, the authority is not asked: a login is required, which is the work of the next
/// source of a chain. The last 1024 that were refused are remembered.
///
/// ```
/// use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
/// use tower_token_refresh::{
///     Session, TokenSource,
///     source::{Content, Credentials, JsonAnswer, Password, RefreshToken},
/// };
///
/// let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
/// // {"code": 200, "data": {"token": "…", "refreshToken": "…", "expire": 7200}}
/// let answer = JsonAnswer::new()
///     .access_token("/data/token")?
///     .refresh_token("/data/refreshToken")?
///     .expires_in("/data/expire")?
///     .business_code("/code")?
///     .success_codes([200]);
/// let refresh = RefreshToken::new(http.clone(), "https://api.example.com/refresh".parse()?)
///     .field("refreshToken")
///     .dead_codes([40102])
///     .answer(answer.clone());
/// let login = Password::new(http, "https://api.example.com/login".parse()?, || async {
///     Ok(Credentials::new("alice", "wonderland"))
/// })
/// .answer(answer);
/// let session = Session::builder(refresh.or_else(login)).build();
/// # let _ = session;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Only an error `invalid_grant` and the [`dead_codes`](Self::dead_codes) say that the refresh token has ended. No answer without such
/// a code does, be it a 401, which may be a gateway's: the [table of OAuth 2](crate::source::oauth2) has its meaning at a
/// refresh. If your server refuses by the status alone, decide that for its client:
///
/// ```
/// use tower_token_refresh::{FetchError, source::{AuthorityClient, FailedCall}};
///
/// # fn authority(client: AuthorityClient) -> AuthorityClient {
/// client.classify_failures(|failed: &FailedCall<'_>| {
///     let is_refused = failed.answer()?.status() == 401;
///     is_refused.then(|| FetchError::login_required("the server refuses the refresh token"))
/// })
/// # }
/// ```
#[must_use]
pub struct RefreshToken {
    exchange: Exchange,
    field: String,
}

impl RefreshToken {
    /// A source that presents the session's refresh token at this URL. The answer is read as [`JsonAnswer::new`] says.
    pub fn new(client: impl Into<AuthorityClient>, url: Uri) -> Self {
        RefreshToken {
            exchange: Exchange::new(client.into(), url, Grant::Refresh),
            field: "refresh_token".to_owned(),
        }
    }

    /// The name of the refresh token in the request.
    pub fn field(mut self, name: &str) -> Self {
        self.field = name.to_owned();
        self
    }

    /// Adds a text to the request, in the place of an earlier one of the same name. Under the name of the refresh token,
    /// that is sent and not the text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.exchange.constant(name, Scalar::Text(value.to_owned()));
        self
    }

    /// Adds a number to the request, with the same rule for its name as for a [`text`](Self::text).
    pub fn number(mut self, name: &str, value: i64) -> Self {
        self.exchange.constant(name, Scalar::Number(value));
        self
    }

    /// Codes that say that the refresh token has ended, as an [error](JsonAnswer::error) or in the place of the [business
    /// code](JsonAnswer::business_code): texts, or integers, which count in quotes, too. They count in a 2xx, too, but in no
    /// 3xx and no 5xx, nor in a 407, 408, 425 or 429.
    pub fn dead_codes<C: ToString>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.exchange.reading.codes.dead.extend(codes.into_iter().map(|code| code.to_string()));
        self
    }

    /// Where in the answer the parts are. Replaces everything of it that was set before; the `dead_codes` stay.
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

impl TokenSource for RefreshToken {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let token = cx.wants_refresh_token()?;
        self.exchange.present(&cx, &[(&self.field, token)]).await
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.exchange.verify(token).await
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshToken").field("host", &self.exchange.url.host()).finish_non_exhaustive()
    }
}
