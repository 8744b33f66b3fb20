//! `application/x-www-form-urlencoded`.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::json::Json;

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

/// Appends one name or value.
pub(in crate::source) fn push(text: &mut Vec<u8>, value: &str) {
    for &byte in value.as_bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'*' | b'-' | b'.' | b'_' => text.push(byte),
            b' ' => text.push(b'+'),
            _ => {
                let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
                text.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
}

/// A form as an object of texts. `None` if a name stands twice or a value is not UTF-8.
pub(super) fn decode(form: &[u8]) -> Option<Json> {
    let mut members = BTreeMap::new();
    for pair in form.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (name, value) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
        if members.insert(decoded(name)?, Json::Text(Zeroizing::new(decoded(value)?))).is_some() {
            return None;
        }
    }
    Some(Json::Object(members))
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match (first, tail) {
            (b'%', &[high, low, ref after @ ..]) => {
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            (b'+', _) => b' ',
            _ => first,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::wire::json::Pointer;

    #[test]
    fn a_form_is_encoded_byte_by_byte() {
        let text = encode([("a b", "é&=+%"), ("c", "*-._~")].into_iter());
        assert_eq!(String::from_utf8(text.to_vec()).unwrap(), "a+b=%C3%A9%26%3D%2B%25&c=*-._%7E");
    }

    #[test]
    fn a_form_is_decoded_unless_it_is_ambiguous() {
        let form = decode(b"a=x+%C3%A9&b&=c&").unwrap();
        assert_eq!(form.at(&Pointer::member("a")).and_then(Json::text), Some("x é"));
        assert!(decode(b"a=1&a=1").is_none());
        assert!(decode(b"a=%FF").is_none());
        assert!(decode(b"a=%zz").is_none());
    }
}
