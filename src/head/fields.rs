//! Header fields, kept without an allocation of their own.

use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroize;

/// The fields of a request. A clone of a `HeaderMap` costs three allocations, and one more for each name and value that
/// was not cloned before; names and short values are copied here instead, one after the other.
#[derive(Default)]
pub(super) struct Fields {
    /// Of each name and its value.
    lengths: Vec<(u32, u32)>,
    /// The names, and the values that were copied. Wiped when it is not needed any more.
    text: Vec<u8>,
    /// The values that are better not copied: sensitive ones, and long ones.
    shared: Vec<HeaderValue>,
}

const LONG: usize = 512;
/// In the place of a value's length.
const SHARED: u32 = u32::MAX;
/// Room for the text of most requests.
const ROOM: usize = 512;

impl Fields {
    /// Writes them down, where there are none so far.
    pub(super) fn write(&mut self, map: &HeaderMap) {
        for (name, value) in map {
            let name = name.as_str().as_bytes();
            if value.is_sensitive() || value.len() > LONG {
                self.push(name, &[]);
                self.shared.push(value.clone());
                self.lengths.push((name.len() as u32, SHARED));
            } else {
                self.push(name, value.as_bytes());
                self.lengths.push((name.len() as u32, value.len() as u32));
            }
        }
    }

    #[inline]
    fn push(&mut self, name: &[u8], value: &[u8]) {
        let more = name.len() + value.len();
        if self.text.capacity() - self.text.len() < more {
            self.grow(more);
        }
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
    }

    /// A buffer that grew by itself would leave a copy of its text behind.
    #[cold]
    fn grow(&mut self, more: usize) {
        let mut larger = Vec::with_capacity(ROOM.max(2 * (self.text.len() + more)));
        larger.extend_from_slice(&self.text);
        mem::replace(&mut self.text, larger).zeroize();
    }

    /// The fields that were written, in the same order.
    pub(super) fn read(&self) -> HeaderMap {
        // More values than there may be names are no mistake: a name may have many.
        let mut map = HeaderMap::try_with_capacity(self.lengths.len()).unwrap_or_default();
        let (mut text, mut shared) = (&*self.text, self.shared.iter());
        let mut next = |length: u32| {
            let (part, rest) = text.split_at(length as usize);
            text = rest;
            part
        };
        for &(name, value) in &self.lengths {
            let name = HeaderName::from_lowercase(next(name)).ok();
            let value = if value == SHARED {
                shared.next().cloned()
            } else {
                HeaderValue::from_bytes(next(value)).ok()
            };
            map.append(name.expect("it was a name before"), value.expect("it was a value before"));
        }
        map
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Forgets them, but keeps the room that they had.
    pub(super) fn clear(&mut self) {
        self.lengths.clear();
        self.shared.clear();
        // An ordinary write, many times faster than `zeroize`. It is not left out, because the buffer outlives it.
        self.text.fill(0);
        self.text.clear();
    }

    /// How much room they have, in bytes.
    pub(super) fn room(&self) -> usize {
        self.text.capacity()
            + self.lengths.capacity() * size_of::<(u32, u32)>()
            + self.shared.capacity() * size_of::<HeaderValue>()
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        map
    }

    fn written(map: &HeaderMap) -> Fields {
        let mut fields = Fields::default();
        fields.write(map);
        fields
    }

    #[test]
    fn what_was_written_is_read_back_in_the_same_order() {
        let (longest, long) = (vec![b'x'; LONG], vec![b'y'; LONG + 1]);
        let map = map(&[
            ("accept", b"a/b"),
            ("x-own", b""),
            ("cookie", b"a=1"),
            ("accept", b"c/d"),
            ("x-bytes", b"\xff\xfe\t"),
            ("x-longest", &longest),
            ("cookie", b"b=2"),
            ("x-long", &long),
            ("x-after", b"1"),
        ]);
        let fields = written(&map);
        let read = fields.read();
        assert!(read.iter().eq(map.iter()), "{read:?}");
        assert_eq!(fields.shared, [long.as_slice()], "only what is too long to copy");
        assert!(written(&HeaderMap::new()).read().is_empty());
    }

    #[test]
    fn whatever_a_map_holds_is_read_back() {
        let every = (0..=u8::MAX).filter_map(|byte| HeaderName::from_lowercase(&[b'x', byte]).ok());
        let mut map: HeaderMap = every.map(|name| (name, HeaderValue::from_static("1"))).collect();
        assert!(map.contains_key(HeaderName::from_static("x\"")), "HTTP/2 allows it, and HTTP/1.1 does not");
        for _ in 0..40_000 {
            map.append("x-many", HeaderValue::from_static("1"));
        }
        assert_eq!(written(&map).read(), map);
    }

    #[test]
    fn a_sensitive_value_is_not_copied_and_stays_sensitive() {
        let mut value = HeaderValue::from_static("canary");
        value.set_sensitive(true);
        let mut map = map(&[("accept", b"a/b")]);
        map.insert("x-own", value);
        let fields = written(&map);
        assert_eq!(fields.text, b"accepta/bx-own");
        assert!(fields.read()["x-own"].is_sensitive());
    }

    #[test]
    fn what_is_cleared_leaves_its_room_and_nothing_else() {
        let map = map(&[("accept", &[b'x'; 300]), ("x-own", &[b'y'; 300])]);
        let mut fields = written(&map);
        let room = fields.room();
        fields.clear();
        assert!(fields.read().is_empty());
        fields.write(&map);
        assert_eq!(fields.room(), room);
        assert_eq!(fields.read(), map);
    }
}
