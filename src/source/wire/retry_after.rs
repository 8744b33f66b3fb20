//! The `Retry-After` header (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header};

/// How long an answer asks to wait. A date, in any of the three forms of HTTP (RFC 9110 §5.6.7), is read against the
/// answer's own `Date` where there is one, because the authority's clock and ours may differ.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let wait = text(headers, header::RETRY_AFTER)?;
    if !wait.is_empty() && wait.bytes().all(|byte| byte.is_ascii_digit()) {
        // What overflows is long indeed.
        return Some(Duration::from_secs(wait.parse().unwrap_or(u64::MAX)));
    }
    let date = |text| httpdate::parse_http_date(text).ok();
    let now = text(headers, header::DATE).and_then(date).unwrap_or(now);
    Some(date(wait)?.duration_since(now).unwrap_or_default())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    const THEN: Duration = Duration::from_secs(784_111_777);

    fn wait(value: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers =
            HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap())]);
        if let Some(date) = date {
            headers.insert(header::DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers, UNIX_EPOCH + THEN - Duration::from_secs(60))
    }

    #[test]
    fn a_wait_is_a_number_of_seconds_or_the_time_to_a_date() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(wait("60", None), minute);
        for date in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(wait(date, None), minute, "{date}");
            assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT", Some(date)), minute, "{date}");
        }
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:48:37 GMT")), minute);
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", Some("nonsense")), minute);
    }

    #[test]
    fn a_wait_saturates_at_both_ends() {
        assert_eq!(wait("99999999999999999999999", None), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(wait("Sun, 06 Nov 1983 08:49:37 GMT", None), Some(Duration::ZERO));
    }

    #[test]
    fn a_wait_that_cannot_be_read_is_none() {
        for value in [
            "",
            "-1",
            "+1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
        ] {
            assert_eq!(wait(value, None), None, "{value}");
        }
    }
}
