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
//! What is sent is built once for each token and shared by all requests; the header value is marked sensitive, so
//! that HTTP/2 keeps it out of its tables and `Debug` does not show it. A request that carries the header or the
//! parameter already is the caller's own affair and left alone.
//!
//! The type that an authority calls a token by ([`Token::kind`]) changes nothing. RFC 6749 §7.1 wants a client to use no token whose
//! type it does not understand, but servers are careless with `token_type`, which is of no use for telling them apart. A `DPoP` or
//! `mac` token thus goes out as the placement says, as `Bearer` mostly, and the server refuses it: such types need a proof for each
//! request, which a placement of your own or a layer below would have to make.
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
    /// logging layers outside this one.
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
    /// cause of ours; it should not hold the token. It sees every request: whether the caller has set a credential
    /// is its to decide. One that it leaves alone is taken for the session's all the same: its refusal has the token
    /// refreshed. Mark such requests with [`NoToken`](crate::NoToken) instead.
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
    let Some(own) = headers.try_insert(name, value.clone())? else { return Ok(true) };
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

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use base64::{Engine, prelude::BASE64_STANDARD};
    use http::{HeaderMap, Method, Uri, Version};

    use super::*;

    fn request(uri: &str) -> Request<()> {
        Request::builder().uri(uri).body(()).unwrap()
    }

    fn credential(placement: &Placement, token: &str) -> Credential {
        placement.prepare(&Token::new(token)).unwrap()
    }

    fn attached(placement: &Placement, token: &str, mut request: Request<()>) -> Request<()> {
        credential(placement, token).attach(&mut request).unwrap();
        request
    }

    fn forms() -> [Placement; 5] {
        [
            Placement::bearer(),
            Placement::basic(),
            Placement::header("x-api-key").unwrap(),
            Placement::header_with_scheme(AUTHORIZATION, "Token").unwrap(),
            Placement::query("access_token").unwrap(),
        ]
    }

    #[test]
    fn the_header_is_written_exactly_so() {
        let api_key = Placement::header("X-API-Key").unwrap();
        let token = Placement::header_with_scheme("Authorization", "Token").unwrap();
        for (placement, name, value) in [
            (Placement::bearer(), "authorization", "Bearer t"),
            (Placement::basic(), "authorization", "Basic dDo="),
            (api_key, "x-api-key", "t"),
            (token, "authorization", "Token t"),
        ] {
            let request = attached(&placement, "t", request("https://api.example.com/"));
            let expected =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            assert_eq!(*request.headers(), expected);
        }
    }

    #[test]
    fn basic_is_the_token_as_a_user_name_in_padded_standard_base64() {
        for (token, value) in [
            ("T", "Basic VDo="),
            ("NEW2", "Basic TkVXMjo="),
            ("ab", "Basic YWI6"),
            ("~~~?>", "Basic fn5+Pz46"),
        ] {
            let request = attached(&Placement::basic(), token, request("/"));
            assert_eq!(request.headers()[AUTHORIZATION], value);
        }
        let long = "x".repeat(5000);
        let request = attached(&Placement::basic(), &long, request("/"));
        let value = request.headers()[AUTHORIZATION].to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(value).unwrap(), format!("{long}:").into_bytes());
    }

    #[test]
    fn basic_refuses_a_token_with_a_colon() {
        let error = Placement::basic().prepare(&Token::new("user:word")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(Placement::bearer().prepare(&Token::new("user:word")).is_ok());
    }

    #[test]
    fn an_empty_token_is_an_error_and_not_an_empty_credential() {
        for placement in forms().into_iter().chain([Placement::custom(|_, _| Ok(()))]) {
            let error = placement.prepare(&Token::new("")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{placement:?}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_or_invisible_bytes_is_an_error_that_does_not_show_it() {
        for bad in ["\r\n", "\n", "\0", "\t", " ", "\u{7f}", "\u{e9}", "\u{200b}"] {
            let token = Token::new(format!("canary{bad}canary"));
            for placement in forms() {
                let error = placement.prepare(&token).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidValue, "{placement:?} {bad:?}");
                assert!(!format!("{error} {error:?} {:?}", error.source()).contains("canary"));
            }
        }
    }

    #[test]
    fn the_header_value_is_built_once_shared_and_sensitive() {
        let credential = credential(&Placement::bearer(), "canary");
        let [mut first, mut second] = [request("/"), request("/")];
        credential.attach(&mut first).unwrap();
        credential.clone().attach(&mut second).unwrap();
        let [first, second] = [&first.headers()[AUTHORIZATION], &second.headers()[AUTHORIZATION]];
        assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr(), "one buffer");
        assert!(first.is_sensitive() && second.is_sensitive());
    }

    #[test]
    fn a_header_of_the_callers_own_is_left_as_it_was_and_so_are_the_others() {
        let token = credential(&Placement::bearer(), "canary");
        for own in [&["Bearer a"][..], &["Bearer a", "Bearer b"]] {
            for others in [&[][..], &["1"], &["1", "2"]] {
                let mut request = request("/");
                let headers = request.headers_mut();
                headers.append("x-before", HeaderValue::from_static("0"));
                for value in own {
                    headers.append(AUTHORIZATION, HeaderValue::from_static(value));
                }
                for value in others {
                    headers.append("x-other", HeaderValue::from_static(value));
                }
                let before = headers.clone();
                assert!(!token.attach(&mut request).unwrap());
                assert!(request.headers().iter().eq(&before), "{own:?} {others:?}");

                request.headers_mut().remove(AUTHORIZATION);
                let before = request.headers().clone();
                assert!(token.attach(&mut request).unwrap());
                assert_eq!(request.headers_mut().remove(AUTHORIZATION).unwrap(), "Bearer canary");
                assert_eq!(*request.headers(), before);
            }
        }
    }

    #[test]
    fn the_query_parameter_comes_last_and_the_others_keep_their_bytes_and_order() {
        let placement = Placement::query("access_token").unwrap();
        for (before, after) in [
            ("https://a.example", "https://a.example/?access_token=T"),
            ("https://a.example/p", "https://a.example/p?access_token=T"),
            ("https://a.example/p?", "https://a.example/p?access_token=T"),
            ("/p?b=2&a=1&b=%7e+", "/p?b=2&a=1&b=%7e+&access_token=T"),
            (
                "/p?access_token2=x&xaccess_token=y&Access_Token=z",
                "/p?access_token2=x&xaccess_token=y&Access_Token=z&access_token=T",
            ),
            ("/p?a&&b=&", "/p?a&&b=&&access_token=T"),
            ("/p?%zz%4=%", "/p?%zz%4=%&access_token=T"),
        ] {
            assert_eq!(attached(&placement, "T", request(before)).uri().to_string(), after, "{before}");
        }
        for own in [
            "/p?access_token=old",
            "/p?access_token",
            "/p?b=2&access_token=old&a=1&access_token=older",
            "/p?b&access%5ftoken=old&%61ccess_token=x",
        ] {
            let mut request = request(own);
            assert!(!credential(&placement, "T").attach(&mut request).unwrap());
            assert_eq!(request.uri(), own, "left alone");
        }
    }

    #[test]
    fn name_and_value_of_the_query_parameter_are_percent_encoded() {
        let placement = Placement::query("my key+é").unwrap();
        let once = attached(&placement, "a+b/c=&#%?~-._", request("/p?x=1"));
        assert_eq!(once.uri(), "/p?x=1&my%20key%2B%C3%A9=a%2Bb%2Fc%3D%26%23%25%3F~-._");
        assert!(placement.is_set(&once));
        assert!(placement.is_set(&request("/p?my+key%2b%c3%a9")));
    }

    #[test]
    fn a_uri_that_cannot_take_the_parameter_is_an_error_that_does_not_show_the_token() {
        let credential = credential(&Placement::query("key").unwrap(), "canary");
        for uri in ["*".to_owned(), "api.example.com:443".to_owned(), format!("/{}", "x".repeat(65_530))] {
            let mut request = request(&uri);
            let error = credential.attach(&mut request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue);
            assert!(!format!("{error} {error:?} {:?}", error.source()).contains("canary"));
            assert_eq!(request.uri().to_string(), uri, "unchanged");
        }
    }

    #[test]
    fn a_credential_of_the_callers_own_is_noticed() {
        let [bearer, basic, api_key, token, query] = forms();
        let with = |name: &'static str| Request::builder().header(name, "mine").body(()).unwrap();
        for (placement, name) in [
            (bearer, "authorization"),
            (basic, "authorization"),
            (api_key, "x-api-key"),
            (token, "authorization"),
        ] {
            assert!(placement.is_set(&with(name)), "{placement:?}");
            assert!(!placement.is_set(&with("x-other")), "{placement:?}");
        }
        for (uri, set) in [
            ("/?access_token=mine", true),
            ("/?a=b&access%5Ftoken=", true),
            ("/?access_token", true),
            ("/?a=access_token", false),
            ("/access_token", false),
        ] {
            assert_eq!(query.is_set(&request(uri)), set, "{uri}");
        }
    }

    #[test]
    fn a_custom_placement_sees_and_changes_the_whole_head_and_nothing_else() {
        let placement = Placement::custom(|head, token| {
            assert_eq!(
                (head.method(), head.uri().path(), head.version()),
                (&Method::PUT, "/p", Version::HTTP_2)
            );
            assert_eq!(
                (head.headers()["x-other"].as_bytes(), head.extensions().get()),
                (&b"1"[..], Some(&7_u8))
            );
            let value = HeaderValue::from_str(token.access().expose())?;
            head.headers_mut().insert("x-custom", value);
            head.extensions_mut().insert("seen");
            Ok(())
        });
        let mut request = request("/p");
        *request.method_mut() = Method::PUT;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert("x-other", HeaderValue::from_static("1"));
        request.extensions_mut().insert(7_u8);

        let request = attached(&placement, "t", request);

        assert_eq!(
            (request.method(), request.uri(), request.version()),
            (&Method::PUT, &Uri::from_static("/p"), Version::HTTP_2)
        );
        assert_eq!(
            (&request.headers()["x-other"], &request.headers()["x-custom"]),
            (&HeaderValue::from_static("1"), &HeaderValue::from_static("t"))
        );
        assert_eq!((request.extensions().get(), request.extensions().get()), (Some(&7_u8), Some(&"seen")));
    }

    #[test]
    fn an_error_of_a_custom_placement_is_the_cause_and_leaves_the_request_whole() {
        let credential = credential(&Placement::custom(|_, _| Err("no key at hand".into())), "canary");
        let mut request = request("/p");
        let error = credential.attach(&mut request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert_eq!(error.source().unwrap().to_string(), "no key at hand");
        assert_eq!(request.uri().path(), "/p");
    }

    #[test]
    fn a_custom_placement_may_take_a_token_of_any_text() {
        let token = Token::new("{\"id\": \"é\"}\n");
        assert!(Placement::custom(|_, _| Ok(())).prepare(&token).is_ok());
    }

    #[test]
    fn an_unfit_name_is_refused_when_the_placement_is_built() {
        for name in ["", "x api", "x:api", "é", "x\r\n"] {
            assert_eq!(Placement::header(name).unwrap_err().kind(), ErrorKind::InvalidValue, "{name:?}");
            assert_eq!(
                Placement::header_with_scheme("x-api", name).unwrap_err().kind(),
                ErrorKind::InvalidValue,
                "{name:?}"
            );
        }
        assert_eq!(Placement::query("").unwrap_err().kind(), ErrorKind::InvalidValue);
    }

    #[test]
    fn debug_shows_no_token() {
        for placement in forms().into_iter().chain([Placement::custom(|_, _| Ok(()))]) {
            let credential = credential(&placement, "canary");
            assert_eq!(format!("{credential:?}"), "Credential(..)");
            let mut request = request("/");
            credential.attach(&mut request).unwrap();
            assert!(!format!("{:?}", request.headers()).contains("canary"), "{placement:?}");
        }
    }
}
