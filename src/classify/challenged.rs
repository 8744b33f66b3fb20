use super::{
    Answer, Challenge, Classify, Verdict,
    challenge::is_token,
    standard::{by_status, judge},
};
use crate::error::Error;

/// Only what a challenge of our scheme says: for servers that challenge by the book, and hosts that several kinds of
/// credentials share.
///
/// 1. Any status but 401 and 403 → [`Accept`](Verdict::Accept).
/// 2. Only challenges of the scheme count and, where a realm is given, of exactly this realm (RFC 9110 §11.5). None
///    of them → `Accept`.
/// 3. With error codes given: one of them in a challenge that counts → [`Reject`](Verdict::Reject), else `Accept`.
/// 4. Otherwise as [`Standard`](super::Standard), over the challenges that count.
///
/// ```
/// use tower_token_refresh::classify::Challenged;
///
/// let orders = Challenged::new("Bearer")?.realm("orders");
/// let by_the_book = Challenged::new("Bearer")?.error("invalid_token");
/// # let _ = (orders, by_the_book);
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
///
/// Do not list a code that asks for another *kind* of token: a source is not told of the challenge. So claims challenges
/// (`insufficient_claims`, Microsoft's CAE) cannot be answered.
#[derive(Clone, Debug)]
pub struct Challenged {
    scheme: String,
    realm: Option<String>,
    errors: Vec<String>,
}

impl Challenged {
    /// Listens to challenges of this scheme, in any case.
    ///
    /// # Errors
    ///
    /// A scheme must be a token (RFC 9110 §5.6.2): letters, digits and ``!#$%&'*+-.^_`|~``.
    pub fn new(scheme: impl Into<String>) -> Result<Self, Error> {
        let scheme = scheme.into();
        let otherwise = "a scheme must be one word of letters, digits and !#$%&'*+-.^_`|~";
        Error::require(is_token(&scheme), otherwise)?;
        Ok(Challenged { scheme, realm: None, errors: Vec::new() })
    }

    /// Listens only to challenges with this realm.
    #[must_use]
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Refuses this error code; once one is given, no other answer is refused.
    #[must_use]
    pub fn error(mut self, code: impl Into<String>) -> Self {
        self.errors.push(code.into());
        self
    }

    fn counts(&self, challenge: &Challenge<'_>) -> bool {
        challenge.is(&self.scheme)
            && (self.realm.is_none() || challenge.param("realm") == self.realm.as_deref())
    }

    fn lists(&self, challenge: &Challenge<'_>) -> bool {
        challenge.param("error").is_some_and(|code| self.errors.iter().any(|listed| listed == code))
    }
}

impl Classify for Challenged {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        let verdict = by_status(answer.status());
        if verdict == Verdict::Accept {
            return verdict;
        }
        let mut ours = answer.challenges().filter(|challenge| self.counts(challenge)).peekable();
        if !self.errors.is_empty() {
            if ours.any(|challenge| self.lists(&challenge)) { Verdict::Reject } else { Verdict::Accept }
        } else if ours.peek().is_some() {
            judge(verdict, ours)
        } else {
            Verdict::Accept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::verdict,
        Challenged,
        Verdict::{self, Accept, Reject, Suspect},
    };
    use crate::error::ErrorKind;

    #[track_caller]
    fn check(classifier: &Challenged, table: &[(u16, &[&str], Verdict)]) {
        for (status, challenges, expected) in table {
            assert_eq!(verdict(classifier, *status, challenges), *expected, "{status} {challenges:?}");
        }
    }

    #[test]
    fn the_strict_mode_accepts_a_401_without_a_challenge_of_the_scheme() {
        check(
            &Challenged::new("Bearer").unwrap(),
            &[
                (401, &[], Accept),
                (401, &[r#"Basic realm="x""#], Accept),
                (401, &[r#"Basic error="invalid_token""#], Accept),
                (401, &["bearer"], Reject),
                (403, &["Basic, BEARER"], Suspect),
                (403, &["Bearer error=invalid_token"], Reject),
                (403, &["Bearer error=insufficient_scope"], Accept),
                (407, &["Bearer error=invalid_token"], Accept),
                (400, &["Bearer error=invalid_token"], Accept),
            ],
        );
    }

    #[test]
    fn a_challenge_for_another_realm_is_not_ours() {
        check(
            &Challenged::new("Bearer").unwrap().realm("orders"),
            &[
                (401, &[r#"Bearer realm="orders""#], Reject),
                (401, &[r#"Bearer realm="Orders""#], Accept),
                (401, &[r#"Bearer realm="stock", error="invalid_token""#], Accept),
                (401, &["Bearer error=invalid_token"], Accept),
                (403, &[r#"Bearer realm="stock", error="invalid_token", Bearer realm=orders"#], Suspect),
            ],
        );
    }

    #[test]
    fn only_the_listed_error_codes_count_once_one_is_listed() {
        check(
            &Challenged::new("Bearer").unwrap().error("invalid_token").error("insufficient_claims"),
            &[
                (401, &[r#"PoP a=b, Bearer error="insufficient_claims", claims="e30=""#], Reject),
                (401, &[r#"Bearer realm="a", Bearer realm="b", error="invalid_token""#], Reject),
                (403, &["Bearer error=invalid_token"], Reject),
                (401, &["Bearer"], Accept),
                (401, &["Bearer error=invalid_request"], Accept),
                (401, &["DPoP error=invalid_token, Bearer"], Accept),
                (500, &["Bearer error=invalid_token"], Accept),
            ],
        );
    }

    #[test]
    fn a_scheme_that_is_no_token_is_refused() {
        for scheme in ["", "Bearer ", "a b", "Bearer:", "é"] {
            assert_eq!(Challenged::new(scheme).unwrap_err().kind(), ErrorKind::InvalidValue, "{scheme:?}");
        }
    }
}
