use std::fmt;

use http::Uri;

use crate::{
    error::Error,
    source::{
        AuthorityClient, Verification,
        wire::{
            json::{self, Json, Pointer},
            post,
        },
    },
    token::Token,
};

/// The question whether a stored token is still good: `POST {"token": …}`, answered by `{"isValid": true}`.
///
/// Only a boolean in a success is an answer; anything else counts as [`Unknown`](crate::source::Verification::Unknown). A
/// URL to which an [`AuthorityClient`] sends no credentials is not asked, and no error says so.
#[derive(Clone)]
#[must_use]
pub struct JsonVerify {
    url: Uri,
    field: String,
    valid: Pointer,
}

impl JsonVerify {
    /// The question at this URL.
    pub fn new(url: Uri) -> Self {
        JsonVerify { url, field: "token".to_owned(), valid: Pointer::member("isValid") }
    }

    /// The name of the token in the question.
    pub fn field(mut self, name: &str) -> Self {
        self.field = name.to_owned();
        self
    }

    /// Where in the answer the boolean is, as a JSON pointer (RFC 6901).
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn valid(mut self, pointer: &str) -> Result<Self, Error> {
        self.valid = Pointer::parse(pointer)?;
        Ok(self)
    }

    pub(super) async fn ask(&self, client: &AuthorityClient, token: &Token) -> Verification {
        let member = [(self.field.as_str(), token.access().expose())].into_iter();
        let request = post(&self.url, json::MEDIA_TYPE, json::object(member, &[]));
        let Ok(answer) = client.call(request, false).await else { return Verification::Unknown };
        match answer.success().and_then(|document| document.at(&self.valid)).and_then(Json::bool) {
            Some(true) => Verification::Valid,
            Some(false) => Verification::Invalid,
            None => Verification::Unknown,
        }
    }
}

impl fmt::Debug for JsonVerify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonVerify").field("host", &self.url.host()).finish_non_exhaustive()
    }
}
