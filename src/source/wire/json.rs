//! As much of JSON as tokens need. The texts are overwritten with zeros when they are dropped.

use std::{collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use crate::{error::Error, json};

pub(in crate::source) const MEDIA_TYPE: &str = "application/json";

pub(in crate::source) enum Json {
    Null,
    Bool(bool),
    /// Codes and lifetimes are exact in it up to 2⁵³.
    Number(f64),
    Text(Zeroizing<String>),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
    /// What a name stands for that stands twice: which of the values counts would be anybody's guess, so that none does.
    Twice,
}

impl Json {
    /// `None` for what is not JSON.
    pub(super) fn parse(text: &[u8]) -> Option<Json> {
        json::read(text)
    }

    /// The object with these members.
    pub(super) fn object(members: impl IntoIterator<Item = (String, Json)>) -> Json {
        let mut object = BTreeMap::new();
        for (name, value) in members {
            object.entry(name).and_modify(|twice| *twice = Json::Twice).or_insert(value);
        }
        Json::Object(object)
    }

    /// What a pointer points at; `null` is nothing.
    pub(in crate::source) fn at(&self, pointer: &Pointer) -> Option<&Json> {
        let found = pointer.0.iter().try_fold(self, |value, step| match value {
            Json::Object(members) => members.get(step),
            // Neither `01` nor `+1` (RFC 6901 §4).
            Json::List(items) => items.get(step.parse::<usize>().ok().filter(|at| at.to_string() == *step)?),
            Json::Twice => Some(value),
            _ => None,
        });
        found.filter(|value| !matches!(value, Json::Null))
    }

    /// A text that is not empty.
    pub(in crate::source) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A code: a text that is not empty, or an integer, in digits.
    pub(super) fn code(&self) -> Option<Zeroizing<String>> {
        match self {
            Json::Number(number) if number.fract() == 0.0 => Some(Zeroizing::new(number.to_string())),
            _ => self.text().map(|text| Zeroizing::new(text.to_owned())),
        }
    }

    /// A number, also one in quotes.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Json::Number(number) => Some(*number),
            Json::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(in crate::source) fn bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(Zeroizing::new(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = entries.next_entry()? {
            members.push(member);
        }
        match &*members {
            [(name, Json::Text(number))] if name == NUMBER => {
                let number = number.parse().ok().filter(|number: &f64| number.is_finite());
                number.map(Json::Number).ok_or_else(|| de::Error::custom("a number out of range"))
            }
            _ => Ok(Json::object(members)),
        }
    }
}

/// The name by which `serde_json` hands out numbers as texts, where another crate of the program has switched its feature
/// `arbitrary_precision` on.
const NUMBER: &str = "$serde_json::private::Number";

/// A JSON pointer (RFC 6901).
#[derive(Clone)]
pub(in crate::source) struct Pointer(Vec<String>);

impl Pointer {
    /// To a member of the outermost object.
    pub(in crate::source) fn member(name: &str) -> Self {
        Pointer(vec![name.to_owned()])
    }

    pub(in crate::source) fn parse(text: &str) -> Result<Self, Error> {
        let otherwise = "a JSON pointer begins with a slash, and writes a tilde as `~0`";
        Error::require(json::is_pointer(text), otherwise)?;
        let steps = text.split('/').skip(1);
        Ok(Pointer(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

/// A value in a request that is no secret.
#[derive(Clone, Debug)]
pub(in crate::source) enum Scalar {
    Text(String),
    Number(i64),
    Bool(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(value) => value.fmt(f),
            Scalar::Number(value) => value.fmt(f),
            Scalar::Bool(value) => value.fmt(f),
        }
    }
}

/// The text of an object with these members, in this order, but for others that have the name of a secret.
pub(in crate::source) fn object<'a>(
    secrets: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    others: &[(String, Scalar)],
) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(room(secrets.clone(), others)));
    let mut opening = "{";
    for (name, value) in secrets.clone() {
        member(&mut text, &mut opening, name, &value);
    }
    for (name, value) in others.iter().filter(|(name, _)| secrets.clone().all(|(secret, _)| secret != name)) {
        match value {
            Scalar::Text(value) => member(&mut text, &mut opening, name, value),
            Scalar::Number(value) => member(&mut text, &mut opening, name, value),
            Scalar::Bool(value) => member(&mut text, &mut opening, name, value),
        }
    }
    text.push(b'}');
    text
}

/// Enough for all of them with any escapes, so that no copy of a secret is left behind by growing.
fn room<'a>(secrets: impl Iterator<Item = (&'a str, &'a str)>, others: &[(String, Scalar)]) -> usize {
    let room = |name: &str, value: &str| 6 * (name.len() + value.len()) + 8;
    let for_secrets: usize = secrets.map(|(name, value)| room(name, value)).sum();
    let for_others: usize = others.iter().map(|(name, value)| room(name, &value.to_string())).sum();
    for_secrets + for_others + 2
}

fn member(text: &mut Vec<u8>, opening: &mut &str, name: &str, value: &impl serde::Serialize) {
    const INFALLIBLE: &str = "texts and numbers can be written to memory";
    text.extend_from_slice(opening.as_bytes());
    serde_json::to_writer(&mut *text, name).expect(INFALLIBLE);
    text.push(b':');
    serde_json::to_writer(text, value).expect(INFALLIBLE);
    *opening = ",";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_finds_members_and_items_and_never_null() {
        let json = Json::parse(br#"{"a/b":{"~":[1,"x"]},"n":null}"#).unwrap();
        let at = |pointer: &str| json.at(&Pointer::parse(pointer).unwrap());
        assert_eq!(at("/a~1b/~0/1").and_then(Json::text), Some("x"));
        assert_eq!(at("/a~1b/~0/0").and_then(Json::number), Some(1.0));
        for nothing in
            ["/n", "/n/x", "/", "/a~1b/~0/2", "/a~1b/~0/-", "/a~1b/~0/0/0", "/a~1b/~0/01", "/a~1b/~0/+1"]
        {
            assert!(at(nothing).is_none(), "{nothing}");
        }
        for none in ["a", "", "/a~", "/~2b", "/a~/b", "/~0~"] {
            assert!(Pointer::parse(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_or_too_deep_is_no_json() {
        let deep = "[".repeat(100_000);
        for text in ["1e999", "{} x", "", "{\"a\":\"\\\"}", "\\ud83d", &deep] {
            assert!(Json::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_of_no_use_and_harms_no_other() {
        let text =
            br#"{"a":{"x":"1","y":{}},"a":"2","b":"3","c":{"x":1,"x":1,"z":"4"},"c2":[{"x":1,"x":2}]}"#;
        let json = Json::parse(text).unwrap();
        let at = |pointer: &str| json.at(&Pointer::parse(pointer).unwrap());
        for twice in ["/a", "/a/x", "/a/y/z", "/c/x", "/c/x/0"] {
            let value = at(twice).unwrap_or_else(|| panic!("{twice}: not to be taken for missing"));
            assert!(value.text().is_none() && value.number().is_none() && value.bool().is_none(), "{twice}");
        }
        assert_eq!((at("/b").and_then(Json::text), at("/c/z").and_then(Json::text)), (Some("3"), Some("4")));
    }

    fn error(text: &[u8]) -> Option<String> {
        Json::parse(text)?.at(&Pointer::member("error"))?.text().map(ToOwned::to_owned)
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_what_is_not_utf_8_replaced() {
        assert_eq!(error(b"\xef\xbb\xbf{\"error\":\"x\"}").as_deref(), Some("x"));
        assert_eq!(error(b"{\"error\":\"x\",\"why\":\"\xcb\xa2\xd0\xc2\"}").as_deref(), Some("x"));
        assert_eq!(error(b"{\"error\":\"\xe9x\xf0\x9f\"}").as_deref(), Some("\u{fffd}x\u{fffd}"));
        for text in [&b"\xef\xbb\xbf\xef\xbb\xbf{}"[..], b"\xff{}", b"\xff\xfe{\0}\0"] {
            assert!(Json::parse(text).is_none());
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_replaced() {
        for (written, read) in [
            (r"\ud83d", "\u{fffd}"),
            (r"\uD83D\uDE00", "\u{1f600}"),
            (r"\ud83d\ud83d\ude00\ude00", "\u{fffd}\u{1f600}\u{fffd}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83dde00", "\u{fffd}de00"),
            (r"\\ud83d", r"\ud83d"),
            (r"\\\ud83d\n", "\\\u{fffd}\n"),
            (r"\u00e9\ud7ff\ue000", "é\u{d7ff}\u{e000}"),
        ] {
            let text = format!(r#"{{"error":"{written}"}}"#);
            assert_eq!(error(text.as_bytes()).as_deref(), Some(read), "{written}");
        }
        for text in
            [r#"{"error":"\ud83"}"#, r#"{"error":"\ud83g"}"#, r#"{"error":"\u+83d"}"#, r#"{"error":"\"#]
        {
            assert!(Json::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_control_character_in_quotes_is_replaced() {
        for (written, read) in [
            ("two\r\nlines", "two\u{fffd}\u{fffd}lines"),
            ("\t\0\u{1b}[31m\u{1f}\u{7f}", "\u{fffd}\u{fffd}\u{fffd}[31m\u{fffd}\u{7f}"),
            ("\\\"\n\\\\\n\\ud83d", "\"\u{fffd}\\\u{fffd}\u{fffd}"),
        ] {
            let text = format!("{{\t\"x\"\r\n:1,\"error\":\"{written}\"\n}}");
            assert_eq!(error(text.as_bytes()).as_deref(), Some(read), "{text:?}");
        }
        for text in ["{\u{1}\"error\":\"\n\"}", "{\"error\":\"\\\n\"}", "{\"error\":\"\n}"] {
            assert!(Json::parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_backslash_that_is_the_second_byte_of_a_character_escapes_nothing_where_nothing_else_can_be_read() {
        for (written, read) in [
            // Shift_JIS: 機能が, ソース, and a path whose own backslashes are escaped.
            (&b"\x8b\x40\x94\x5c\x82\xaa"[..], "\u{fffd}@\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\x83\x5c\x81\x5b\x83\x58", "\u{fffd}\u{fffd}\u{fffd}[\u{fffd}X"),
            (b"C:\\\\\x95\x5c\\\\x", "C:\\\u{fffd}\u{fffd}\\x"),
            // Shift_JIS with half-width katakana before a character and before an escape: ｱｲｳ表示, 表ｱｲｳ\"x\".
            (b"\xb1\xb2\xb3\x95\x5c\x8e\xa6", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\x95\x5c\xb1\xb2\xb3\\\"x\\\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\"x\""),
            // Big5: 成功, at the end.
            (b"\xa6\xa8\xa5\x5c", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            // GBK: 誠, and escapes behind characters of two bytes of which none is ASCII.
            (
                b"\xd5\x5c\xca\xfd\\\"x\\\"\xca\xfd\\n",
                "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\"x\"\u{fffd}\u{fffd}\n",
            ),
        ] {
            let text = [b"{\"x\":\"", written, b"\",\"error\":\"", written, b"\"}"].concat();
            assert_eq!(error(&text).as_deref(), Some(read), "{written:x?}");
        }
        // Where the backslashes can be taken for escapes, they are.
        assert_eq!(error(b"{\"error\":\"\xe9\\n\"}").as_deref(), Some("\u{fffd}\n"));
        // In UTF-8 no character has one in it.
        for text in ["{\"error\":\"é\\\"}", "{\"error\":\"é\\ \"}"] {
            assert!(Json::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_number_is_one_with_every_feature_of_serde_json() {
        for (written, read) in [
            ("3599.5", 3599.5),
            ("-0", 0.0),
            ("1e3", 1000.0),
            ("18446744073709551616", 18_446_744_073_709_551_616.0),
            (r#"{"$serde_json::private::Number":"3599.5"}"#, 3599.5),
        ] {
            let number = Json::parse(written.as_bytes()).as_ref().and_then(Json::number);
            assert_eq!(number, Some(read), "{written}");
        }
    }

    #[test]
    fn the_text_of_an_object_does_not_grow_once_a_secret_is_in_it() {
        let control = "\u{1}".repeat(100);
        let others = [
            (control.clone(), Scalar::Text(control.clone())),
            ("least".to_owned(), Scalar::Number(i64::MIN)),
            ("no".to_owned(), Scalar::Bool(false)),
        ];
        for others in [&others[..], &others[1..], &[]] {
            let secrets = [(control.as_str(), control.as_str()), ("", "")].into_iter();
            let text = object(secrets.clone(), others);
            assert_eq!(text.capacity(), room(secrets, others));
        }
    }

    #[test]
    fn an_object_is_written_in_order_with_escapes() {
        let others =
            [("type".to_owned(), Scalar::Number(100)), ("kind".to_owned(), Scalar::Text("é\"".into()))];
        let text = object([("account", "a\"\n")].into_iter(), &others);
        assert_eq!(
            String::from_utf8(text.to_vec()).unwrap(),
            r#"{"account":"a\"\n","type":100,"kind":"é\""}"#
        );
    }
}
