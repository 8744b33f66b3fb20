//! Text that must not be seen.

use std::{fmt, sync::Arc};

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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_text() {
        assert_eq!(format!("{:?}", Secret::from("canary")), "Secret(..)");
    }
}
