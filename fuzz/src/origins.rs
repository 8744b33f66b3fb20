//! Who may see the credential.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use http::{Request, Response, StatusCode, Uri, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Origin, ReplayBody, Scope, Session, Token, TokenRefreshLayer,
    source_fn,
};

use crate::runtime::run;

/// The first line is an origin, the second the URI of a request.
///
/// 1. The URI is in the origin's scope exactly if a naive reading of both texts finds the same scheme, host and port,
///    and no user information.
/// 2. Plain `http` parses for this machine only, and an origin that is printed is read back.
/// 3. A request shows the credential, and its refusal is refreshed, exactly if its URI is in the scope.
pub fn origins(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (origin, uri) = text.split_once('\n').unwrap_or((text, text));
    let scope = match origin.parse::<Origin>() {
        Ok(parsed) => {
            let plain = plain(origin).expect("an origin has a scheme, a host and a port");
            assert!(plain.scheme == "https" || plain.is_loopback(), "{origin}");
            assert_eq!(parsed.to_string().parse::<Origin>().unwrap(), parsed);
            assert_eq!(self::plain(&parsed.to_string()), Some(plain));
            Scope::from(parsed)
        }
        Err(_) => match Scope::danger_plain_http(origin) {
            Ok(scope) => scope,
            Err(_) => return,
        },
    };
    let Ok(parsed) = uri.parse::<Uri>() else { return };
    let is_same = plain(uri).is_some_and(|there| Some(there) == plain(origin));
    assert_eq!(scope.contains(&parsed), is_same, "{origin:?} and {uri:?}");
    run(send(scope, parsed, is_same));
}

async fn send(scope: Scope, uri: Uri, is_in_scope: bool) {
    let source = source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("second")) });
    let session = Session::builder(source).build();
    session.login(Token::new("first")).await.unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let shown = shown.clone();
        service_fn(move |request: Request<ReplayBody<String>>| {
            let credentials = request.headers().get(header::AUTHORIZATION).cloned();
            shown.lock().unwrap().push(credentials);
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            std::future::ready(Ok::<_, BoxError>(response))
        })
    };
    let mut request = Request::new(String::new());
    *request.uri_mut() = uri;
    TokenRefreshLayer::new(session.clone(), scope).layer(server).oneshot(request).await.unwrap();
    let shown: Vec<_> =
        shown.lock().unwrap().iter().map(|it| it.clone().map(|it| it.as_bytes().to_vec())).collect();
    if is_in_scope {
        assert_eq!(shown, [Some(b"Bearer first".to_vec()), Some(b"Bearer second".to_vec())]);
    } else {
        assert_eq!(shown, [None]);
        assert_eq!(session.token().await.unwrap().access().expose(), "first");
    }
}

#[derive(Debug, PartialEq)]
struct Plain {
    scheme: String,
    host: String,
    port: u16,
}

impl Plain {
    fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host == Ipv6Addr::LOCALHOST.to_string()
            || self.host.parse::<Ipv4Addr>().is_ok_and(|address| address.octets()[0] == 127)
    }
}

/// Cuts a text where a person would. `None`: it is not `scheme://host`, `scheme://host:port` and what may follow.
fn plain(text: &str) -> Option<Plain> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_lowercase();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.to_string(), port)
        }
        None => match authority.find(':') {
            Some(at) => (authority[..at].to_lowercase(), &authority[at..]),
            None => (authority.to_lowercase(), ""),
        },
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some("") => default,
        Some(digits) if digits.chars().all(|digit| digit.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some(Plain { scheme, host, port })
}
