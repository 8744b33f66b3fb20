//! Inputs that look like an HTTP answer, so that seeds can be read and dictionaries bite.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

/// ```text
/// 400 words that say more
/// header: value
///
/// body
/// ```
///
/// What cannot be read as a status is 200; header lines that are none are left out.
#[derive(Clone)]
pub(crate) struct Message<'a> {
    pub(crate) status: StatusCode,
    words: Vec<&'a [u8]>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn parse(input: &'a [u8]) -> Self {
        let (first, mut rest) = split(input, b'\n');
        let mut words = first.split(|&byte| byte == b' ');
        let status = words.next().and_then(|word| StatusCode::from_bytes(word).ok()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        loop {
            let (line, after) = split(rest, b'\n');
            rest = after;
            if line.is_empty() {
                break;
            }
            let Some(at) = line.iter().position(|&byte| byte == b':') else { continue };
            let name = HeaderName::from_bytes(&line[..at]);
            let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii_start());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        Message { status, words: words.collect(), headers, body: rest }
    }

    /// Whether the first line has this word.
    pub(crate) fn says(&self, word: &str) -> bool {
        self.words.contains(&word.as_bytes())
    }
}

/// The content type without its parameters, which may be any bytes, in lower case.
pub(crate) fn essence(headers: &HeaderMap) -> Option<String> {
    let (essence, _parameters) = split(headers.get(CONTENT_TYPE)?.as_bytes(), b';');
    Some(std::str::from_utf8(essence).ok()?.trim().to_ascii_lowercase())
}

fn split(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == at).unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}
