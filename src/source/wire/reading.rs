use super::{
    answer::Answer,
    failure::{self, Codes, Grant},
    fields::JsonAnswer,
};
use crate::{source::FetchError, token::Token};

/// How a source reads what it is answered.
#[derive(Clone, Default)]
pub(in crate::source) struct Reading {
    pub(in crate::source) answer: JsonAnswer,
    pub(in crate::source) codes: Codes,
}

impl Reading {
    /// The token, or what its absence means.
    pub(super) fn token(&self, grant: Grant, answer: &Answer) -> Result<Token, FetchError> {
        let Some(token) = answer.success().and_then(|document| self.answer.token(document)) else {
            return Err(failure::of_answer(&self.answer, &self.codes, grant, answer));
        };
        // After a refresh the old refresh token is kept, if the answer speaks of none; after a login it is another's.
        Ok(if grant != Grant::Refresh && token.refresh().is_none() {
            token.without_refresh_token()
        } else {
            token
        })
    }
}
