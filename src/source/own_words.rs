use std::{error::Error, fmt};

/// A cause in our own words, which hold no secret.
#[derive(Debug)]
pub(crate) struct OwnWords(pub(crate) &'static str);

impl fmt::Display for OwnWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for OwnWords {}
