use super::TokenEndpoint;
use crate::{
    source::{FetchContext, FetchError, TokenSource, wire::Grant},
    token::Token,
};

/// Presents nothing but the client itself (RFC 6749 §4.4), for services that act on their own behalf.
///
/// Nobody can log in for a service, so no refusal ends its session, except for codes given to
/// [`dead_codes`](TokenEndpoint::dead_codes) or [`blocked_codes`](TokenEndpoint::blocked_codes): it cools down and asks
/// again until somebody has corrected the configuration. Do not chain it behind a user's refresh token: when that token
/// is refused, the user's requests would silently be sent in the application's name. A refresh token in the answer is
/// dropped: there should be none (§4.4.3).
///
/// ```
/// use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
/// use tower_token_refresh::{Session, source::{Content, oauth2::{ClientCredentialsGrant, TokenEndpoint}}};
///
/// let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
/// # let secret = "from-the-environment";
/// let endpoint = TokenEndpoint::new(http, "https://id.example.com/oauth/token".parse()?)
///     .client_secret_basic("billing", secret)
///     .scope("invoices:read");
/// let session = Session::builder(ClientCredentialsGrant::new(endpoint)).build();
/// # let _ = session;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientCredentialsGrant {
    endpoint: TokenEndpoint,
}

impl ClientCredentialsGrant {
    /// A source that presents the client itself at this endpoint.
    pub fn new(endpoint: TokenEndpoint) -> Self {
        ClientCredentialsGrant { endpoint }
    }
}

impl TokenSource for ClientCredentialsGrant {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        self.endpoint.present(&cx, Grant::Client, "client_credentials", &[]).await
    }
}
