//! JSON as servers write it.

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The text behind a byte order mark, if it has one (RFC 8259 §8.1).
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Whether a text is a JSON pointer (RFC 6901) to something in the document.
pub(crate) fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|after| after.starts_with(['0', '1']))
}

/// Whether a text in the place of an error code says that there is none: 0, which some put in quotes, or blank.
pub(crate) fn is_no_code(text: &str) -> bool {
    text.trim().bytes().all(|byte| byte == b'0')
}

/// What a text says; `None` if it is not JSON. A byte order mark is skipped. What is damaged is replaced by U+FFFD,
/// because a description must not hide the code beside it: what is not UTF-8, half of a surrogate pair (JavaScript
/// writes it where it has cut a text), and a control character in quotes, which some servers do not escape.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    let text = without_mark(text);
    serde_json::from_slice(text)
        .or_else(|_| serde_json::from_slice(&mended(Zeroizing::new(text.to_vec()))))
        .ok()
        .or_else(|| {
            std::str::from_utf8(text).err()?;
            FIRST_BYTES.into_iter().find_map(|is_first| {
                serde_json::from_slice(&mended(without_second_backslashes(text, is_first))).ok()
            })
        })
}

/// Takes the place of a byte that is no text where it stands: none in UTF-8.
const NO_TEXT: u8 = 0xff;

/// Which bytes are the first of two, in charsets whose second may be a backslash.
const FIRST_BYTES: [fn(u8) -> bool; 2] = [
    // Big5 and GBK.
    |byte| !byte.is_ascii(),
    // Shift_JIS, where half-width katakana are whole.
    |byte| matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
];

fn mended(mut text: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    spoil_control_characters(&mut text);
    // Enough for all, so that no copy of a secret is left behind by growing.
    let mut mended = Zeroizing::new(Vec::with_capacity(text.len() * char::REPLACEMENT_CHARACTER.len_utf8()));
    for chunk in text.utf8_chunks() {
        mended.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            mended.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    replace_half_pairs(&mut mended);
    mended
}

/// A text in a charset of two bytes without the backslashes that are the second byte of a character.
fn without_second_backslashes(text: &[u8], is_first: fn(u8) -> bool) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(text.to_vec());
    let mut is_after_first = false;
    for byte in text.iter_mut() {
        let is_second = is_after_first && *byte >= 0x40;
        is_after_first = !is_second && is_first(*byte);
        if is_second && *byte == b'\\' {
            *byte = NO_TEXT;
        }
    }
    text
}

/// Spoils the control characters in quotes, which had to be escaped (RFC 8259 §7).
fn spoil_control_characters(text: &mut [u8]) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            0..0x20 if is_quoted => *byte = NO_TEXT,
            _ => {}
        }
    }
}

/// Replaces escapes of surrogates that have no partner by those of U+FFFD, which are as long.
fn replace_half_pairs(text: &mut [u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        rest = &mut rest[at..];
        let length = match (escaped(rest), rest.get(6..).and_then(escaped)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                rest[2..6].copy_from_slice(b"fffd");
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2.min(rest.len()),
        };
        rest = &mut rest[length..];
    }
}

/// The unit of UTF-16 that is escaped at the beginning of a text.
fn escaped(text: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\u")?.get(..4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}
