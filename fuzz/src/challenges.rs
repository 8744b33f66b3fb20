//! `WWW-Authenticate`: whatever stands there.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header::WWW_AUTHENTICATE};
use tower_token_refresh::{
    Answer, Challenged, Classify, Standard, Verdict,
    classify::{Challenge, Challenges},
};

/// Each line of the input is a header line.
///
/// 1. Lines do not depend on each other, and empty list items change nothing.
/// 2. What is found is well-formed, and is found again when it is printed, in whatever style.
/// 3. A challenge with these very lines as its values is found, too.
/// 4. A challenge is found no more when something is added that makes nonsense of it.
/// 5. The verdicts are those that the challenges justify.
pub fn challenges(input: &[u8]) {
    let lines: Vec<HeaderValue> =
        input.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let headers = headers(&lines);
    let found: Vec<Challenge<'_>> = Challenges::of(&headers).collect();

    let alone: Vec<HeaderMap> = lines.iter().map(|line| self::headers([line])).collect();
    assert_eq!(found, alone.iter().flat_map(Challenges::of).collect::<Vec<_>>(), "each line alone");
    let spaced: Vec<HeaderMap> = lines.iter().map(|line| self::headers([&padded(line)])).collect();
    assert_eq!(found, spaced.iter().flat_map(Challenges::of).collect::<Vec<_>>(), "with empty items");

    let made = Model::made_of(&lines);
    let mut names = words(&lines);
    names.extend(made.parameters.iter().map(|(name, _)| name.clone()));
    names.sort();
    names.dedup();
    let mut models: Vec<Model> = found.iter().map(|challenge| Model::of(challenge, &names)).collect();
    models.push(made);
    for style in 0..8 {
        let printed: Vec<HeaderValue> =
            models.iter().map(|model| value(&model.print(style, input.len()))).collect();
        let together = printed.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b" ,, "[..]);
        for headers in [self::headers(&printed), self::headers([&value(&together)])] {
            let again: Vec<Model> =
                Challenges::of(&headers).map(|challenge| Model::of(&challenge, &names)).collect();
            assert_eq!(models, again, "printed in style {style}");
        }
    }

    for model in &models {
        for nonsense in model.nonsense() {
            let line = value(&[&*model.print(0, 0), nonsense.as_bytes()].concat());
            assert_eq!(Challenges::of(&self::headers([&line])).count(), 0, "{line:?}");
        }
    }

    for status in [400, 401, 403, 407] {
        judge(status, &headers, &found);
    }
}

fn judge(status: u16, headers: &HeaderMap, found: &[Challenge<'_>]) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = headers.clone();
    let (method, uri) = (Method::GET, Uri::from_static("https://api.test/"));
    let answer = Answer::new(&method, &uri, 1, &response);

    let says = |codes: &[&str]| {
        found.iter().any(|challenge| challenge.param("error").is_some_and(|code| codes.contains(&code)))
    };
    let expected = match status {
        401 | 403 if says(&["invalid_token"]) => Verdict::Reject,
        401 | 403 if says(&["insufficient_scope", "insufficient_user_authentication", "use_dpop_nonce"]) => {
            Verdict::Accept
        }
        401 => Verdict::Reject,
        403 => Verdict::Suspect,
        _ => Verdict::Accept,
    };
    assert_eq!(Standard.classify(&answer), expected);

    let ours = found.iter().any(|challenge| challenge.is("bearer"));
    let strict = Challenged::new("Bearer").unwrap();
    assert!(ours || strict.classify(&answer) == Verdict::Accept);
}

/// A challenge in parts that can be printed.
#[derive(Debug, PartialEq)]
struct Model {
    scheme: String,
    token68: Option<String>,
    parameters: Vec<(String, String)>,
}

impl Model {
    fn made_of(lines: &[HeaderValue]) -> Self {
        let texts = lines.iter().filter_map(|line| std::str::from_utf8(line.as_bytes()).ok());
        let named =
            texts.take(9).enumerate().map(|(number, text)| (format!("made-{number}"), text.to_owned()));
        Model { scheme: "Made".to_owned(), token68: None, parameters: named.collect() }
    }

    /// `names`: all that a parameter may be called.
    fn of(challenge: &Challenge<'_>, names: &[String]) -> Self {
        assert!(is_token(challenge.scheme().as_bytes()));
        let parameters: Vec<_> =
            names.iter().filter_map(|name| Some((name.clone(), challenge.param(name)?.to_owned()))).collect();
        assert!(parameters.len() <= 32);
        assert!(challenge.token68().is_none() || parameters.is_empty());
        Model {
            scheme: challenge.scheme().to_owned(),
            token68: challenge.token68().map(str::to_owned),
            parameters,
        }
    }

    /// `style`: in upper case or not, quoted where it need not be, with blanks. `start`: which parameter comes first.
    fn print(&self, style: usize, start: usize) -> Vec<u8> {
        let is = |bit: usize| style & (1 << bit) != 0;
        let blank = if is(2) { " \t" } else { "" };
        let mut text = self.scheme.clone();
        if let Some(token68) = &self.token68 {
            return format!("{text} {token68}{blank}").into_bytes();
        }
        let count = self.parameters.len();
        for number in 0..count {
            let (name, value) = &self.parameters[(number + start) % count];
            let name = if is(0) { name.to_ascii_uppercase() } else { name.clone() };
            let value = if is(1) || !is_token(value.as_bytes()) { quoted(value) } else { value.clone() };
            let before = if number == 0 { " " } else { blank };
            let after = if number + 1 == count { "" } else { "," };
            text.push_str(&format!("{before}{name}{blank}={blank}{value}{after}"));
        }
        text.into_bytes()
    }

    /// What may not follow it.
    fn nonsense(&self) -> Vec<String> {
        let mut nonsense = vec![" \"".to_owned(), ", x=".to_owned(), ", x=\"never closed".to_owned()];
        if self.token68.is_some() {
            nonsense.push(", x=y".to_owned());
        }
        for (name, value) in &self.parameters {
            nonsense.push(format!(", {}={}", name.to_ascii_uppercase(), quoted(value)));
        }
        if !self.parameters.is_empty() {
            nonsense.extend([" x=y".to_owned(), (0..32).map(|number| format!(", x-y-{number}=z")).collect()]);
        }
        nonsense
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The words of all lines, in lower case.
fn words(lines: &[HeaderValue]) -> Vec<String> {
    lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| !is_token(&[byte])))
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8(word.to_ascii_lowercase()).expect("a token is ASCII"))
        .collect()
}

fn is_token(text: &[u8]) -> bool {
    let is_one = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_one)
}

fn padded(line: &HeaderValue) -> HeaderValue {
    value(&[b" , ,\t", line.as_bytes(), b" ,, "].concat())
}

fn value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).expect("made of header bytes")
}

fn headers<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> HeaderMap {
    lines.into_iter().map(|line| (WWW_AUTHENTICATE, line.clone())).collect()
}
