//! What a token endpoint may answer.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Map, Value};
use tower::service_fn;
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchError, Session, Token,
    source::{
        AuthorityClient, Content, Credentials, Password,
        oauth2::{ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant, TokenEndpoint},
    },
    store::{MemoryStore, StoredToken, TokenStore},
    test_util::TestClock,
};

use crate::{
    message::{Message, essence},
    runtime::run,
    steps::{Step, Steps, steps},
};

const LIMIT: usize = 256;
const OLD: (&str, &str) = ("old-access", "old-refresh");
const LONGEST_WAIT: Duration = Duration::from_secs(600);
const BETWEEN_PASSWORDS: Duration = Duration::from_secs(300);
/// Codes that ask for another time.
const LATER: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];
const CODES: [&str; 7] = [
    "invalid_grant",
    "access_denied",
    "mfa_required",
    "interaction_required",
    "login_required",
    "account_selection_required",
    "consent_required",
];

/// The input is a [`Message`] whose body is [`steps`]: the answer to a refresh, or to another grant that its first
/// line names.
///
/// 1. A token comes of a success only, and of one that another reading finds a token in; then it is what is stored.
/// 2. Nothing else changes what is stored, but the refresh token of a refresh whose access token is of no use. Only a
///    refusal that another reading understands ends the session.
/// 3. The errors show nothing of the refresh token.
/// 4. The session that has not ended gets its token later; one that has does not ask.
/// 5. What is written in the plainest way is a token exactly if the documentation says so; with an access token that stands twice it
///    never is.
pub fn answers(input: &[u8]) {
    let message = Message::parse(input);
    let body = Steps { left: steps(message.body), tells: message.says("sized") };
    let grant = Grant::of(&message);
    let document = document(&message, &body);
    let is_token = run(refresh(&message, grant, body, &document));

    let Some(document) = document else { return };
    let said = token(&document).filter(|_| message.status.is_success());
    assert!(!is_token || said.is_some());
    for (content_type, once, twice) in [plainest_json(&document), plainest_form(&document)] {
        if once.len() > LIMIT {
            continue;
        }
        let mut message = message.clone();
        message.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        // A form has texts only.
        let document = self::document(&message, &whole(&once));
        let said = document.as_ref().and_then(token).filter(|_| message.status.is_success());
        let is_token = run(refresh(&message, grant, whole(&once), &document));
        assert_eq!(is_token, said.is_some_and(|(access, _)| is_sendable(access)), "{document:?}");
        assert!(!run(refresh(&message, grant, whole(&twice), &document)), "{document:?}");
    }
}

/// The content type; the document as it is, and with an access token too many.
type Plainest = (&'static str, Vec<u8>, Vec<u8>);

fn plainest_json(document: &Map<String, Value>) -> Plainest {
    let once = serde_json::to_vec(document).unwrap();
    let more = br#"{"access_token":"one","access_token":"two""#;
    let rest = if document.is_empty() { b"}" } else { &[b",", &once[1..]].concat()[..] };
    let twice = [more, rest].concat();
    ("application/json", once, twice)
}

fn plainest_form(document: &Map<String, Value>) -> Plainest {
    let texts = document.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
    let once = form_urlencoded::Serializer::new(String::new()).extend_pairs(texts).finish().into_bytes();
    let twice = [b"access_token=one&access_token=two&", &*once].concat();
    ("application/x-www-form-urlencoded", once, twice)
}

fn whole(bytes: &[u8]) -> Steps {
    Steps { left: [Step::Data(Bytes::copy_from_slice(bytes))].into(), tells: true }
}

#[derive(Clone, Copy, PartialEq)]
enum Grant {
    Refresh,
    Client,
    User,
    Login,
}

impl Grant {
    fn of(message: &Message<'_>) -> Self {
        match () {
            () if message.says("client") => Grant::Client,
            () if message.says("user") => Grant::User,
            () if message.says("login") => Grant::Login,
            () => Grant::Refresh,
        }
    }

    fn session(self, client: AuthorityClient, store: MemoryStore, clock: TestClock) -> Session {
        let url = "https://id.test/token".parse().unwrap();
        let alice = || std::future::ready(Ok::<_, FetchError>(Credentials::new("alice", "wonderland")));
        let builder = if self == Grant::Login {
            Session::builder(Password::new(client, url, alice))
        } else {
            let endpoint = TokenEndpoint::new(client, url).dead_codes(["gone"]).blocked_codes(["banned"]);
            match self {
                Grant::Client => Session::builder(ClientCredentialsGrant::new(endpoint)),
                Grant::User => Session::builder(PasswordGrant::new(endpoint, alice)),
                _ => Session::builder(RefreshTokenGrant::new(endpoint)),
            }
        };
        builder.store(store).clock(clock).build()
    }
}

/// Whether the answer was taken for a token.
async fn refresh(
    message: &Message<'_>,
    grant: Grant,
    body: Steps,
    document: &Option<Map<String, Value>>,
) -> bool {
    let mut first = Response::new(body.clone());
    *first.status_mut() = message.status;
    *first.headers_mut() = message.headers.clone();
    let asked = Arc::new(Mutex::new(0));
    let authority = {
        let asked = asked.clone();
        service_fn(move |request: Request<Content>| {
            drop(Bytes::from(request.into_body()));
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            let answer = if *asked == 1 { first.clone() } else { good() };
            std::future::ready(Ok::<_, BoxError>(answer))
        })
    };
    let client = AuthorityClient::new(authority).response_limit(LIMIT).unwrap();
    let (store, clock) = (MemoryStore::new(), TestClock::new());
    let session = grant.session(client, store.clone(), clock.clone());
    session.login(Token::new(OLD.0).refresh_token(OLD.1)).await.unwrap();

    let result = session.refresh().await;
    assert_eq!(*asked.lock().unwrap(), 1);
    let stored = stored(&store).await;
    match &result {
        Ok(token) => {
            assert!(message.status.is_success());
            let (access, refresh) = self::token(document.as_ref().unwrap()).unwrap();
            assert_eq!(token.access().expose(), access);
            let kept = (grant == Grant::Refresh).then_some(OLD.1);
            let refresh = refresh.filter(|_| grant != Grant::Client).or(kept);
            assert_eq!(stored, (access.to_owned(), refresh.map(str::to_owned)));
        }
        Err(error) if error.kind() == ErrorKind::InvalidValue => {
            let (access, refresh) = self::token(document.as_ref().unwrap()).unwrap();
            assert!(message.status.is_success() && !is_sendable(access));
            let refresh = refresh.filter(|_| grant != Grant::Client).unwrap_or(OLD.1);
            assert_eq!(stored, (OLD.0.to_owned(), Some(refresh.to_owned())));
        }
        Err(error) => {
            let alone = document.as_ref().and_then(refresh_token);
            let alone = alone.filter(|_| message.status.is_success() && grant == Grant::Refresh);
            let refresh = stored.1.as_deref().filter(|_| stored.0 == OLD.0);
            assert!(refresh == Some(OLD.1) || (refresh.is_some() && refresh == alone));
            read(error, message, grant, document, &body);
        }
    }

    clock.advance(Duration::from_secs(3600));
    let has_ended = result.as_ref().is_err_and(Error::is_login_required);
    match session.refresh().await {
        Ok(token) => assert!(!has_ended && token.access().expose() == "good"),
        Err(error) => assert!(has_ended && error.is_login_required()),
    }
    assert_eq!(*asked.lock().unwrap(), if has_ended { 1 } else { 2 });
    result.is_ok()
}

/// Whether a failure may be what it says it is.
fn read(
    error: &Error,
    message: &Message<'_>,
    grant: Grant,
    document: &Option<Map<String, Value>>,
    body: &Steps,
) {
    let status = message.status;
    let code = document.as_ref().and_then(|document| code(document.get("error")?)).unwrap_or_default();
    let code = code.as_str();
    let is_whole = has_come(body);
    match error.kind() {
        ErrorKind::LoginRequired => {
            // Those, and a proxy's word.
            let is_busy = [
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                StatusCode::REQUEST_TIMEOUT,
                StatusCode::TOO_EARLY,
                StatusCode::TOO_MANY_REQUESTS,
            ]
            .contains(&status);
            let is_told = status.is_success() && !code.is_empty() || status.is_client_error() && !is_busy;
            // A 4xx refuses a user without a word, too.
            let is_refused = match grant {
                Grant::Refresh => {
                    status.is_client_error() && CODES.contains(&code) || code == "invalid_grant"
                }
                Grant::Client => false,
                Grant::User | Grant::Login => {
                    let is_of_the_server = code == "server_error"
                        && [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
                    !LATER.contains(&code) || is_of_the_server
                }
            };
            let is_named = grant != Grant::Login && ["gone", "banned"].contains(&code);
            assert!(is_whole && is_told && (is_refused || is_named), "{status} {code:?}");
        }
        ErrorKind::Configuration => {
            let is_of_a_login = grant == Grant::User && status.is_success() && !code.is_empty();
            assert!(is_whole && (status.is_client_error() || is_of_a_login), "{status} {code:?}");
        }
        ErrorKind::Transient => {}
        kind => panic!("{kind:?} of {status}"),
    }

    // These count although the rest breaks off.
    let says_it_all = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ]
    .contains(&status);
    let wait = message.headers.get(header::RETRY_AFTER).filter(|_| is_whole || says_it_all);
    let may_have_refused_a_password =
        matches!(grant, Grant::User | Grant::Login) && error.kind() == ErrorKind::Transient;
    let own = error.retry_after().filter(|wait| may_have_refused_a_password && *wait == BETWEEN_PASSWORDS);
    assert!(error.retry_after().is_none() || wait.is_some() || own.is_some());
    let seconds =
        wait.and_then(|wait| wait.to_str().ok()).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    if let Some(seconds) = seconds.and_then(|text| text.parse().ok()) {
        assert_eq!(error.retry_after(), own.max(Some(Duration::from_secs(seconds).min(LONGEST_WAIT))));
    }

    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = link {
        assert!(!format!("{error} {error:?}").contains(OLD.1));
        link = error.source();
    }
}

/// A text, or an integer in digits that is not 0.
fn code(value: &Value) -> Option<String> {
    let digits = |number: &f64| *number != 0.0 && number.fract() == 0.0;
    value.as_str().map(str::to_owned).or_else(|| value.as_f64().filter(digits).map(|code| code.to_string()))
}

/// Whether the body breaks only where it is not read any more, if at all.
fn has_come(body: &Steps) -> bool {
    let mut length = 0;
    for step in &body.left {
        match step {
            Step::Data(data) => length += data.len(),
            Step::Fail => return false,
            Step::Trailers(_) | Step::Wait => {}
        }
        if length > LIMIT {
            break;
        }
    }
    true
}

/// The object that another reading finds in the answer. Where a name stands twice it is a guess.
fn document(message: &Message<'_>, body: &Steps) -> Option<Map<String, Value>> {
    let mut text = Vec::new();
    for step in &body.left {
        match step {
            Step::Data(data) => text.extend_from_slice(data),
            Step::Fail => return None,
            Step::Trailers(_) | Step::Wait => {}
        }
    }
    if text.len() > LIMIT {
        return None;
    }
    let essence = essence(&message.headers);
    let text = without_mark(&text);
    let is_json = text.trim_ascii_start().starts_with(b"{");
    if essence.as_deref() == Some("application/x-www-form-urlencoded") && !is_json {
        let pairs = form_urlencoded::parse(text.trim_ascii());
        return Some(
            pairs.map(|(name, value)| (name.into_owned(), Value::from(value.into_owned()))).collect(),
        );
    }
    match json(text) {
        Some(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// Another reading of JSON behind a mark, with texts that are damaged.
pub(crate) fn json(text: &[u8]) -> Option<Value> {
    let text = without_mark(text);
    repaired(text).or_else(|| {
        std::str::from_utf8(text).err()?;
        let big5_or_gbk = || repaired(&of_two_bytes(text, &[0x80..=0xff]));
        big5_or_gbk().or_else(|| repaired(&of_two_bytes(text, &[0x81..=0x9f, 0xe0..=0xfc])))
    })
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn repaired(text: &[u8]) -> Option<Value> {
    let mut text = without_controls(&String::from_utf8_lossy(text));
    loop {
        match serde_json::from_str(&text) {
            Ok(value) => return Some(value),
            Err(_) => text = without_a_half_pair(&text)?,
        }
    }
}

/// The text without what must not stand between two quotes.
fn without_controls(text: &str) -> String {
    let mut is_quoted = false;
    let pieces = text.split('"').map(|piece| {
        let shown = if is_quoted { piece.replace(|c| c < ' ', "\u{fffd}") } else { piece.to_owned() };
        let backslashes = piece.chars().rev().take_while(|c| *c == '\\').count();
        is_quoted ^= backslashes % 2 == 0;
        shown
    });
    pieces.collect::<Vec<_>>().join("\"")
}

/// The text without those characters of two bytes of which the second is a backslash.
fn of_two_bytes(mut text: &[u8], first: &[RangeInclusive<u8>]) -> Vec<u8> {
    let mut shown = Vec::new();
    while !text.is_empty() {
        let is_first = |byte| first.iter().any(|range| range.contains(byte));
        let length = if matches!(text, [byte, 0x40..=0xff, ..] if is_first(byte)) { 2 } else { 1 };
        let (character, rest) = text.split_at(length);
        shown.extend_from_slice(if matches!(character, [_, b'\\']) { b"\xff\xff" } else { character });
        text = rest;
    }
    shown
}

/// The text without the first escape that is half of a surrogate pair: it stands for one character that is no text.
fn without_a_half_pair(text: &str) -> Option<String> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let is_escape = |at: usize| {
        let before = units[..at].iter().rev().take_while(|unit| **unit == u16::from(b'\\')).count();
        before % 2 == 0 && units.get(at..at + 2) == Some(&[u16::from(b'\\'), u16::from(b'u')])
    };
    let unit = |at: usize| {
        let digits = String::from_utf16(units.get(at + 2..at + 6)?).ok()?;
        u16::from_str_radix(&digits, 16).ok().filter(|_| is_escape(at))
    };
    let is_high = |at| matches!(unit(at), Some(0xd800..=0xdbff));
    let is_low = |at| matches!(unit(at), Some(0xdc00..=0xdfff));
    let half = (0..units.len()).find(|&at| {
        is_high(at) && !is_low(at + 6) || is_low(at) && !at.checked_sub(6).is_some_and(is_high)
    })?;
    String::from_utf16(&[&units[..half], &[0xfffd], &units[half + 6..]].concat()).ok()
}

/// Access and refresh token of RFC 6749 §5.1, of a document that says nothing against itself and came undamaged.
fn token(document: &Map<String, Value>) -> Option<(&str, Option<&str>)> {
    let (access, refresh) = (part(document, "access_token")?, part(document, "refresh_token")?);
    let is_token = !access.is_empty() && part(document, "token_type").is_some() && says_no_error(document);
    is_token.then_some((access, Some(refresh).filter(|refresh| !refresh.is_empty())))
}

/// The refresh token of such a document, whatever stands beside it.
fn refresh_token(document: &Map<String, Value>) -> Option<&str> {
    part(document, "refresh_token").filter(|refresh| !refresh.is_empty() && says_no_error(document))
}

fn part<'a>(document: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    match document.get(name) {
        None | Some(Value::Null) => Some(""),
        Some(value) => value.as_str().filter(|text| !text.contains(char::REPLACEMENT_CHARACTER)),
    }
}

fn says_no_error(document: &Map<String, Value>) -> bool {
    let says_so = document.get("error").is_some_and(|error| *error == false || error.as_f64() == Some(0.0));
    says_so || part(document, "error").is_some_and(str::is_empty)
}

async fn stored(store: &MemoryStore) -> (String, Option<String>) {
    let StoredToken { access, refresh, .. } = store.load().await.unwrap().unwrap().token.unwrap();
    (access.expose().to_owned(), refresh.map(|refresh| refresh.expose().to_owned()))
}

fn good() -> Response<Steps> {
    Response::new(whole(br#"{"access_token":"good"}"#))
}

fn is_sendable(access: &str) -> bool {
    access.bytes().all(|byte| byte.is_ascii_graphic())
}
