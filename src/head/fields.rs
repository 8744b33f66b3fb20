//! Header fields as text: one after the other, each behind the lengths of its name and its value.

use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroize;

/// Longer values are better shared than copied.
const LONG: usize = 1024;
/// Room for the fields of most requests.
const ROOM: usize = 512;

/// Writes them into an empty buffer. False, and nothing is left in it, if a value had better be shared than copied: because
/// it is sensitive, or long.
pub(super) fn write(map: &HeaderMap, text: &mut Vec<u8>) -> bool {
    for (name, value) in map {
        if value.is_sensitive() || value.len() > LONG {
            text.zeroize();
            return false;
        }
        push(text, name.as_str().as_bytes(), value.as_bytes());
    }
    true
}

/// A name is never longer than 64 KiB.
fn push(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let needed = 4 + name.len() + value.len();
    if text.capacity() - text.len() < needed {
        // A buffer that grew by itself would leave a copy of its text behind.
        let mut larger = Vec::with_capacity(ROOM.max(2 * (text.len() + needed)));
        larger.extend_from_slice(text);
        mem::replace(text, larger).zeroize();
    }
    let ([a, b], [c, d]) = ((name.len() as u16).to_ne_bytes(), (value.len() as u16).to_ne_bytes());
    text.extend_from_slice(&[a, b, c, d]);
    text.extend_from_slice(name);
    text.extend_from_slice(value);
}

/// The fields that were written, in the same order.
pub(super) fn read(mut text: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    while let Some((&[a, b, c, d], rest)) = text.split_first_chunk() {
        let (name, rest) = rest.split_at(u16::from_ne_bytes([a, b]).into());
        let (value, rest) = rest.split_at(u16::from_ne_bytes([c, d]).into());
        map.append(
            HeaderName::from_bytes(name).expect("it was a name"),
            HeaderValue::from_bytes(value).expect("it was a value"),
        );
        text = rest;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        map
    }

    fn read_back(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        let mut text = Vec::new();
        assert!(write(map, &mut text));
        read(&text).iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_was_written_is_read_back_in_the_same_order() {
        let long = vec![b'x'; LONG];
        let map = map(&[
            ("accept", b"a/b"),
            ("x-own", b""),
            ("cookie", b"a=1"),
            ("accept", b"c/d"),
            ("x-bytes", b"\xff\xfe\t"),
            ("cookie", b"b=2"),
            ("x-long", long.leak()),
        ]);
        let before: Vec<_> =
            map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        assert_eq!(read_back(&map), before);
        assert_eq!(read_back(&HeaderMap::new()), []);
    }

    #[test]
    fn a_sensitive_or_long_value_is_not_copied() {
        let mut sensitive = HeaderValue::from_static("canary");
        sensitive.set_sensitive(true);
        let long = HeaderValue::from_bytes(&[b'x'; LONG + 1]).expect("a value");
        for value in [sensitive, long] {
            let mut map = map(&[("accept", b"a/b")]);
            map.insert("x-own", value);
            let mut text = Vec::new();
            assert!(!write(&map, &mut text));
            assert_eq!(text, b"", "nothing is left of the fields before it");
        }
    }
}
