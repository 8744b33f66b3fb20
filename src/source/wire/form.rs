//! `application/x-www-form-urlencoded`.

use zeroize::Zeroizing;

use super::json::Json;
use crate::query;

pub(in crate::source) const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The text of a form with these pairs, in this order.
pub(in crate::source) fn encode<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Zeroizing<Vec<u8>> {
    // Enough for all, so that no copy of a secret is left behind by growing.
    let capacity = pairs.clone().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push(b'&');
        }
        push(&mut text, name);
        text.push(b'=');
        push(&mut text, value);
    }
    text
}

/// Appends one name or value. A tilde stays as it is, though browsers encode it: everybody who decodes a form reads it
/// so, and so does who takes a client's secret in `Basic` credentials for what it is, without decoding it (RFC 6749
/// §2.3.1).
pub(in crate::source) fn push(text: &mut Vec<u8>, value: &str) {
    for &byte in value.as_bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'*' | b'-' | b'.' | b'_' | b'~' => text.push(byte),
            b' ' => text.push(b'+'),
            _ => text.extend_from_slice(&query::escape(byte)),
        }
    }
}

/// A form as an object of texts. As in JSON, what is not UTF-8 is replaced, so that it harms nothing beside it. A line break
/// at the end is not the last value's.
pub(super) fn decode(form: &[u8]) -> Json {
    let mut members = Vec::new();
    for pair in form.trim_ascii().split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (name, value) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
        members.push((decoded(name), Json::Text(Zeroizing::new(decoded(value)))));
    }
    Json::object(members)
}

fn decoded(text: &[u8]) -> String {
    // Enough for all, as above.
    let mut bytes = Vec::with_capacity(text.len());
    bytes.extend(query::decode(text));
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = Zeroizing::new(error.into_bytes());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::wire::json::Pointer;

    #[test]
    fn a_form_is_encoded_byte_by_byte() {
        let text = encode([("a b", "é&=+%"), ("c", "*-._~")].into_iter());
        assert_eq!(String::from_utf8(text.to_vec()).unwrap(), "a+b=%C3%A9%26%3D%2B%25&c=*-._~");
    }

    #[test]
    fn a_form_is_decoded_and_what_stands_twice_is_of_no_use() {
        let form = decode(b"a=x+%C3%A9&b&=c&");
        assert_eq!(form.at(&Pointer::member("a")).and_then(Json::text), Some("x é"));
        let twice = decode(b"a=1&a=1&b=2");
        assert!(twice.at(&Pointer::member("a")).is_some_and(|value| value.text().is_none()));
        assert_eq!(twice.at(&Pointer::member("b")).and_then(Json::text), Some("2"));
        for (odd, read) in [("%E9x", "\u{fffd}x"), ("%zz%4", "%zz%4"), ("%", "%"), ("\u{e9}", "\u{e9}")] {
            let form = decode(format!("a={odd}&b=2").as_bytes());
            assert_eq!(form.at(&Pointer::member("a")).and_then(Json::text), Some(read));
            assert_eq!(form.at(&Pointer::member("b")).and_then(Json::text), Some("2"));
        }
    }
}
