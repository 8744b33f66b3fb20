use std::fmt;

use http::{HeaderValue, Uri, header};
use zeroize::Zeroizing;

use crate::{
    error::Error,
    secret::{self, Secret},
    source::{
        AuthorityClient, FetchContext, FetchError, JsonAnswer,
        wire::{Grant, Reading, form, post},
    },
    token::Token,
};

/// A token endpoint, with what every request to it says. Cloning is cheap enough to give each grant its own:
/// `endpoint.clone().scope("profile")`.
#[derive(Clone)]
#[must_use]
pub struct TokenEndpoint {
    client: AuthorityClient,
    url: Uri,
    authentication: Authentication,
    params: Vec<(String, Secret)>,
    reading: Reading,
}

/// How the client says who it is (RFC 6749 §2.3).
#[derive(Clone)]
enum Authentication {
    None,
    Public { id: String },
    Basic(HeaderValue),
    Post { id: String, secret: Secret },
}

impl TokenEndpoint {
    /// The endpoint at this URL, which does not ask who the client is.
    pub fn new(client: impl Into<AuthorityClient>, url: Uri) -> Self {
        TokenEndpoint {
            client: client.into(),
            url,
            authentication: Authentication::None,
            params: Vec::new(),
            reading: Reading::default(),
        }
    }

    /// The client has no secret: its `client_id` is sent in the form.
    pub fn public_client(mut self, id: &str) -> Self {
        self.authentication = Authentication::Public { id: id.to_owned() };
        self
    }

    /// The client's secret is sent as `Authorization: Basic …`, which every authority must understand.
    pub fn client_secret_basic(mut self, id: &str, secret: impl Into<Secret>) -> Self {
        self.authentication = Authentication::Basic(basic(id, &secret.into()));
        self
    }

    /// The client's secret is sent in the form, for authorities that do not look at the header.
    pub fn client_secret_post(mut self, id: &str, secret: impl Into<Secret>) -> Self {
        self.authentication = Authentication::Post { id: id.to_owned(), secret: secret.into() };
        self
    }

    /// The OAuth scope to ask for, names with spaces between. By default none is asked for; a refresh without one keeps
    /// what was granted. Replaces one that was asked for before: it may stand in a request only once (RFC 6749 §3.2).
    pub fn scope(self, scope: &str) -> Self {
        self.given("scope", scope.into())
    }

    /// A resource that the token is for (RFC 8707). May be called several times.
    pub fn resource(self, resource: &str) -> Self {
        self.given("resource", resource.into())
    }

    /// An audience that the token is for, as Auth0 and others call it. May be called several times, as RFC 8693 has it.
    pub fn audience(self, audience: &str) -> Self {
        self.given("audience", audience.into())
    }

    /// One more parameter. Replaces one of the same name, which may stand in a request only once (RFC 6749 §3.2).
    /// `resource` and `audience` may be repeated (RFC 8707 §2, RFC 8693 §2.1), here or by their methods.
    ///
    /// The value is the same in each request. A client assertion (RFC 7523), which is good for one request only, needs a
    /// source of your own, or a layer in the client that signs.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for a name that the grants or the client's authentication use, for `scope`, which has a
    /// [method](Self::scope) of its own, and for an empty name.
    pub fn param(self, name: &str, value: impl Into<Secret>) -> Result<Self, Error> {
        const OURS: [&str; 10] = [
            "grant_type",
            "refresh_token",
            "username",
            "password",
            "code",
            "redirect_uri",
            "code_verifier",
            "client_id",
            "client_secret",
            "scope",
        ];
        Error::require(!name.is_empty(), "a parameter needs a name of at least one character")?;
        Error::require(!OURS.contains(&name), "this parameter is the grant's own or has a method")?;
        Ok(self.given(name, value.into()))
    }

    /// Error codes that mean the same as `invalid_grant`, for authorities that have codes of their own
    /// (`bad_refresh_token`, `refresh_token_not_found`) or misuse another one: `invalid_request`, say, or `server_error`,
    /// which ServiceNow sends at status 401 for a refresh token that has ended. Without this the session would try again
    /// for ever. The codes count in a 2xx, too, but in no 3xx and no 5xx, nor in a 407, 408, 425 or 429. They count in the
    /// place of the [business code](JsonAnswer::business_code) as well; an integer is given by its digits.
    pub fn dead_codes<C: Into<String>>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.reading.codes.dead.extend(codes.into_iter().map(Into::into));
        self
    }

    /// Error codes that mean the same as `access_denied`: the user is blocked, and no other source will do. They are looked
    /// for as the `dead_codes` are.
    pub fn blocked_codes<C: Into<String>>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.reading.codes.blocked.extend(codes.into_iter().map(Into::into));
        self
    }

    /// Where in the answer the parts are, for authorities that do not follow RFC 6749. Replaces everything of it that was
    /// set before; the `dead_codes` and `blocked_codes` stay.
    pub fn answer(mut self, answer: JsonAnswer) -> Self {
        self.reading.fields = answer;
        self
    }

    /// In the place of one of the same name, unless there may be several.
    fn given(mut self, name: &str, value: Secret) -> Self {
        if !["resource", "audience"].contains(&name) {
            self.params.retain(|(earlier, _)| earlier != name);
        }
        self.params.push((name.to_owned(), value));
        self
    }

    /// Presents a grant.
    pub(super) async fn present(
        &self,
        cx: &FetchContext,
        grant: Grant,
        grant_type: &str,
        parts: &[(&str, &str)],
    ) -> Result<Token, FetchError> {
        let params = self.params.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let (id, secret) = match &self.authentication {
            Authentication::None | Authentication::Basic(_) => (None, None),
            Authentication::Public { id } => (Some(id), None),
            Authentication::Post { id, secret } => (Some(id), Some(secret)),
        };
        let pairs = std::iter::once(("grant_type", grant_type))
            .chain(parts.iter().copied())
            .chain(params)
            .chain(id.map(|id| ("client_id", id.as_str())))
            .chain(secret.map(|secret| ("client_secret", secret.expose())));
        let mut request = post(&self.url, form::MEDIA_TYPE, form::encode(pairs));
        if let Authentication::Basic(value) = &self.authentication {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        self.client.ask(cx, request, &self.reading, grant).await
    }
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint").field("host", &self.url.host()).finish_non_exhaustive()
    }
}

/// Both parts are encoded as in a form first (RFC 6749 §2.3.1), so that a colon in the identifier divides nothing.
fn basic(id: &str, secret: &Secret) -> HeaderValue {
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (id.len() + secret.expose().len()) + 1));
    form::push(&mut pair, id);
    pair.push(b':');
    form::push(&mut pair, secret.expose());
    secret::header_value(secret::basic(&pair))
}
