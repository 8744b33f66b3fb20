//! Who may see the credential.

use http::Uri;
use tower_token_refresh::{Origin, Scope};

use crate::{plain::plain, runtime::run, shown::send};

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
            let read = plain(origin).expect("an origin has a scheme, a host and a port");
            assert!(read.scheme == "https" || read.is_loopback(), "{origin}");
            assert_eq!(parsed.to_string().parse::<Origin>().unwrap(), parsed);
            assert_eq!(plain(&parsed.to_string()), Some(read));
            Scope::from(parsed)
        }
        Err(_) => match Origin::danger_plain_http(origin) {
            Ok(origin) => Scope::from(origin),
            Err(_) => return,
        },
    };
    let Ok(parsed) = uri.parse::<Uri>() else { return };
    let is_same = plain(uri).is_some_and(|there| Some(there) == plain(origin));
    assert_eq!(scope.contains(&parsed), is_same, "{origin:?} and {uri:?}");
    run(send(scope, None, parsed, is_same));
}
