//! `application/x-www-form-urlencoded`, as much of it as forms and queries need.

/// All values of one name, decoded.
pub(super) fn values<'a>(form: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    form.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match (first, hex_pair(tail)) {
            (b'%', Some(byte)) => {
                rest = &tail[2..];
                byte
            }
            (b'+', _) => b' ',
            _ => first,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(*text.first()?)?, digit(*text.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
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
