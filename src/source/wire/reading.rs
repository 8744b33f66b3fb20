use super::{
    answer::Answer,
    failure::{self, GivenCodes, Grant},
    fields::JsonAnswer,
};
use crate::{source::FetchError, token::Token};

/// How a source reads what it is answered.
#[derive(Clone, Default)]
pub(in crate::source) struct Reading {
    pub(in crate::source) fields: JsonAnswer,
    pub(in crate::source) codes: GivenCodes,
}

impl Reading {
    /// The token, or what its absence means.
    pub(super) fn token(&self, grant: Grant, answer: &Answer) -> Result<Token, FetchError> {
        let Some(token) = answer.success().and_then(|document| self.fields.token(document)) else {
            let of_a_refresh = answer.success().filter(|_| grant == Grant::Refresh);
            let refresh_token = of_a_refresh.and_then(|document| self.fields.refresh_token_alone(document));
            let failure = failure::of_answer(&self.fields, &self.codes, grant, answer);
            return Err(failure.with_refresh_token(refresh_token));
        };
        Ok(match grant {
            // Nobody presents one that an application is handed all the same (RFC 6749 §4.4.3): it would be taken for
            // spent when the next one comes.
            Grant::Client => token.without_refresh_token(),
            // After a login the old refresh token is another's.
            _ if grant.is_of_a_user() && token.refresh().is_none() => token.without_refresh_token(),
            // After a refresh it is kept, if the answer speaks of none.
            _ => token,
        })
    }
}
