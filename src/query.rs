//! Queries of URIs, and the percent-encoding that they share with forms.

use std::iter;

use http::{Uri, uri::PathAndQuery};
use zeroize::Zeroizing;

use crate::secret::Secret;

// The buffers are made large enough at once: one that grows leaves a copy of its text behind, unzeroized.

/// The URI with this text behind what is in its query.
pub(crate) fn with(uri: &Uri, more: &[u8]) -> Result<Uri, http::Error> {
    let own = uri.query().unwrap_or_default();
    let mut text = Zeroizing::new(Vec::with_capacity(uri.path().len() + own.len() + more.len() + 2));
    text.extend_from_slice(uri.path().as_bytes());
    text.push(b'?');
    text.extend_from_slice(own.as_bytes());
    if !own.is_empty() {
        text.push(b'&');
    }
    text.extend_from_slice(more);
    with_path_and_query(uri, &text)
}

/// The URI with this path and query in the place of its own.
pub(crate) fn with_path_and_query(uri: &Uri, text: &[u8]) -> Result<Uri, http::Error> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text)?);
    Ok(Uri::from_parts(parts)?)
}

/// Whether there is a parameter of this name, however it is encoded.
pub(crate) fn has(uri: &Uri, name: &str) -> bool {
    let is_named = |pair: &str| {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        decode(key.as_bytes()).eq(name.bytes())
    };
    uri.query().is_some_and(|query| query.split('&').any(is_named))
}

/// `name=value`, with everything but the unreserved characters of RFC 3986 §2.3 percent-encoded.
pub(crate) fn pair(name: &str, value: &str) -> Secret {
    let mut pair = String::with_capacity(3 * name.len() + 1 + 3 * value.len());
    percent_encode(name, &mut pair);
    pair.push('=');
    percent_encode(value, &mut pair);
    pair.into()
}

fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.extend(escape(byte).map(char::from));
        }
    }
}

/// A byte as `%` and its two digits.
pub(crate) fn escape(byte: u8) -> [u8; 3] {
    let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
    [b'%', digit(byte >> 4), digit(byte & 15)]
}

/// As servers read queries and forms: `+` is a space, and a `%` without two hexadecimal digits stands for itself.
pub(crate) fn decode(text: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut rest = text.iter().copied();
    iter::from_fn(move || {
        let byte = rest.next()?;
        if byte == b'%' {
            let mut ahead = rest.clone();
            if let (Some(high), Some(low)) = (ahead.next().and_then(digit), ahead.next().and_then(digit)) {
                rest = ahead;
                return Some(high << 4 | low);
            }
        }
        Some(if byte == b'+' { b' ' } else { byte })
    })
}
