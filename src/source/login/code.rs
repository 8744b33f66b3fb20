use std::{fmt, future::Future};

use http::Uri;

use super::{JsonVerify, exchange::Exchange};
use crate::{
    error::Error,
    query::with_path_and_query,
    secret::Secret,
    source::{
        AuthorityClient, FetchContext, FetchError, JsonAnswer, OwnWords, TokenSource, Verification,
        credentials::{Provider, provider},
        wire::{Grant, json::Scalar},
    },
    token::Token,
};

/// Exchanges a login code: `POST {"code": …}`.
///
/// A code is good for one exchange: the closure is asked for a new one at each attempt, even if the last one has brought a
/// token, or may not have arrived. What may be presented again is for a source of your own. An empty code is not sent: that
/// attempt fails for the moment. One that is refused ends no session: see [`login`](super). An exchange may take 10 s; a
/// server that is slower needs a longer [`timeout`](AuthorityClient::timeout).
///
/// ```
/// use std::time::Duration;
///
/// use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
/// use tower_token_refresh::{Secret, Session, source::{Content, JsonAnswer, LoginCode}};
/// # async fn wx_login() -> Result<String, std::io::Error> { Ok("code".to_owned()) }
///
/// let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
/// let source = LoginCode::mini_program(http, "https://api.example.com/token".parse()?, || async {
///     Ok(Secret::from(wx_login().await?))
/// })?;
/// // The answer does not say that its token lives for two hours.
/// let answer = JsonAnswer::new().access_token("/token")?.business_code("/error_code")?;
/// let source = source.answer(answer.default_lifetime(Duration::from_secs(2 * 3600)));
/// let session = Session::builder(source).build();
/// # let _ = session;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct LoginCode {
    exchange: Exchange,
    field: String,
    code: Provider<Secret>,
}

impl LoginCode {
    /// A source that exchanges the closure's codes at this URL. The answer is read as [`JsonAnswer::new`] says.
    pub fn new<F, Fut>(client: impl Into<AuthorityClient>, url: Uri, code: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, FetchError>> + Send + 'static,
    {
        LoginCode {
            exchange: Exchange::new(client.into(), url, Grant::LoginCode),
            field: "code".to_owned(),
            code: provider(code),
        }
    }

    /// What the server of a mini program expects: `{"account": <code>, "type": 100}` is answered with `{"token": …}`, or with
    /// an `error_code` other than 0, and a stored token is verified at the same URL with `/verify` at its end. The lifetime of
    /// the token is unknown, so it is not renewed ahead of time, unless [`JsonAnswer::default_lifetime`] gives one.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for a URL that takes no such ending.
    pub fn mini_program<F, Fut>(client: impl Into<AuthorityClient>, url: Uri, code: F) -> Result<Self, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, FetchError>> + Send + 'static,
    {
        let verify = JsonVerify::new(below(&url, "verify")?);
        let answer = JsonAnswer::new().access_token("/token")?.business_code("/error_code")?;
        Ok(Self::new(client, url, code)
            .field("account")
            .number("type", 100)
            .answer(answer)
            .verify_with(verify))
    }

    /// The name of the code in the request.
    pub fn field(mut self, name: &str) -> Self {
        self.field = name.to_owned();
        self
    }

    /// Adds a text to the request, in the place of an earlier one of the same name. Under the name of the code, the code is
    /// sent and not the text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.exchange.constant(name, Scalar::Text(value.to_owned()));
        self
    }

    /// Adds a number to the request, with the same rule for its name as for a [`text`](Self::text).
    pub fn number(mut self, name: &str, value: i64) -> Self {
        self.exchange.constant(name, Scalar::Number(value));
        self
    }

    /// Where in the answer the parts are. Replaces everything of it that was set before, also by
    /// [`mini_program`](Self::mini_program).
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

impl TokenSource for LoginCode {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        cx.wants_credentials()?;
        let code = (self.code)().await?;
        if code.expose().is_empty() {
            return Err(FetchError::transient(OwnWords("there is no login code")));
        }
        self.exchange.present(&cx, &[(&self.field, &code)]).await
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.exchange.verify(token).await
    }
}

impl fmt::Debug for LoginCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginCode").field("host", &self.exchange.url.host()).finish_non_exhaustive()
    }
}

/// The URL with one more step in its path, and the query that it has.
fn below(url: &Uri, step: &str) -> Result<Uri, Error> {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}/{step}{query}", url.path().trim_end_matches('/'));
    let unfit = |_| Error::unfit("a URL for tokens has a scheme, a host and a path");
    with_path_and_query(url, path.as_bytes()).map_err(unfit)
}
