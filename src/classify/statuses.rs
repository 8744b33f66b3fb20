use http::StatusCode;

use super::{Answer, Classify, Verdict};
use crate::error::Error;

/// Exactly these statuses; the default rules and all challenges are left aside.
///
/// 1. A status of the set → the verdict given.
/// 2. Any other, 401 included → [`Accept`](Verdict::Accept).
///
/// To add statuses to the default write `Standard.or(Statuses::reject([419])?)`.
#[derive(Clone, Debug)]
pub struct Statuses {
    statuses: Vec<StatusCode>,
    verdict: Verdict,
}

impl Statuses {
    /// Each of these statuses says that the token is bad ([`Verdict::Reject`]).
    ///
    /// # Errors
    ///
    /// An empty set would never refresh. A status must be 300 to 599 and not 407: 1xx and 2xx accept a request, and a
    /// 407 is the proxy's. (An error code in the body of a 200 is not the status' evidence: see the
    /// [module docs](super).)
    pub fn reject<I>(statuses: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: TryInto<StatusCode>>,
    {
        Self::new(statuses, Verdict::Reject)
    }

    /// Each of these statuses says that the token may be bad ([`Verdict::Suspect`]).
    ///
    /// # Errors
    ///
    /// As [`reject`](Statuses::reject).
    pub fn suspect<I>(statuses: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: TryInto<StatusCode>>,
    {
        Self::new(statuses, Verdict::Suspect)
    }

    fn new<I>(statuses: I, verdict: Verdict) -> Result<Self, Error>
    where
        I: IntoIterator<Item: TryInto<StatusCode>>,
    {
        let statuses: Option<Vec<StatusCode>> =
            statuses.into_iter().map(|status| status.try_into().ok().filter(can_refuse)).collect();
        let Some(statuses) = statuses else {
            return Err(Error::unfit("a refused status must be 300 to 599 and not 407"));
        };
        Error::require(!statuses.is_empty(), "a set of refused statuses needs at least one status")?;
        Ok(Statuses { statuses, verdict })
    }
}

impl Classify for Statuses {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        if self.statuses.contains(&answer.status()) { self.verdict } else { Verdict::Accept }
    }
}

fn can_refuse(status: &StatusCode) -> bool {
    (300..600).contains(&status.as_u16()) && *status != StatusCode::PROXY_AUTHENTICATION_REQUIRED
}

#[cfg(test)]
mod tests {
    use super::{super::tests::verdict, *};
    use crate::error::ErrorKind;

    #[test]
    fn the_set_replaces_the_default_and_does_not_add_to_it() {
        let classifier = Statuses::reject([403, 419]).unwrap();
        let invalid_token = [r#"Bearer error="invalid_token""#];
        let insufficient_scope = [r#"Bearer error="insufficient_scope""#];
        assert_eq!(verdict(&classifier, 403, &insufficient_scope), Verdict::Reject);
        assert_eq!(verdict(&classifier, 419, &[]), Verdict::Reject);
        assert_eq!(verdict(&classifier, 401, &invalid_token), Verdict::Accept);
        assert_eq!(verdict(&classifier, 500, &[]), Verdict::Accept);
    }

    #[test]
    fn the_verdict_is_the_one_of_the_constructor() {
        assert_eq!(verdict(&Statuses::suspect([StatusCode::FOUND]).unwrap(), 302, &[]), Verdict::Suspect);
        assert_eq!(verdict(&Statuses::reject([StatusCode::FOUND]).unwrap(), 302, &[]), Verdict::Reject);
    }

    #[test]
    fn an_empty_set_is_refused_with_what_is_allowed() {
        let error = Statuses::reject([0_u16; 0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(error.to_string().contains("at least one"));
    }

    #[test]
    fn a_status_that_cannot_refuse_is_refused_with_what_is_allowed() {
        for status in [0, 99, 100, 200, 299, 407, 600, 999, 1000] {
            let error = Statuses::suspect([401, status]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{status}");
            assert!(error.to_string().contains("300 to 599 and not 407"));
        }
        assert!(Statuses::reject([300, 599]).is_ok());
    }
}
