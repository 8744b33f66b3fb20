//! The `Retry-After` header (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, header};

/// How long an answer asks to wait. A date is read against the answer's own `Date` where there is one, because the
/// authority's clock and ours may differ.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let wait = text(headers, header::RETRY_AFTER)?;
    if !wait.is_empty() && wait.bytes().all(|byte| byte.is_ascii_digit()) {
        // What overflows is long indeed.
        return Some(Duration::from_secs(wait.parse().unwrap_or(u64::MAX)));
    }
    let now = text(headers, header::DATE)
        .and_then(parse_date)
        .unwrap_or_else(|| now.duration_since(UNIX_EPOCH).unwrap_or_default());
    Some(parse_date(wait)?.saturating_sub(now))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The preferred form of a date, `Sun, 06 Nov 1994 08:49:37 GMT`, as time since the Unix epoch; 1970 for what is
/// earlier. The obsolete forms are not read.
fn parse_date(text: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let is_in_place = |at: usize, part: &str| text.get(at..at + part.len()) == Some(part);
    let is_shaped = text.len() == 29
        && [(3, ", "), (7, " "), (11, " "), (16, " "), (19, ":"), (22, ":"), (25, " GMT")]
            .into_iter()
            .all(|(at, part)| is_in_place(at, part));
    if !is_shaped {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let month = MONTHS.find(text.get(8..11)?).filter(|at| at % 3 == 0)? as u64 / 3 + 1;
    let (day, year) = (number(5, 7)?, number(12, 16)?);
    let (hour, minute, second) = (number(17, 19)?, number(20, 22)?, number(23, 25)?);
    // 60 is a leap second.
    if day == 0 || day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Duration::from_secs(seconds.saturating_sub(days_before(1970, 1) * 86_400)))
}

/// Days up to the first of this month, from a fixed day long before. The year is counted from March, so that the leap
/// day is its last, and moved by one full cycle of leap years, so that it is never negative.
fn days_before(year: u64, month: u64) -> u64 {
    let (year, month) = if month > 2 { (year + 400, month - 3) } else { (year + 399, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5
}

#[cfg(test)]
mod tests {
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
    fn dates_are_counted_from_the_epoch() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Fri, 01 Jan 0000 00:00:00 GMT", 0),
        ] {
            assert_eq!(parse_date(text), Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn a_wait_is_a_number_of_seconds_or_the_time_to_a_date() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(wait("60", None), minute);
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", None), minute);
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
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
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
