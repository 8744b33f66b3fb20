use http::{HeaderMap, StatusCode};

use super::{Answer, Challenge, Challenges, Classify, Verdict};

/// The default: what RFC 6750 §3.1 and RFC 9110 §15.5 call a refused token.
///
/// 1. Any status but 401 and 403 → [`Accept`](Verdict::Accept). A 407 is the proxy's, a 400 the caller's, a 5xx the
///    server's own affair.
/// 2. A challenge with `error="invalid_token"` → [`Reject`](Verdict::Reject), whatever the other challenges say: the
///    server names what is wrong, and a new token cures it (or lets the other complaint show).
/// 3. A challenge with `insufficient_scope`, `insufficient_user_authentication` (RFC 9470) or `use_dpop_nonce`
///    (RFC 9449) → `Accept`, at 401 too: the token is good, and a new one of the same kind fails the same way.
/// 4. 401 → `Reject`, with or without a challenge and whatever its scheme. ([`Challenged`](super::Challenged) is
///    stricter.)
/// 5. 403 → [`Suspect`](Verdict::Suspect): mostly a lack of permission, but some servers say so of an expired token. A rate
///    limit that is told by a 403, as GitHub's secondary limits are, costs a refresh and a second request. For such servers
///    use [`Statuses::reject([401])`](super::Statuses::reject), or a classifier that looks for `Retry-After`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard;

impl Classify for Standard {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        verdict(answer.status(), answer.headers())
    }
}

/// What [`Standard`] says. Of most answers it reads no more than the status.
#[inline]
pub(crate) fn verdict(status: StatusCode, headers: &HeaderMap) -> Verdict {
    match by_status(status) {
        Verdict::Accept => Verdict::Accept,
        verdict => judge(verdict, Challenges::of(headers)),
    }
}

/// The verdict on an answer without challenges.
pub(super) fn by_status(status: StatusCode) -> Verdict {
    match status {
        StatusCode::UNAUTHORIZED => Verdict::Reject,
        StatusCode::FORBIDDEN => Verdict::Suspect,
        _ => Verdict::Accept,
    }
}

/// What challenges make of the verdict by status.
pub(super) fn judge<'a>(mut verdict: Verdict, challenges: impl Iterator<Item = Challenge<'a>>) -> Verdict {
    for challenge in challenges {
        match challenge.param("error") {
            Some("invalid_token") => return Verdict::Reject,
            Some("insufficient_scope" | "insufficient_user_authentication" | "use_dpop_nonce") => {
                verdict = Verdict::Accept;
            }
            _ => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::verdict,
        Standard,
        Verdict::{self, Accept, Reject, Suspect},
    };

    #[track_caller]
    fn check(table: &[(u16, &[&str], Verdict)]) {
        for (status, challenges, expected) in table {
            assert_eq!(verdict(&Standard, *status, challenges), *expected, "{status} {challenges:?}");
        }
    }

    #[test]
    fn only_401_and_403_speak_of_the_token() {
        for status in 100..=999 {
            let expected = match status {
                401 => Reject,
                403 => Suspect,
                _ => Accept,
            };
            assert_eq!(verdict(&Standard, status, &[]), expected, "{status}");
        }
    }

    #[test]
    fn an_invalid_token_is_rejected_at_401_and_403_only() {
        let invalid_token = r#"Bearer realm="api", error="invalid_token", error_description="it expired""#;
        check(&[
            (401, &[invalid_token], Reject),
            (403, &[invalid_token], Reject),
            (400, &[invalid_token], Accept),
            (407, &[invalid_token], Accept),
            (500, &[invalid_token], Accept),
        ]);
    }

    #[test]
    fn a_lack_of_permission_a_step_up_and_a_nonce_are_no_refusal_of_the_token() {
        for error in ["insufficient_scope", "insufficient_user_authentication", "use_dpop_nonce"] {
            let challenge = format!(r#"Bearer error="{error}", acr_values="mfa", scope="admin""#);
            check(&[(401, &[&challenge], Accept), (403, &[&challenge], Accept)]);
        }
    }

    #[test]
    fn an_invalid_request_at_400_is_no_refusal() {
        check(&[(400, &[r#"Bearer error="invalid_request""#], Accept)]);
    }

    #[test]
    fn a_401_counts_without_a_challenge_and_with_another_scheme() {
        check(&[
            (401, &[], Reject),
            (401, &["Bearer"], Reject),
            (401, &[r#"Basic realm="x""#], Reject),
            (401, &["Bearer error=\"unbalanced"], Reject),
            (401, &[r#"Bearer error="invalid_request""#], Reject),
        ]);
    }

    #[test]
    fn an_invalid_token_outweighs_every_other_error() {
        let (scope, invalid) = (r#"Bearer error="insufficient_scope""#, r#"DPoP error="invalid_token""#);
        check(&[
            (401, &[scope, invalid], Reject),
            (401, &[invalid, scope], Reject),
            (403, &[scope, invalid], Reject),
            (403, &[&format!("{scope}, {invalid}")], Reject),
            (401, &["Bearer", scope], Accept),
            (401, &["Bearer, DPoP error=\"use_dpop_nonce\""], Accept),
        ]);
    }

    #[test]
    fn the_second_of_two_challenges_of_a_scheme_can_decide() {
        check(&[
            (403, &[r#"Bearer realm="a", Bearer realm="b", error="invalid_token""#], Reject),
            (403, &[r#"Bearer realm="a", Bearer realm="b", error="insufficient_scope""#], Accept),
        ]);
    }

    #[test]
    fn a_challenge_with_a_duplicate_error_is_not_listened_to() {
        check(&[(403, &[r#"Bearer error="invalid_token", error="insufficient_scope""#], Suspect)]);
    }
}
