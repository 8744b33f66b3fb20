//! What an answer without a token means for the session: only the authority's parsed word ends it.

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use http::StatusCode;
use zeroize::Zeroizing;

use super::{
    answer::{Answer, asks_for_another_time},
    error::{AuthorityError, BLOCKED, CONFIGURATION, DEAD, INTERACTION, KNOWN, TRANSIENT, UNPROCESSED},
    fields::{BusinessFailure, JsonAnswer},
    retry_after::retry_after,
};
use crate::source::{FetchError, error::BETWEEN_PASSWORDS};

/// What was presented to the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum Grant {
    /// A refresh token.
    Refresh,
    /// The client's own credentials.
    Client,
    /// A user's credentials, at an authority that answers as RFC 6749 says.
    OAuthLogin,
    /// A user's credentials, at any other authority: a refusal that is not understood refuses them, too, because
    /// presenting them over and over locks accounts.
    JsonLogin,
    /// A code for one exchange, at any other authority. The next attempt presents another one, so what is not understood
    /// refuses this code only.
    LoginCode,
}

impl Grant {
    /// Whether a request without an answer may have used up, or counted against, what the next one would present.
    pub(super) fn may_be_spent(self) -> bool {
        !matches!(self, Grant::Client | Grant::LoginCode)
    }

    pub(super) fn is_of_a_user(self) -> bool {
        matches!(self, Grant::OAuthLogin | Grant::JsonLogin | Grant::LoginCode)
    }
}

/// Error codes that the user has given a meaning.
#[derive(Clone, Default)]
pub(in crate::source) struct GivenCodes {
    pub(in crate::source) dead: Vec<String>,
    pub(in crate::source) blocked: Vec<String>,
}

/// The meaning of an answer that brought no token.
pub(super) fn of_answer(
    fields: &JsonAnswer,
    codes: &GivenCodes,
    grant: Grant,
    answer: &Answer,
) -> FetchError {
    let document = answer.document.as_deref();
    let said = document.map(|document| fields.codes(document)).unwrap_or_default();
    let business = document.and_then(|document| fields.business_failure(document));
    let meaning = meaning(codes, grant, answer, &said, business);
    let [code, business_code] = said;
    let is_number = document.is_some_and(|document| fields.code_is_number(document));
    let error = AuthorityError::new(answer, code.or(business_code), is_number);
    let least = matches!(meaning, Meaning::MaybeCounted).then_some(BETWEEN_PASSWORDS);
    let failure = match meaning {
        Meaning::Dead => FetchError::login_required(error),
        Meaning::Final => FetchError::login_required(error).without_fallback(),
        Meaning::Configuration => FetchError::configuration(error),
        // The attempts before may have been refused, which counts for more than that their answers were lost.
        Meaning::OfGateway if answer.is_repeated && grant.is_of_a_user() => FetchError::ambiguous(error),
        // They may have spent what was presented.
        Meaning::Transient | Meaning::NotProcessed | Meaning::OfGateway
            if answer.is_repeated && grant.may_be_spent() =>
        {
            FetchError::unanswered(error)
        }
        Meaning::NotProcessed if !answer.is_repeated => FetchError::transient(error).not_processed(),
        Meaning::Transient | Meaning::NotProcessed => FetchError::transient(error),
        Meaning::Unanswered | Meaning::MaybeCounted => FetchError::unanswered(error),
        // Nothing of a client is spent, and nobody can log in for it: it asks again as after any other failure.
        Meaning::Ambiguous if grant == Grant::Client => FetchError::transient(error),
        Meaning::OfGateway if grant == Grant::Client => FetchError::transient(error).not_processed(),
        Meaning::Ambiguous => FetchError::ambiguous(error),
        Meaning::OfGateway => FetchError::ambiguous(error).not_processed(),
    };
    match retry_after(&answer.headers, SystemTime::now()).max(least) {
        Some(wait) => failure.retry_after(wait),
        None => failure,
    }
}

enum Meaning {
    Dead,
    Final,
    Configuration,
    Transient,
    NotProcessed,
    Unanswered,
    /// The same, and what was presented may have been counted against an account.
    MaybeCounted,
    Ambiguous,
    OfGateway,
}

/// A code that says no more than a status of this class does.
fn is_of_server(code: &str) -> bool {
    code.trim().parse().is_ok_and(|code: u16| (500..600).contains(&code))
}

fn meaning(
    GivenCodes { dead, blocked }: &GivenCodes,
    grant: Grant,
    answer: &Answer,
    said: &[Option<Zeroizing<String>>; 2],
    business: Option<BusinessFailure>,
) -> Meaning {
    let code = said[0].as_deref();
    let is = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code.as_str()));
    let is_configured = |codes: &[String]| said.iter().flatten().any(|code| codes.contains(code));
    let is_user = grant.is_of_a_user();
    // Presented over and over, they may lock an account.
    let is_presented_again = is_user && grant != Grant::LoginCode;
    let is_named =
        is_configured(blocked) || is_configured(dead) || business == Some(BusinessFailure::Transient);
    match answer.status {
        status if asks_for_another_time(status) => Meaning::NotProcessed,
        // At any status: where it says nothing of the grant or the client, what was refused is the token of the layer's
        // session. A number that nobody has named may be the gateway's.
        _ if answer.is_of_layer && !is_named && !KNOWN.into_iter().any(is) => Meaning::OfGateway,
        status if status.is_server_error() && (!grant.may_be_spent() || is(&["temporarily_unavailable"])) => {
            Meaning::Transient
        }
        status if status.is_server_error() => match business {
            // Whoever speaks of codes may have looked at them.
            Some(BusinessFailure::Refused)
                if is_presented_again && !said[1].as_deref().is_some_and(|code| is_of_server(code)) =>
            {
                Meaning::MaybeCounted
            }
            _ => Meaning::Unanswered,
        },
        // Said by a proxy on the way, which knows nothing of grants, and has passed nothing on.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Meaning::OfGateway,
        status if !status.is_success() && !status.is_client_error() => Meaning::Ambiguous,
        // Some authorities refuse with a 200. What the user has said of their codes holds there, too.
        _ if is_configured(blocked) => Meaning::Final,
        _ if is_configured(dead) => Meaning::Dead,
        _ if is(UNPROCESSED) => Meaning::NotProcessed,
        _ if business == Some(BusinessFailure::Transient) => Meaning::Transient,
        _ if business == Some(BusinessFailure::Refused) && is_presented_again => Meaning::Dead,
        _ if business == Some(BusinessFailure::Refused) && grant == Grant::Client => Meaning::Configuration,
        // A code refuses a user's credentials at any status, or they would be presented over and over.
        status if status.is_success() && !(is_user && code.is_some()) => match grant {
            _ if business == Some(BusinessFailure::InWords) && is_presented_again => Meaning::Dead,
            // It may have been a refusal, also where it is a page: a strike.
            _ if is_user => Meaning::Ambiguous,
            // Said by a program that knows of grants, whatever it thinks of statuses.
            Grant::Refresh if is(DEAD) => Meaning::Dead,
            // The refresh token may be spent, and the next one in what is of no use.
            Grant::Refresh
                if answer.is_data() && code.is_none() && business != Some(BusinessFailure::Refused) =>
            {
                Meaning::Unanswered
            }
            _ => Meaning::Transient,
        },
        // Nobody can log in for a client: it asks again until somebody has corrected the set-up.
        _ if grant == Grant::Client && said.iter().any(Option::is_some) && !is(TRANSIENT) => {
            Meaning::Configuration
        }
        _ if is(INTERACTION) || is(BLOCKED) => Meaning::Final,
        // A token endpoint has no such code (RFC 6749 §5.2), and some authorities say it of a wrong password.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_presented_again && is(&["server_error"]) => {
            Meaning::Dead
        }
        _ if is_user && is(&["server_error"]) => Meaning::Ambiguous,
        _ if is(TRANSIENT) => Meaning::Transient,
        _ if grant == Grant::JsonLogin || is(DEAD) => Meaning::Dead,
        _ if is(CONFIGURATION) && grant != Grant::LoginCode => Meaning::Configuration,
        _ if is_presented_again => Meaning::Dead,
        _ => Meaning::Ambiguous,
    }
}
