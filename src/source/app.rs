//! Tokens for an application.

use std::fmt;

use http::Uri;

use super::{
    AuthorityClient, FetchContext, FetchError, JsonAnswer, TokenSource,
    wire::{
        Grant, Reading, get,
        json::{self, Scalar},
        post,
    },
};
use crate::{secret::Secret, token::Token};

/// Gets tokens for an application with its own credentials, where the platform does not speak OAuth 2.
///
/// A refusal of the credentials is a failure of the configuration: the session is kept, cools down and asks again,
/// because what the platform refuses today (an address that is not on its list, say) it may allow tomorrow. If the
/// platform says so at status 200 by a text instead of a business code, the failure is
/// [`Transient`](crate::ErrorKind::Transient); the session cools down and asks again all the same. A refresh token in the
/// answer is dropped, because nobody would present it.
///
/// ```
/// use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
/// use tower_token_refresh::{Session, source::{AppToken, Content, JsonAnswer}};
///
/// let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
/// let source = AppToken::post(http, "https://api.example.com/app/token".parse()?)
///     .credential("app", "my-app")
///     .credential("secret", "from-the-configuration")
///     .answer(JsonAnswer::new().access_token("/token")?.business_code("/code")?);
/// let session = Session::builder(source).build();
/// # let _ = session;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct AppToken {
    client: AuthorityClient,
    url: Uri,
    sends: Sends,
    credentials: Vec<(String, Secret)>,
    constants: Vec<(String, Scalar)>,
    reading: Reading,
}

#[derive(Clone, Copy)]
enum Sends {
    Query,
    Json,
}

impl AppToken {
    /// A source that asks this URL by `POST`, with everything in a JSON object.
    pub fn post(client: impl Into<AuthorityClient>, url: Uri) -> Self {
        AppToken::new(client.into(), url, Sends::Json)
    }

    /// A source that asks this URL by `GET`, with everything appended to the query of the URL. Parameters that the URL
    /// already has are kept, even those of the same name. The secret is then in the URL, which is often logged: this crate
    /// shows it nowhere, and the client should not either.
    pub fn get(client: impl Into<AuthorityClient>, url: Uri) -> Self {
        AppToken::new(client.into(), url, Sends::Query)
    }

    fn new(client: AuthorityClient, url: Uri, sends: Sends) -> Self {
        AppToken {
            client,
            url,
            sends,
            credentials: Vec::new(),
            constants: Vec::new(),
            reading: Reading::default(),
        }
    }

    /// Adds one of the credentials: the application's id, its secret. It replaces whatever was added under this name.
    pub fn credential(mut self, name: &str, value: impl Into<Secret>) -> Self {
        self.give_up(name);
        self.credentials.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a text to the request. It replaces whatever was added under this name.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.give_up(name);
        self.constants.push((name.to_owned(), Scalar::Text(value.to_owned())));
        self
    }

    /// Where in the answer the parts are; as [`JsonAnswer::new`] says unless this is called. Replaces everything of it
    /// that was set before, also by a [preset](crate::preset): its pointers and its transient codes.
    pub fn answer(mut self, answer: JsonAnswer) -> Self {
        self.reading.fields = answer;
        self
    }

    /// Another URL, for a proxy or a private deployment of the platform.
    pub fn url(mut self, url: Uri) -> Self {
        self.url = url;
        self
    }

    /// A name may stand in a request only once (RFC 8259 §4).
    fn give_up(&mut self, name: &str) {
        self.credentials.retain(|(earlier, _)| earlier != name);
        self.constants.retain(|(earlier, _)| earlier != name);
    }

    /// Asks, with one more part in the request.
    pub(crate) async fn ask(
        &self,
        cx: &FetchContext,
        more: Option<(&str, bool)>,
    ) -> Result<Token, FetchError> {
        let secrets = self.credentials.iter().map(|(name, secret)| (name.as_str(), secret.expose()));
        let mut others = self.constants.clone();
        others.extend(more.map(|(name, value)| (name.to_owned(), Scalar::Bool(value))));
        let request = match self.sends {
            Sends::Json => post(&self.url, json::MEDIA_TYPE, json::object(secrets, &others)),
            Sends::Query => {
                let others: Vec<_> = others.iter().map(|(name, value)| (name, value.to_string())).collect();
                let others = others.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                get(&self.url, secrets.chain(others))
                    .map_err(|unfit| self.client.reclassified(unfit, None))?
            }
        };
        self.client.ask(cx, request, &self.reading, Grant::Client).await
    }
}

impl TokenSource for AppToken {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        self.ask(&cx, None).await
    }
}

impl fmt::Debug for AppToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppToken").field("host", &self.url.host()).finish_non_exhaustive()
    }
}
