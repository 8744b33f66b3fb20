//! Text that must not be seen.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

/// A token, refresh token, password or code.
///
/// Clones share one buffer, which is overwritten with zeros when the last of them is dropped. `Debug` prints
/// `Secret(..)`; there is no `Display`, no `PartialEq` and no serialisation, so that the text leaves through
/// [`expose`](Secret::expose) only.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// The text itself. Every use of it is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both hold the same text.
    pub(crate) fn same_as(&self, other: &Secret) -> bool {
        *self.0 == *other.0
    }

    /// Whether one of them holds the same text.
    pub(crate) fn is_among(&self, others: &[Secret]) -> bool {
        others.iter().any(|other| self.same_as(other))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(Arc::new(Zeroizing::new(text)))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Secret {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&Secret> for Secret {
    fn from(secret: &Secret) -> Self {
        secret.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A header value of visible ASCII characters and spaces, marked sensitive. Its clones share the text, which is overwritten
/// when the last of them is dropped.
pub(crate) fn header_value(text: Zeroizing<String>) -> HeaderValue {
    let text = Bytes::from_owner(text);
    let mut value = HeaderValue::from_maybe_shared(text).expect("visible ASCII is a header value");
    value.set_sensitive(true);
    value
}

/// `Basic …` of a user name and a password with a colon between them (RFC 7617).
pub(crate) fn basic(user_and_password: &[u8]) -> Zeroizing<String> {
    // Large enough at once: a buffer that grows leaves a copy of its text behind, unzeroized.
    let mut text = Zeroizing::new(String::with_capacity(8 + 2 * user_and_password.len()));
    text.push_str("Basic ");
    BASE64_STANDARD.encode_string(user_and_password, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_text() {
        assert_eq!(format!("{:?}", Secret::from("canary")), "Secret(..)");
    }
}
