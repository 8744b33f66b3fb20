use std::{fmt, sync::Arc};

use http::StatusCode;

use super::{Answer, Classify, Verdict};
use crate::error::Error;

/// Response extension: the error code that a layer below found in the answer's body.
///
/// A number or a text, as the server wrote it: `42001` and `"42001"` are two codes. Absent where there is no evidence
/// of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Integer(i64),
    Text(Arc<str>),
}

impl ErrorCode {
    /// The code, if the server wrote a number.
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Kind::Integer(code) => Some(code),
            Kind::Text(_) => None,
        }
    }

    /// The code, if the server wrote a text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Kind::Integer(_) => None,
            Kind::Text(code) => Some(code),
        }
    }
}

impl From<i64> for ErrorCode {
    fn from(code: i64) -> Self {
        ErrorCode(Kind::Integer(code))
    }
}

impl From<i32> for ErrorCode {
    fn from(code: i32) -> Self {
        i64::from(code).into()
    }
}

impl From<u32> for ErrorCode {
    fn from(code: u32) -> Self {
        i64::from(code).into()
    }
}

impl From<String> for ErrorCode {
    fn from(code: String) -> Self {
        code.as_str().into()
    }
}

impl From<&str> for ErrorCode {
    fn from(code: &str) -> Self {
        ErrorCode(Kind::Text(code.into()))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Integer(code) => code.fmt(f),
            Kind::Text(code) => code.fmt(f),
        }
    }
}

/// Exactly these [`ErrorCode`]s, at any status, 200 included.
///
/// 1. No code, or one outside the set → [`Accept`](Verdict::Accept).
/// 2. A status other than those of [`at`](Codes::at), if it was called → `Accept`.
/// 3. Otherwise → the verdict given.
///
/// The code has to be there: put a [`JsonCodeLayer`](crate::peek) below. That layer ignores `0`, `"0"` and blank texts, so
/// codes like these never match.
///
/// ```
/// use tower_token_refresh::classify::{Classify, Codes, Statuses};
///
/// let wechat = Codes::reject([40001, 40014, 42001])?.at([200])?;
/// let slack = Codes::reject(["token_expired"])?;
/// // Any 401, but of the 403s only those with this code: the others are a lack of permission.
/// let with_permissions = Statuses::reject([401])?.or(Codes::reject([10006])?.at([403])?);
/// # let _ = (wechat, slack, with_permissions);
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Codes {
    codes: Vec<ErrorCode>,
    /// `None`: any.
    statuses: Option<Vec<StatusCode>>,
    verdict: Verdict,
}

impl Codes {
    /// Each of these codes says that the token is bad ([`Verdict::Reject`]).
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an empty set, which would never refresh.
    pub fn reject<I>(codes: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: Into<ErrorCode>>,
    {
        Self::new(codes, Verdict::Reject)
    }

    /// Each of these codes says that the token may be bad ([`Verdict::Suspect`]).
    ///
    /// # Errors
    ///
    /// As [`reject`](Codes::reject).
    pub fn suspect<I>(codes: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: Into<ErrorCode>>,
    {
        Self::new(codes, Verdict::Suspect)
    }

    /// Only at these statuses.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an empty set and for a number that is no status.
    pub fn at<I>(mut self, statuses: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item: TryInto<StatusCode>>,
    {
        self.statuses = Some(status_set(statuses)?);
        Ok(self)
    }

    fn new<I>(codes: I, verdict: Verdict) -> Result<Self, Error>
    where
        I: IntoIterator<Item: Into<ErrorCode>>,
    {
        let codes: Vec<_> = codes.into_iter().map(Into::into).collect();
        Error::require(!codes.is_empty(), "a set of refused codes needs at least one code")?;
        Ok(Codes { codes, statuses: None, verdict })
    }
}

impl Classify for Codes {
    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        let is_ours = answer.extensions().get().is_some_and(|code| self.codes.contains(code));
        let is_here = self.statuses.as_ref().is_none_or(|statuses| statuses.contains(&answer.status()));
        if is_ours && is_here { self.verdict } else { Verdict::Accept }
    }
}

/// The statuses at which something is looked for.
pub(crate) fn status_set<I>(statuses: I) -> Result<Vec<StatusCode>, Error>
where
    I: IntoIterator<Item: TryInto<StatusCode>>,
{
    let statuses: Option<Vec<_>> = statuses.into_iter().map(|status| status.try_into().ok()).collect();
    statuses
        .filter(|statuses| !statuses.is_empty())
        .ok_or_else(|| Error::unfit("at least one status is needed, each of 100 to 999"))
}

#[cfg(test)]
mod tests {
    use http::{Method, Response, Uri};

    use super::*;
    use crate::error::ErrorKind;

    fn verdict(classifier: &dyn Classify, status: u16, code: impl Into<Option<ErrorCode>>) -> Verdict {
        let mut response = Response::builder().status(status).body(()).unwrap();
        if let Some(code) = code.into() {
            response.extensions_mut().insert(code);
        }
        classifier.classify(&Answer::new(&Method::GET, &Uri::from_static("/"), 1, &response))
    }

    #[test]
    fn a_code_of_the_set_refuses_at_any_status() {
        let codes = Codes::reject([40014, 42001]).unwrap();
        for status in [200, 400, 403, 500] {
            assert_eq!(verdict(&codes, status, ErrorCode::from(42001)), Verdict::Reject, "{status}");
            assert_eq!(verdict(&codes, status, ErrorCode::from(42002)), Verdict::Accept, "{status}");
            assert_eq!(verdict(&codes, status, None), Verdict::Accept, "{status}");
        }
    }

    #[test]
    fn a_code_counts_at_the_statuses_given_only() {
        let codes = Codes::suspect([10006]).unwrap().at([403, 200]).unwrap();
        for (status, expected) in
            [(403, Verdict::Suspect), (200, Verdict::Suspect), (401, Verdict::Accept), (500, Verdict::Accept)]
        {
            assert_eq!(verdict(&codes, status, ErrorCode::from(10006)), expected, "{status}");
        }
    }

    #[test]
    fn a_number_and_its_digits_are_two_codes() {
        let (number, text) = (Codes::reject([42001]).unwrap(), Codes::reject(["42001"]).unwrap());
        assert_eq!(verdict(&number, 200, ErrorCode::from("42001")), Verdict::Accept);
        assert_eq!(verdict(&text, 200, ErrorCode::from(42001)), Verdict::Accept);
        assert_eq!(verdict(&text, 200, ErrorCode::from("42001")), Verdict::Reject);
        assert_eq!((ErrorCode::from(7_i64).as_i64(), ErrorCode::from(7).as_str()), (Some(7), None));
        assert_eq!((ErrorCode::from("7").as_i64(), ErrorCode::from("7").as_str()), (None, Some("7")));
        let from_settings = (ErrorCode::from(7_u32), ErrorCode::from("7".to_owned()));
        assert_eq!(from_settings, (ErrorCode::from(7), ErrorCode::from("7")));
        assert_eq!(
            (ErrorCode::from(-7).to_string(), ErrorCode::from("x").to_string()),
            ("-7".into(), "x".into())
        );
    }

    #[test]
    fn codes_combine_with_statuses_and_the_standard_rules() {
        use super::super::{Standard, Statuses};

        let forbidden = Statuses::reject([403]).unwrap().and(Codes::reject([10006]).unwrap());
        assert_eq!(verdict(&forbidden, 403, ErrorCode::from(10006)), Verdict::Reject);
        assert_eq!(verdict(&forbidden, 403, ErrorCode::from(10007)), Verdict::Accept);
        assert_eq!(verdict(&forbidden, 401, ErrorCode::from(10006)), Verdict::Accept);
        let either = Standard.or(Codes::reject([10006]).unwrap());
        assert_eq!(verdict(&either, 403, None), Verdict::Suspect);
        assert_eq!(verdict(&either, 403, ErrorCode::from(10006)), Verdict::Reject);
    }

    #[test]
    fn a_set_that_never_matches_is_refused() {
        for error in [
            Codes::reject([0_i32; 0]).unwrap_err(),
            Codes::suspect(<[&str; 0]>::default()).unwrap_err(),
            Codes::reject([1]).unwrap().at([0_u16; 0]).unwrap_err(),
            Codes::reject([1]).unwrap().at([200, 99]).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidValue);
            assert!(error.to_string().contains("at least one"));
        }
    }
}
