use std::{fmt, time::Duration};

use zeroize::Zeroizing;

use super::json::{Json, Pointer};
use crate::{error::Error, json, secret::Secret, token::Token};

/// Where the parts of an answer are, as JSON pointers (RFC 6901).
///
/// By default they are where RFC 6749 §5 puts them: `access_token`, `refresh_token`, `expires_in`, `token_type`,
/// `refresh_token_expires_in` or `refresh_expires_in`, and `error`.
///
/// ```
/// use tower_token_refresh::source::JsonAnswer;
///
/// // {"errcode": 0, "data": {"token": "…", "ttl": 7200}}
/// let answer = JsonAnswer::new()
///     .access_token("/data/token")?
///     .expires_in("/data/ttl")?
///     .business_code("/errcode")?
///     .transient_codes([-1, 45011]);
/// # let _ = answer;
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct JsonAnswer {
    access_token: Pointer,
    refresh_token: Pointer,
    expires_in: Pointer,
    default_lifetime: Option<Duration>,
    refresh_expires_in: Vec<Pointer>,
    token_type: Pointer,
    error: Pointer,
    business_code: Option<Pointer>,
    success_codes: Vec<String>,
    transient_codes: Vec<String>,
}

impl JsonAnswer {
    /// The answer of RFC 6749.
    pub fn new() -> Self {
        JsonAnswer {
            access_token: Pointer::member("access_token"),
            refresh_token: Pointer::member("refresh_token"),
            expires_in: Pointer::member("expires_in"),
            default_lifetime: None,
            refresh_expires_in: ["refresh_token_expires_in", "refresh_expires_in"]
                .map(Pointer::member)
                .into(),
            token_type: Pointer::member("token_type"),
            error: Pointer::member("error"),
            business_code: None,
            success_codes: Vec::new(),
            transient_codes: Vec::new(),
        }
    }

    /// Where the access token is.
    ///
    /// # Errors
    ///
    /// As for every pointer here: `InvalidValue` for a text that does not begin with a slash, or has a tilde
    /// without `0` or `1` behind it.
    pub fn access_token(mut self, pointer: &str) -> Result<Self, Error> {
        self.access_token = Pointer::parse(pointer)?;
        Ok(self)
    }

    /// Where the refresh token is.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn refresh_token(mut self, pointer: &str) -> Result<Self, Error> {
        self.refresh_token = Pointer::parse(pointer)?;
        Ok(self)
    }

    /// Where the lifetime of the access token is, in seconds. A number that is missing, zero, negative or unreadable
    /// means *unknown*, or the [`default_lifetime`](Self::default_lifetime) if that is set. A number beyond what a float
    /// holds (`1e400`) makes the whole answer unreadable.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn expires_in(mut self, pointer: &str) -> Result<Self, Error> {
        self.expires_in = Pointer::parse(pointer)?;
        Ok(self)
    }

    /// The lifetime of access tokens whose answer does not say it, where it is known from elsewhere. Zero means *unknown*.
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = Some(lifetime);
        self
    }

    /// Where the lifetime of the refresh token is, in seconds.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn refresh_expires_in(mut self, pointer: &str) -> Result<Self, Error> {
        self.refresh_expires_in = vec![Pointer::parse(pointer)?];
        Ok(self)
    }

    /// Where the code of an error is: a text, or an integer, which counts as its digits. `false`, 0 and an empty text say
    /// that there is none.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn error(mut self, pointer: &str) -> Result<Self, Error> {
        self.error = Pointer::parse(pointer)?;
        Ok(self)
    }

    /// Where the business code is, such as the `errcode` of many Chinese platforms. No code, or an empty text, is no failure;
    /// nor is 0, as a number or a text, or, if any are named, one of the [`success_codes`](Self::success_codes) in its place.
    /// What any other code means depends on what was presented:
    ///
    /// - a password: it is refused, unless the code is a text beside a token;
    /// - a login code: that code is used up, and no more;
    /// - nothing but the application itself: the configuration is wrong, unless the code is a text in a 2xx;
    /// - a refresh token: it may mean anything and ends nothing. Give the codes that say that the refresh token is dead to
    ///   [`TokenEndpoint::dead_codes`](crate::source::oauth2::TokenEndpoint::dead_codes) or
    ///   [`RefreshToken::dead_codes`](crate::source::RefreshToken::dead_codes).
    ///
    /// # Errors
    ///
    /// `InvalidValue` for what is no pointer.
    pub fn business_code(mut self, pointer: &str) -> Result<Self, Error> {
        self.business_code = Some(Pointer::parse(pointer)?);
        Ok(self)
    }

    /// Business codes that say that nothing is wrong, in the place of 0: `[200]` for `{"code": 200, "data": …}`, say,
    /// `["SUCCESS"]`, or `[true]`. A number counts in quotes, too, and a blank text still counts as none.
    pub fn success_codes<C: ToString>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.success_codes.extend(codes.into_iter().map(|code| code.to_string()));
        self
    }

    /// Business codes that say *try again later*: numbers, which count in quotes, too, or texts. Each is named in full.
    pub fn transient_codes<C: ToString>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.transient_codes.extend(codes.into_iter().map(|code| code.to_string()));
        self
    }

    /// The code of the error, and the business code as one.
    pub(super) fn codes(&self, document: &Json) -> [Option<Zeroizing<String>>; 2] {
        let business = self.bad_business_code(document).and_then(|code| match code.bool() {
            Some(said) if !self.success_codes.is_empty() => Some(Zeroizing::new(said.to_string())),
            _ => code.code(),
        });
        [self.error_code(document).and_then(Json::code), business]
    }

    /// Whether the first of these is a number, and not one in quotes.
    pub(super) fn code_is_number(&self, document: &Json) -> bool {
        let error = self.error_code(document).filter(|code| code.code().is_some());
        matches!(error.or_else(|| self.bad_business_code(document)), Some(Json::Number(_)))
    }

    fn error_code<'a>(&self, document: &'a Json) -> Option<&'a Json> {
        document.at(&self.error).filter(|code| !matches!(code, Json::Number(0.0)))
    }

    /// What the business code says, if it is no sign of success. A text beside a token may be one in words.
    pub(super) fn business_failure(&self, document: &Json) -> Option<BusinessFailure> {
        let code = self.bad_business_code(document)?;
        if is_among(code, &self.transient_codes) {
            return Some(BusinessFailure::Transient);
        }
        if code.number().is_some() {
            return Some(BusinessFailure::Refused);
        }
        let is_blank = |token: &Json| matches!(token, Json::Text(text) if text.is_empty());
        let has_token = document.at(&self.access_token).is_some_and(|token| !is_blank(token));
        let is_told = code.text().is_some() || (code.bool().is_some() && !self.success_codes.is_empty());
        (is_told && !has_token).then_some(BusinessFailure::InWords)
    }

    /// The token of a success. `None` if it is none: nothing with a part of the wrong type is, lifetimes aside.
    pub(super) fn token(&self, document: &Json) -> Option<Token> {
        let part = |pointer| part(document, pointer);
        let (access, refresh, kind) =
            (part(&self.access_token)?, part(&self.refresh_token)?, part(&self.token_type)?);
        if access.is_empty() || self.is_failure(document) {
            return None;
        }
        let refresh_lifetime = self.refresh_expires_in.iter().find_map(|pointer| document.at(pointer));
        let token = Token::new(access)
            .refresh_token((!refresh.is_empty()).then_some(refresh))
            .expires_in(document.at(&self.expires_in).and_then(duration).or(self.default_lifetime))
            .refresh_expires_in(refresh_lifetime.and_then(duration));
        Some(if kind.is_empty() { token } else { token.token_type(kind) })
    }

    /// What is left of a success without an access token of use: its refresh token.
    pub(super) fn refresh_token_alone(&self, document: &Json) -> Option<Secret> {
        let refresh = part(document, &self.refresh_token)?;
        (!refresh.is_empty() && !self.is_failure(document)).then(|| refresh.into())
    }

    fn is_failure(&self, document: &Json) -> bool {
        let has_error = match document.at(&self.error) {
            // Some authorities say that there is none.
            None | Some(Json::Bool(false)) => false,
            Some(Json::Number(code)) => *code != 0.0,
            Some(Json::Text(code)) => !code.is_empty(),
            Some(_) => true,
        };
        has_error || self.bad_business_code(document).is_some()
    }

    /// What is in place of the business code, unless that is a sign of success: a blank text, or what the user has named, or
    /// else 0, in quotes or without.
    fn bad_business_code<'a>(&self, document: &'a Json) -> Option<&'a Json> {
        let is_success = |code: &Json| match (&self.success_codes[..], code) {
            (_, Json::Text(text)) if text.trim().is_empty() => true,
            ([], Json::Text(text)) => json::is_no_code(text),
            ([], code) => code.number() == Some(0.0),
            (named, code) => is_among(code, named),
        };
        document.at(self.business_code.as_ref()?).filter(|code| !is_success(code))
    }
}

impl Default for JsonAnswer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for JsonAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonAnswer").finish_non_exhaustive()
    }
}

/// A text of the answer: empty if it is missing; none if it was damaged on the way, or is something else.
fn part<'a>(document: &'a Json, pointer: &Pointer) -> Option<&'a str> {
    match document.at(pointer) {
        None => Some(""),
        Some(Json::Text(text)) => {
            Some(text.as_str()).filter(|text| !text.contains(char::REPLACEMENT_CHARACTER))
        }
        Some(_) => None,
    }
}

/// What a business code says that is no sign of success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BusinessFailure {
    Refused,
    /// A text that nobody has given a meaning.
    InWords,
    Transient,
}

/// Whether a code is one of those that the user has named, a number in quotes or without.
fn is_among(code: &Json, named: &[String]) -> bool {
    let (number, bool) = (code.number(), code.bool());
    named.iter().any(|named| {
        code.text().is_some_and(|text| text.trim() == named)
            || (number.is_some() && number == named.parse().ok())
            || (bool.is_some() && bool == named.parse().ok())
    })
}

/// Seconds, as authorities write them. `None`: unknown.
fn duration(value: &Json) -> Option<Duration> {
    let seconds = value.number().filter(|seconds| *seconds > 0.0)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Option<Token> {
        JsonAnswer::new().token(&Json::parse(text.as_bytes())?)
    }

    #[test]
    fn every_shape_of_a_lifetime_has_its_meaning() {
        const YEAR: u64 = 365 * 86_400;
        for (written, seconds) in [
            ("3600", Some(3600.0)),
            ("\"3600\"", Some(3600.0)),
            ("\" 3600 \"", Some(3600.0)),
            ("3599.5", Some(3599.5)),
            ("\"3599.5\"", Some(3599.5)),
            ("4294967296", Some(4_294_967_296.0)),
            ("0", None),
            ("-0.0", None),
            ("-1", None),
            ("\"-1\"", None),
            ("null", None),
            ("\"\"", None),
            ("\"soon\"", None),
            ("\"NaN\"", None),
            ("true", None),
            ("[3600]", None),
            ("{}", None),
        ] {
            let text =
                format!(r#"{{"access_token":"a","expires_in":{written},"refresh_expires_in":{written}}}"#);
            let token = token(&text).unwrap();
            assert_eq!(token.lifetime(), seconds.map(Duration::from_secs_f64), "{written}");
            assert_eq!(token.refresh_lifetime(), token.lifetime(), "{written}");
        }
        for huge in ["18446744073709551615", "1e300", "99999999999999999999", "\"inf\""] {
            let token = token(&format!(r#"{{"access_token":"a","expires_in":{huge}}}"#)).unwrap();
            assert!(token.lifetime().unwrap().as_secs() > 1000 * YEAR, "{huge}");
        }
        assert_eq!(token(r#"{"access_token":"a"}"#).unwrap().lifetime(), None);
    }

    #[test]
    fn a_text_that_was_damaged_is_no_part_of_a_token() {
        for text in [
            &b"{\"access_token\":\"a\xe9\"}"[..],
            b"{\"access_token\":\"a\",\"refresh_token\":\"r\xe9\"}",
            b"{\"access_token\":\"a\",\"token_type\":\"\xe9\"}",
            b"{\"access_token\":\"a\n\"}",
            b"{\"access_token\":\"a\",\"refresh_token\":\"\tr\"}",
        ] {
            assert!(JsonAnswer::new().token(&Json::parse(text).unwrap()).is_none());
        }
        let elsewhere = Json::parse(b"{\"access_token\":\"a\",\"name\":\"\xe9\"}").unwrap();
        assert!(JsonAnswer::new().token(&elsewhere).is_some());
    }

    #[test]
    fn an_error_that_is_false_or_0_is_none() {
        for error in ["false", "0", "0.0", "\"\"", "null"] {
            assert!(token(&format!(r#"{{"access_token":"a","error":{error}}}"#)).is_some(), "{error}");
        }
        for error in ["true", "1", "-1", "0.5", "{}", "[]", "\"false\"", "\"0\""] {
            assert!(token(&format!(r#"{{"access_token":"a","error":{error}}}"#)).is_none(), "{error}");
        }
        for part in ["access_token", "refresh_token", "token_type"] {
            let text = format!(r#"{{"access_token":"a","{part}":false}}"#);
            assert!(token(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_business_code_that_is_0_or_empty_is_none() {
        let answer = JsonAnswer::new().business_code("/errcode").unwrap();
        let token = |code: &str| {
            let text = format!(r#"{{"access_token":"a","errcode":{code}}}"#);
            answer.token(&Json::parse(text.as_bytes()).unwrap())
        };
        for code in ["0", "0.0", "null", "\"0\"", "\"00000\"", "\" 0 \"", "\"\"", "\" \""] {
            assert!(token(code).is_some(), "{code}");
        }
        for code in ["1", "-1", "0.5", "\"1\"", "\"none\"", "true", "{}", "[]"] {
            assert!(token(code).is_none(), "{code}");
        }
    }

    #[test]
    fn a_business_code_may_say_success_by_another_number_or_by_a_text() {
        let answer = JsonAnswer::new().business_code("/code").unwrap().success_codes(["200", "SUCCESS"]);
        let answer = answer.success_codes([-1]).success_codes([true]);
        let token = |code: &str| {
            let text = format!(r#"{{"access_token":"a","code":{code}}}"#);
            answer.token(&Json::parse(text.as_bytes()).unwrap())
        };
        for code in ["200", "200.0", "\"200\"", "\"SUCCESS\"", "-1", "\"-1\"", "\" \"", "true", "null"] {
            assert!(token(code).is_some(), "{code}");
        }
        for code in ["201", "-200", "0", "\"0\"", "\"success\"", "false", "[200]"] {
            assert!(token(code).is_none(), "{code}");
        }
    }

    #[test]
    fn the_type_of_a_token_is_spelled_as_its_scheme() {
        for (written, kind) in [("bearer", "Bearer"), ("beareR", "Bearer"), ("dpoP", "DPoP"), ("mac", "mac")]
        {
            let token = token(&format!(r#"{{"access_token":"a","token_type":"{written}"}}"#)).unwrap();
            assert_eq!(token.kind(), Some(kind));
        }
        assert_eq!(token(r#"{"access_token":"a","token_type":null}"#).unwrap().kind(), None);
    }
}
