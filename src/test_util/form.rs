//! `application/x-www-form-urlencoded`, as much of it as forms and queries need.

use crate::query;

/// All values of one name, decoded.
pub(super) fn values<'a>(form: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    form.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    String::from_utf8_lossy(&query::decode(text.as_bytes()).collect::<Vec<_>>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_a_lone_percent_sign_stays() {
        let form = "a=x+y%2Bz&b=1&%61=100%&c&a=%C3%A9";
        assert_eq!(values(form, "a").collect::<Vec<_>>(), ["x y+z", "100%", "é"]);
        assert_eq!(values(form, "c").collect::<Vec<_>>(), [""]);
        assert_eq!(values(form, "d").count(), 0);
    }
}
