//! The challenges of a response (RFC 9110 §11.6.1).
//!
//! A `WWW-Authenticate` header is a comma-separated list whose items are, again, comma-separated lists:
//! `Basic realm="a", Bearer realm="b", error="invalid_token"` holds two challenges. A comma therefore says nothing by
//! itself; what follows it does. A token that is followed by `=` is a parameter of the challenge before it, any
//! other token is the scheme of the next one.

use std::{borrow::Cow, iter::Peekable, str};

use http::{
    HeaderMap, HeaderValue,
    header::{ValueIter, WWW_AUTHENTICATE},
};

/// No scheme has a tenth of this; it bounds the search for duplicates.
const MAX_PARAMETERS: usize = 32;

/// One challenge: a scheme with a token68, with parameters, or alone.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
/// use tower_token_refresh::classify::Challenges;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Negotiate, Bearer Error="invalid_token""#));
///
/// let bearer = Challenges::of(&headers).find(|challenge| challenge.is("bearer")).unwrap();
/// assert_eq!(bearer.param("error"), Some("invalid_token"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    scheme: &'a str,
    token68: Option<&'a str>,
    parameters: Vec<Parameter<'a>>,
}

impl<'a> Challenge<'a> {
    /// The scheme as it was written; [`is`](Challenge::is) compares it.
    pub fn scheme(&self) -> &'a str {
        self.scheme
    }

    /// Whether the challenge is of this scheme, in any case (RFC 9110 §11.1).
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The token68, as `Negotiate` sends it; a challenge with one has no parameters.
    pub fn token68(&self) -> Option<&'a str> {
        self.token68
    }

    /// The value of the parameter with this name, in any case of the name (RFC 9110 §11.2), without quotes and
    /// escapes. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub fn param(&self, name: &str) -> Option<&str> {
        let parameter = self.parameters.iter().find(|parameter| parameter.is(name))?;
        Some(&parameter.value)
    }

    /// A scheme with what follows it up to the first comma.
    fn open(scheme: &'a str, rest: &'a [u8]) -> Option<Self> {
        let challenge = Challenge { scheme, token68: None, parameters: Vec::new() };
        let argument = rest.trim_ascii_start();
        if argument.is_empty() {
            Some(challenge)
        } else if argument.len() == rest.len() {
            None // such as `Basic/x`: no space ends the scheme
        } else if let Some(parameter) = Parameter::parse(argument) {
            challenge.with(parameter)
        } else {
            Some(Challenge { token68: Some(token68(argument)?), ..challenge })
        }
    }

    /// Adds a parameter, unless that makes nonsense of the whole challenge.
    fn with(mut self, parameter: Parameter<'a>) -> Option<Self> {
        let fits = self.token68.is_none()
            && self.parameters.len() < MAX_PARAMETERS
            && !self.parameters.iter().any(|earlier| earlier.is(parameter.name));
        fits.then(|| {
            self.parameters.push(parameter);
            self
        })
    }
}

/// The readable challenges of a response, in order, over all its `WWW-Authenticate` lines.
///
/// A challenge that cannot be read is left out, and those around it are still found:
///
/// 1. A parameter that occurs twice in a challenge makes that challenge unreadable, as RFC 9110 §11.2 forbids it and
///    nobody can know which of the two was meant. So do parameters after a token68, and more than 32 parameters.
/// 2. So does anything that is neither a parameter nor the start of a challenge: a missing `=` or value, text after
///    a closing quote, a missing comma.
/// 3. A quote that is never closed hides the rest of its line, for a comma in it may belong to the quoted text.
/// 4. Parameters without a scheme before them on the same line belong to nobody.
///
/// Empty list items (`,,`) and spaces around `=` are allowed (RFC 9110 §5.6.1.2, §11.2). Any bytes that a
/// header can hold are fine; a line costs a few steps a byte and at most 32 comparisons a parameter name.
///
/// `Proxy-Authenticate` is not looked at: a proxy's challenge never speaks of the origin's token.
#[derive(Debug)]
pub struct Challenges<'a> {
    lines: ValueIter<'a, HeaderValue>,
    line: Peekable<Elements<'a>>,
}

impl<'a> Challenges<'a> {
    /// The challenges in these headers.
    pub fn of(headers: &'a HeaderMap) -> Self {
        Challenges { lines: headers.get_all(WWW_AUTHENTICATE).into_iter(), line: Elements(&[]).peekable() }
    }
}

impl<'a> Iterator for Challenges<'a> {
    type Item = Challenge<'a>;

    fn next(&mut self) -> Option<Challenge<'a>> {
        loop {
            match self.line.next() {
                Some(Element::Opening(mut challenge)) => {
                    while let Some(Element::Parameter(parameter)) =
                        self.line.next_if(|element| matches!(element, Element::Parameter(_)))
                    {
                        challenge = challenge.zip(parameter).and_then(|(challenge, it)| challenge.with(it));
                    }
                    if challenge.is_some() {
                        return challenge;
                    }
                }
                Some(Element::Parameter(_)) => {} // of no challenge
                None => self.line = Elements(self.lines.next()?.as_bytes()).peekable(),
            }
        }
    }
}

/// The non-empty items between the commas of a line.
#[derive(Debug)]
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        while !self.0.is_empty() {
            let (text, rest) = split_at_comma(self.0);
            self.0 = rest;
            let text = text.trim_ascii();
            if !text.is_empty() {
                return Some(Element::parse(text));
            }
        }
        None
    }
}

/// One item of the list; `None` in it is one that cannot be read.
#[derive(Debug)]
enum Element<'a> {
    Opening(Option<Challenge<'a>>),
    Parameter(Option<Parameter<'a>>),
}

impl<'a> Element<'a> {
    fn parse(text: &'a [u8]) -> Self {
        let (token, rest) = split_token(text);
        if token.is_empty() || rest.trim_ascii_start().starts_with(b"=") {
            Element::Parameter(Parameter::parse(text))
        } else {
            Element::Opening(Challenge::open(token, rest))
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter<'a> {
    name: &'a str,
    value: Cow<'a, str>,
}

impl<'a> Parameter<'a> {
    /// `token BWS "=" BWS ( token / quoted-string )`, RFC 9110 §11.2.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (name, rest) = split_token(text);
        let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
        let value = match value.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => match split_token(value) {
                (token, []) if !token.is_empty() => token.into(),
                _ => return None,
            },
        };
        (!name.is_empty()).then_some(Parameter { name, value })
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Splits a line at its first comma outside quotes.
fn split_at_comma(line: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    let comma = line.iter().position(|&byte| {
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && quoted && !escaped;
        byte == b',' && !quoted
    });
    match comma {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// Splits off the token (RFC 9110 §5.6.2) at the start, which may be empty.
fn split_token(text: &[u8]) -> (&str, &[u8]) {
    let end = text.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(text.len());
    let (token, rest) = text.split_at(end);
    (str::from_utf8(token).expect("a token is ASCII"), rest)
}

/// The text as a token68 (RFC 9110 §11.2), if it is one.
fn token68(text: &[u8]) -> Option<&str> {
    let end = text.iter().rposition(|&byte| byte != b'=')?;
    let is_token68 = text[..=end].iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte));
    is_token68.then(|| str::from_utf8(text).expect("a token68 is ASCII"))
}

/// What a quoted string (RFC 9110 §5.6.4) says, given what follows its opening quote; nothing may follow the closing
/// one. The control characters that the grammar forbids cannot be in a header value.
fn unquote(text: &[u8]) -> Option<Cow<'_, str>> {
    let mut escaped = false;
    let end = text.iter().position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    let (inner, b"\"") = text.split_at(end) else { return None };
    if !inner.contains(&b'\\') {
        return Some(String::from_utf8_lossy(inner));
    }
    let mut escaped = false;
    let plain: Vec<u8> = inner
        .iter()
        .copied()
        .filter(|&byte| {
            escaped = byte == b'\\' && !escaped;
            !escaped
        })
        .collect();
    Some(String::from_utf8_lossy(&plain).into_owned().into())
}

pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |line: &&[u8]| (WWW_AUTHENTICATE, HeaderValue::from_bytes(line).unwrap());
        lines.iter().map(line).collect()
    }

    /// What is found, as `Scheme token68` or `Scheme name=<value> …`.
    fn read(lines: &[&str]) -> Vec<String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        Challenges::of(&headers(&lines))
            .map(|challenge| {
                let mut text = challenge.scheme().to_owned();
                text.extend(challenge.token68().map(|token68| format!(" {token68}")));
                text.extend(challenge.parameters.iter().map(|it| format!(" {}=<{}>", it.name, it.value)));
                text
            })
            .collect()
    }

    #[track_caller]
    fn check(table: &[(&[&str], &[&str])]) {
        for (lines, found) in table {
            assert_eq!(read(lines), *found, "{lines:?}");
        }
    }

    #[test]
    fn no_header_holds_no_challenge() {
        check(&[(&[], &[]), (&[""], &[]), (&[" \t, ,"], &[])]);
    }

    #[test]
    fn two_schemes_are_found_in_one_header_and_in_two_in_either_order() {
        let (basic, bearer) = (r#"Basic realm="a""#, r#"Bearer realm="b", error="invalid_token""#);
        let (basic_read, bearer_read) = ("Basic realm=<a>", "Bearer realm=<b> error=<invalid_token>");
        check(&[
            (&[&format!("{basic}, {bearer}")], &[basic_read, bearer_read]),
            (&[&format!("{bearer}, {basic}")], &[bearer_read, basic_read]),
            (&[basic, bearer], &[basic_read, bearer_read]),
            (&[bearer, basic], &[bearer_read, basic_read]),
            (&["Negotiate, NTLM"], &["Negotiate", "NTLM"]),
            (&["Negotiate abc=, Bearer"], &["Negotiate abc=", "Bearer"]),
        ]);
    }

    #[test]
    fn one_scheme_is_found_twice_with_two_realms() {
        check(&[
            (&[r#"Bearer realm="a", Bearer realm="b""#], &["Bearer realm=<a>", "Bearer realm=<b>"]),
            (&[r#"Bearer realm="a""#, r#"Bearer realm="b""#], &["Bearer realm=<a>", "Bearer realm=<b>"]),
        ]);
    }

    #[test]
    fn leading_and_repeated_commas_are_skipped() {
        check(&[
            (&[r#"Digest,,,, Basic ,,realm="x""#], &["Digest", "Basic realm=<x>"]),
            (&[r#", ,Basic realm="x",,b=c , "#], &["Basic realm=<x> b=<c>"]),
        ]);
    }

    #[test]
    fn commas_and_equals_signs_in_quotes_are_text() {
        check(&[(
            &[r#"Basic realm="a, Bearer error=\"x\", b=c", Digest"#],
            &[r#"Basic realm=<a, Bearer error="x", b=c>"#, "Digest"],
        )]);
    }

    #[test]
    fn escapes_are_undone() {
        check(&[
            (&[r#"Basic realm="say \"hi\"""#], &[r#"Basic realm=<say "hi">"#]),
            (&[r#"Basic realm="C:\\x\\", a=b"#], &[r"Basic realm=<C:\x\> a=<b>"]),
            (&[r#"Basic realm="\a\,", a=b"#], &["Basic realm=<a,> a=<b>"]),
            (&[r#"Basic realm="", a=b"#], &["Basic realm=<> a=<b>"]),
        ]);
    }

    #[test]
    fn a_value_is_a_token_or_quoted_with_space_around_the_equals_sign() {
        check(&[
            (&["Bearer error=invalid_token"], &["Bearer error=<invalid_token>"]),
            (&["Bearer error = invalid_token"], &["Bearer error=<invalid_token>"]),
            (&["Bearer\terror\t=\t\"invalid_token\"\t,a= b"], &["Bearer error=<invalid_token> a=<b>"]),
            (&["Bearer a =b, c = d, Basic e= f"], &["Bearer a=<b> c=<d>", "Basic e=<f>"]),
        ]);
    }

    #[test]
    fn scheme_and_names_are_compared_in_any_case() {
        let headers = headers(&[br#"DiGeSt ERROR="Kept", rEaLm=x"#]);
        let challenge = Challenges::of(&headers).next().unwrap();
        assert!(challenge.is("digest") && challenge.is("DIGEST") && !challenge.is("dig"));
        assert_eq!(challenge.scheme(), "DiGeSt");
        assert_eq!(challenge.param("error"), Some("Kept"));
        assert_eq!(challenge.param("Realm"), Some("x"));
        assert_eq!(challenge.param("nonce"), None);
    }

    #[test]
    fn a_token68_may_look_like_anything_but_a_parameter() {
        check(&[
            (&["Negotiate YII/a+b-c._~=="], &["Negotiate YII/a+b-c._~=="]),
            (&["Negotiate realm"], &["Negotiate realm"]),
            (&["Negotiate a="], &["Negotiate a="]),
            (&["Negotiate a=b"], &["Negotiate a=<b>"]),
            (&["Negotiate a==b, Bearer"], &["Bearer"]),
            (&["Negotiate ==, Bearer"], &["Bearer"]),
        ]);
    }

    #[test]
    fn a_token68_with_parameters_makes_its_challenge_unreadable() {
        check(&[
            (&[r#"Negotiate abc==, realm="x", Bearer"#], &["Bearer"]),
            (&[r#"Negotiate abc== realm="x", Bearer"#], &["Bearer"]),
            (&[r#"Negotiate realm="x", abc==, Bearer"#], &["Bearer"]),
        ]);
    }

    #[test]
    fn an_unbalanced_quote_hides_the_rest_of_its_line_only() {
        check(&[
            (&[r#"Basic realm="x, Bearer error=y"#, "Digest"], &["Digest"]),
            (&[r#"Bearer a=b, Basic realm="x, Digest"#], &["Bearer a=<b>"]),
            (&[r#"Basic realm="x\", Digest"#], &[]),
            (&[r#"Basic realm="x\"#], &[]),
            (&[r#"Basic realm=""#], &[]),
            (&[r#"Basic realm="a"b", Digest"#], &[]),
        ]);
    }

    #[test]
    fn a_missing_equals_sign_or_value_makes_its_challenge_unreadable() {
        check(&[
            (&[r#"Bearer realm "x", Basic a=b"#], &["Basic a=<b>"]),
            (&[r#"Bearer a=b, realm=, Basic a=b"#], &["Basic a=<b>"]),
            (&[r#"Bearer a=b, error "x", scope=y, Basic"#], &["Bearer a=<b>", "Basic"]),
            (&["Bearer a=b c=d, Basic"], &["Basic"]),
            (&[r#"Bearer a="b" c="d", Basic"#], &["Basic"]),
            (&["Bearer/a, Basic"], &["Basic"]),
        ]);
    }

    #[test]
    fn an_empty_scheme_or_name_is_no_challenge() {
        check(&[
            (&[r#"realm="x", Bearer a=b"#], &["Bearer a=<b>"]),
            (&[r#" ="x", Bearer a=b"#], &["Bearer a=<b>"]),
            (&[r#"Bearer a=b, ="x", Basic"#], &["Basic"]),
            (&[r#""x", Bearer a=b"#], &["Bearer a=<b>"]),
            (&["Bearer", "a=b"], &["Bearer"]),
        ]);
    }

    #[test]
    fn a_duplicate_parameter_makes_its_challenge_unreadable() {
        check(&[
            (&[r#"Bearer error=a, ERROR="b", Basic a=b"#], &["Basic a=<b>"]),
            (&["Basic a=b, Bearer error=a, realm=b, error=a"], &["Basic a=<b>"]),
        ]);
    }

    #[test]
    fn the_challenge_with_the_claims_is_told_from_its_neighbours() {
        let headers = headers(&[
            br#"PoP nonce="ey.x", Bearer realm="", authorization_uri="https://login.example.com/authorize", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ==""#,
        ]);
        let bearer = Challenges::of(&headers).find(|challenge| challenge.is("Bearer")).unwrap();
        assert_eq!(bearer.param("error"), Some("insufficient_claims"));
        assert_eq!(bearer.param("claims"), Some("eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="));
        assert_eq!(bearer.param("nonce"), None);
    }

    #[test]
    fn text_beyond_ascii_is_kept_if_it_is_utf_8() {
        let headers =
            headers(&["Basic realm=\"漢\\\"字\"".as_bytes(), b"Basic realm=\"\xe9\xff\"", b"B\xe9sic a=b"]);
        let realms: Vec<_> =
            Challenges::of(&headers).map(|challenge| challenge.param("realm").map(str::to_owned)).collect();
        assert_eq!(realms, [Some("漢\"字".to_owned()), Some("\u{fffd}\u{fffd}".to_owned())]);
    }

    #[test]
    fn a_challenge_with_too_many_parameters_is_ignored() {
        let params = |count: usize| (0..count).map(|n| format!("p{n}=v")).collect::<Vec<_>>().join(",");
        let (most, too_many) = (params(MAX_PARAMETERS), params(MAX_PARAMETERS + 1));
        let lines = [format!("A {most}"), format!("B {too_many}, C")];
        let headers = headers(&[lines[0].as_bytes(), lines[1].as_bytes()]);
        let schemes: Vec<_> =
            Challenges::of(&headers).map(|challenge| challenge.scheme().to_owned()).collect();
        assert_eq!(schemes, ["A", "C"]);
    }

    #[test]
    fn a_proxys_challenge_is_not_ours() {
        let mut headers = HeaderMap::new();
        headers.insert("proxy-authenticate", HeaderValue::from_static("Bearer error=invalid_token"));
        assert_eq!(Challenges::of(&headers).count(), 0);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_found_is_well_formed() {
        const ALPHABET: &[u8] = b" ,=\"\\a\xe9";
        for length in 0..=6 {
            for mut number in 0..ALPHABET.len().pow(length) {
                let line: Vec<u8> = (0..length)
                    .map(|_| {
                        let byte = ALPHABET[number % ALPHABET.len()];
                        number /= ALPHABET.len();
                        byte
                    })
                    .collect();
                for challenge in Challenges::of(&headers(&[&line])) {
                    assert!(is_token(challenge.scheme()), "{line:?}");
                    assert!(challenge.token68.is_none() || challenge.parameters.is_empty(), "{line:?}");
                    assert!(
                        challenge.parameters.iter().all(|parameter| is_token(parameter.name)),
                        "{line:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_huge_line_takes_time_in_proportion_to_its_length() {
        let pieces =
            [",", "a ", "a,", "a=b,", "a \"", "\\", "\"", "\"\\\"", "a=\"b\",", "a b=c,", "=", "a =,"];
        let one_challenge = (0..1 << 17).map(|n| format!("p{n}=v,")).collect::<String>();
        let lines =
            pieces.map(|piece| piece.repeat(1 << 17)).into_iter().chain([format!("a {one_challenge}")]);
        let (done, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines {
                let _ = Challenges::of(&headers(&[line.as_bytes()])).count();
            }
            done.send(())
        });
        told.recv_timeout(Duration::from_secs(60)).expect("quadratic work on any of these takes minutes");
    }
}
