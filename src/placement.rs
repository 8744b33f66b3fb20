//! How the token is put on a request.
//!
//! | placement | sent |
//! |---|---|
//! | [`Placement::bearer`] | `Authorization: Bearer T` |
//! | [`Placement::basic`] | `Authorization: Basic base64(T:)`, the token as a user name without a password |
//! | [`Placement::header`] | `X-API-Key: T` |
//! | [`Placement::header_with_scheme`] | `Authorization: Token T` |
//! | [`Placement::query`] | `?access_token=T` |
//! | [`Placement::custom`] | whatever a closure does to the head |
//!
//! What is sent is built once for each token and shared by all requests; the header value is marked sensitive, so that
//! HTTP/2 keeps it out of its tables and `Debug` does not show it. A request that already carries the header or the
//! parameter is left alone: that is the caller's own affair.
//!
//! The token type that an authority names ([`Token::kind`]) changes nothing. RFC 6749 §7.1 wants a client to use no token
//! whose type it does not understand, but servers are so careless with `token_type` that it is of no use for telling types
//! apart. A `DPoP` or `mac` token thus goes out as the placement says, as `Bearer` mostly, and the server refuses it: such
//! types need a proof for each request, which a placement of your own or a layer below would have to make.
//!
//! ```
//! use tower_token_refresh::Placement;
//!
//! let placement = Placement::header_with_scheme("authorization", "Token")?;
//!
//! assert!(Placement::header("no spaces, please").is_err());
//! # let _ = placement;
//! # Ok::<(), tower_token_refresh::Error>(())
//! ```
//!
//! A gateway that wants the token twice:
//!
//! ```
//! use http::HeaderValue;
//! use tower_token_refresh::Placement;
//!
//! let placement = Placement::custom(|head, token| {
//!     let mut value = HeaderValue::from_str(token.access().expose())?;
//!     value.set_sensitive(true);
//!     head.headers_mut().insert("x-gateway-token", value.clone());
//!     head.headers_mut().insert("x-upstream-token", value);
//!     Ok(())
//! });
//! # let _ = placement;
//! ```

#[cfg(test)]
mod tests;

use std::{fmt, mem, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{self, AUTHORIZATION, MaxSizeReached},
};
use zeroize::Zeroizing;

use crate::{
    error::{BoxError, Error, ErrorKind},
    query,
    secret::{self, Secret},
    token::Token,
};

/// How the token is put on a request. Cloning is cheap. See the [module docs](self).
///
/// Every placement but a custom one takes tokens of visible ASCII characters only; another token is an error when
/// the session takes it, before anything is sent.
#[derive(Clone)]
pub struct Placement(Form);

#[derive(Clone)]
enum Form {
    Header { name: HeaderName, scheme: Option<Arc<str>> },
    Basic,
    Query(Arc<str>),
    Custom(Arc<Custom>),
}

type Custom = dyn Fn(&mut Request<()>, &Token) -> Result<(), BoxError> + Send + Sync;

impl Placement {
    /// `Authorization: Bearer T` (RFC 6750 §2.1), whatever the type of the token.
    pub fn bearer() -> Self {
        Placement(Form::Header { name: AUTHORIZATION, scheme: Some("Bearer".into()) })
    }

    /// `Authorization: Basic base64(T:)` (RFC 7617), the token as the user name and no password.
    ///
    /// A token with a colon is an error: the server would read what follows it as the password.
    pub fn basic() -> Self {
        Placement(Form::Basic)
    }

    /// The bare token in a header: `X-API-Key: T`.
    ///
    /// # Errors
    ///
    /// What is not a header name (RFC 9110 §5.1) is refused, and so are HTTP's own: `Host`, `Content-Length` and their like.
    pub fn header(name: impl TryInto<HeaderName>) -> Result<Self, Error> {
        Ok(Placement(Form::Header { name: header_name(name)?, scheme: None }))
    }

    /// A word and the token in a header: `Authorization: Token T`.
    ///
    /// # Errors
    ///
    /// What is not a header name, as for [`header`](Self::header), or not a scheme (RFC 9110 §11.1) is refused.
    pub fn header_with_scheme(name: impl TryInto<HeaderName>, scheme: &str) -> Result<Self, Error> {
        let name = header_name(name)?;
        // Schemes and header names have the same grammar, that of a token.
        let is_fit = HeaderName::from_bytes(scheme.as_bytes()).is_ok();
        Error::require(is_fit, "a scheme must be one word of letters, digits and !#$%&'*+-.^_`|~")?;
        Ok(Placement(Form::Header { name, scheme: Some(scheme.into()) }))
    }

    /// The token in the URI's query: `?access_token=T`, after the caller's own parameters.
    ///
    /// # Security
    ///
    /// URIs are written to the logs of servers and proxies and passed on in `Referer`; OAuth forbids it (RFC 9700
    /// §4.3.2). Some clients name the whole URI in their errors, too. Use it where the server leaves no choice, and place
    /// logging layers outside this one. The caller should send `Cache-Control: no-store` (RFC 6750 §2.3): the layer adds
    /// the token only.
    ///
    /// # Errors
    ///
    /// An empty name is refused.
    pub fn query(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        Error::require(!name.is_empty(), "a query parameter needs a name of at least one character")?;
        Ok(Placement(Form::Query(name.into())))
    }

    /// Whatever the closure does to the head of the request.
    ///
    /// It runs for each attempt, so it should be quick, and *replace* what it sets. The error it returns becomes the
    /// cause of ours; it should not hold the token. It sees every request, and has to check by itself whether the caller
    /// has set a credential. A request that it leaves unchanged still counts as sent with the session's token: if it is
    /// refused, the token is refreshed. Mark such requests with [`NoToken`](crate::NoToken) instead.
    pub fn custom<F>(attach: F) -> Self
    where
        F: Fn(&mut Request<()>, &Token) -> Result<(), BoxError> + Send + Sync + 'static,
    {
        Placement(Form::Custom(Arc::new(attach)))
    }

    /// Builds what is sent with a token, once for all requests that send it.
    pub(crate) fn prepare(&self, token: &Token) -> Result<Credential, Error> {
        let access = token.access().expose();
        let empty = "the token is empty: it must have at least one visible ASCII character";
        Error::require(!access.is_empty(), empty)?;
        let is_visible = access.bytes().all(|byte| byte.is_ascii_graphic());
        let is_fit = is_visible || matches!(self.0, Form::Custom(_));
        Error::require(is_fit, "the token holds something else than visible ASCII characters")?;
        match &self.0 {
            Form::Header { name, scheme: None } => Ok(Credential::header(name, access.to_owned().into())),
            Form::Header { name, scheme: Some(scheme) } => {
                Ok(Credential::header(name, [scheme, " ", access].concat().into()))
            }
            Form::Basic => {
                let colon = "the token holds a colon, which ends the user name in basic authentication";
                Error::require(!access.contains(':'), colon)?;
                let user_and_password = Zeroizing::new([access, ":"].concat());
                Ok(Credential::header(&AUTHORIZATION, secret::basic(user_and_password.as_bytes())))
            }
            Form::Query(name) => {
                let name = Arc::clone(name);
                Ok(Credential::Other(Other::Query { pair: query::pair(&name, access), name }))
            }
            Form::Custom(attach) => {
                let (attach, token) = (Arc::clone(attach), token.clone());
                Ok(Credential::Other(Other::Custom { attach, token }))
            }
        }
    }

    /// Whether the caller has set the credential itself.
    pub(crate) fn is_set<B>(&self, head: &Request<B>) -> bool {
        match &self.0 {
            Form::Header { name, .. } => head.headers().contains_key(name),
            Form::Basic => head.headers().contains_key(AUTHORIZATION),
            Form::Query(name) => query::has(head.uri(), name),
            Form::Custom(_) => false,
        }
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Header { name, scheme } => {
                f.debug_struct("Header").field("name", name).field("scheme", scheme).finish()
            }
            Form::Basic => f.write_str("Basic"),
            Form::Query(name) => f.debug_tuple("Query").field(name).finish(),
            Form::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}

/// What is sent with one token, ready to be put on any number of requests.
#[derive(Clone)]
pub(crate) enum Credential {
    Header { name: HeaderName, value: HeaderValue },
    Other(Other),
}

#[derive(Clone)]
pub(crate) enum Other {
    Query { name: Arc<str>, pair: Secret },
    Custom { attach: Arc<Custom>, token: Token },
    Missing,
}

impl Credential {
    /// Puts the credential on a request, unless the caller has set one: then it is false, and nothing has changed. After
    /// an error the request must not be sent.
    #[inline]
    pub(crate) fn attach<B>(&self, request: &mut Request<B>) -> Result<bool, Error> {
        match self {
            Credential::Header { name, value } => insert(request.headers_mut(), name, value).map_err(no_room),
            Credential::Other(other) => other.attach(request),
        }
    }

    /// Of a token that is only promised: whoever looks at its expiry does not come as far as to attach this.
    pub(crate) fn missing() -> Self {
        Credential::Other(Other::Missing)
    }

    fn header(name: &HeaderName, text: Zeroizing<String>) -> Self {
        Credential::Header { name: name.clone(), value: secret::header_value(text) }
    }
}

impl Other {
    // Out of line, so that the way of a header stays short.
    #[inline(never)]
    fn attach<B>(&self, request: &mut Request<B>) -> Result<bool, Error> {
        match self {
            Other::Query { name, pair } => append(request.uri_mut(), name, pair),
            Other::Custom { attach, token } => {
                with_head(request, |head| attach(head, token)).map(|()| true).map_err(|cause| {
                    let failed = "the custom placement could not attach the token";
                    Error::with_cause(ErrorKind::InvalidValue, failed, cause)
                })
            }
            Other::Missing => Err(Error::new(
                ErrorKind::SessionChanged,
                "somebody has logged in with a refresh token, which no access token has been got for yet",
            )),
        }
    }
}

/// False if there is one of that name, which is left as it was.
#[inline(never)]
fn insert(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) -> Result<bool, MaxSizeReached> {
    // Looking it up beforehand would cost as much as the insertion. What was replaced can be put back only
    // where it was all there was under its name.
    let has_repeated_names = headers.len() > headers.keys_len();
    if has_repeated_names && headers.contains_key(name) {
        return Ok(false);
    }
    let own = match headers.try_insert(name, value.clone()) {
        Ok(None) => return Ok(true),
        Ok(Some(own)) => own,
        // It looks for room first, and for the name then.
        Err(_) if headers.contains_key(name) => return Ok(false),
        Err(full) => return Err(full),
    };
    headers.insert(name.clone(), own);
    Ok(false)
}

#[cold]
fn no_room(_: MaxSizeReached) -> Error {
    Error::unfit("the head has no room for another header")
}

/// False if there is one of that name.
fn append(uri: &mut Uri, name: &str, pair: &Secret) -> Result<bool, Error> {
    if query::has(uri, name) {
        return Ok(false);
    }
    let unfit = "the URI cannot take the query parameter: it is too long or has no path";
    *uri = query::with(uri, pair.expose().as_bytes()).map_err(|_| Error::unfit(unfit))?;
    Ok(true)
}

/// Lends the head of a request to what takes one without a body.
#[inline(never)]
fn with_head<B, T>(request: &mut Request<B>, work: impl FnOnce(&mut Request<()>) -> T) -> T {
    let mut head = Request::new(());
    swap_heads(request, &mut head);
    let done = work(&mut head);
    swap_heads(request, &mut head);
    done
}

fn swap_heads<A, B>(one: &mut Request<A>, other: &mut Request<B>) {
    mem::swap(one.method_mut(), other.method_mut());
    mem::swap(one.uri_mut(), other.uri_mut());
    mem::swap(one.version_mut(), other.version_mut());
    mem::swap(one.headers_mut(), other.headers_mut());
    mem::swap(one.extensions_mut(), other.extensions_mut());
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

fn header_name(name: impl TryInto<HeaderName>) -> Result<HeaderName, Error> {
    let name = name
        .try_into()
        .map_err(|_| Error::unfit("a header name must be letters, digits and !#$%&'*+-.^_`|~"))?;
    let of_http = "this header is HTTP's own: it says where a message goes or where it ends";
    Error::require(!OF_HTTP.contains(&name), of_http)?;
    Ok(name)
}

const OF_HTTP: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::UPGRADE,
];
