//! HTTP dates as a cache parses them (RFC 9110 §5.6.7, RFC 9111 §4.2).
//!
//! A date decides how long a response is served, so anything but exactly one of the three forms is rejected: a missing
//! digit, a time zone other than GMT, a day that the month does not have. Only letter case is ignored (RFC 9111 §4.2).
//! The day name must be a valid one, but need not match the date, which is more reliable.
//!
//! # Not here
//!
//! Dates that are sent: they are written by `httpdate`, whose parser is too lenient to be used here.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};
use time::{Date, Month};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Two-digit years from here on belong to the last century. §5.6.7 asks that no date appears more than fifty years in
/// the future; with this bound none does before the year 2120.
const CENTURY_SPLIT: i32 = 70;

/// The longest form has 33 bytes.
const LENGTH_MAX: usize = 40;

/// The date in the first line of a field; `None` if it is absent or cannot be read.
pub(crate) fn first(headers: &HeaderMap, field: HeaderName) -> Option<SystemTime> {
    parse(headers.get(field)?.as_bytes())
}

/// The date of a field with a single line: conditions with several are ignored (RFC 9110 §13.1.3).
pub(crate) fn only(headers: &HeaderMap, field: HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(field).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    parse(line.as_bytes())
}

/// How long `Retry-After` asks to wait from `now` on (RFC 9110 §10.2.3); `None` if it is absent or unreadable, and zero
/// for a date in the past.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    delay(headers).or_else(|| Some(first(headers, RETRY_AFTER)?.duration_since(now).unwrap_or_default()))
}

/// The same if it is given in seconds.
pub fn delay(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.as_bytes().trim_ascii();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    // More seconds than fit are longer than anybody waits.
    digits
        .then(|| std::str::from_utf8(text).ok()?.parse().ok())
        .map(|seconds| Duration::from_secs(seconds.unwrap_or(u64::MAX)))
}

/// Parses a date in any of the three forms.
pub(crate) fn parse(text: &[u8]) -> Option<SystemTime> {
    let text = text.trim_ascii();
    if text.len() > LENGTH_MAX {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let (day_name, rest) = text.split_at(text.find([',', ' '])?);
    match rest.strip_prefix(", ") {
        Some(rest) if DAYS.contains(&day_name) => rfc850(rest),
        Some(rest) => short(day_name).and_then(|()| fixed(rest)),
        None => short(day_name).and_then(|()| asctime(rest.strip_prefix(' ')?)),
    }
}

/// `Sun` and the like.
fn short(name: &str) -> Option<()> {
    (name.len() == 3 && DAYS.iter().any(|day| day.starts_with(name))).then_some(())
}

/// `06 Nov 1994 08:49:37 GMT`
fn fixed(text: &str) -> Option<SystemTime> {
    let mut parts = text.split(' ');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let (time, zone, None) = (parts.next()?, parts.next()?, parts.next()) else { return None };
    let year = number(year, 4)?;
    (zone == "gmt").then(|| moment(year, month, number(day, 2)?, time))?
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix(" gmt")?.split_once(' ')?;
    let mut parts = date.split('-');
    let (day, month, year, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    let year: i32 = number(year, 2)?;
    let year = if year < CENTURY_SPLIT { 2000 + year } else { 1900 + year };
    moment(year, month, number(day, 2)?, time)
}

/// `Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<SystemTime> {
    let (month, rest) = text.split_once(' ')?;
    let (day, rest) = rest.split_at_checked(2)?;
    let (time, year) = rest.strip_prefix(' ')?.split_once(' ')?;
    let day = day.strip_prefix(' ').map_or_else(|| number(day, 2), |digit| number(digit, 1))?;
    moment(number(year, 4)?, month, day, time)
}

/// Exactly this many digits.
fn number<T: FromStr>(text: &str, digits: usize) -> Option<T> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn moment(year: i32, month: &str, day: u8, time: &str) -> Option<SystemTime> {
    let months_before = u8::try_from(MONTHS.iter().position(|known| *known == month)?).ok()?;
    let date = Date::from_calendar_date(year, Month::January.nth_next(months_before), day).ok()?;
    let mut parts = time.split(':');
    let (hour, minute, second) =
        (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number::<u8>(parts.next()?, 2)?);
    // 60 is a leap second; it is read as the beginning of the next minute.
    if parts.next().is_some() || second > 60 {
        return None;
    }
    let minute = date.with_hms(hour, minute, 0).ok()?.assume_utc();
    SystemTime::from(minute).checked_add(Duration::from_secs(second.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_in_seconds_and_as_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let secs = |secs| Some(Duration::from_secs(secs));
        let cases = [
            ("120", secs(120)),
            (" 0 ", secs(0)),
            ("99999999999999999999999", secs(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", secs(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", secs(0)),
            ("1.5", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("soon", None),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn three_forms_are_read_and_nothing_else_is() {
        const AT: Option<i64> = Some(784_111_777);
        let cases = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", AT),
            ("Sunday, 06-Nov-94 08:49:37 GMT", AT),
            ("Sun Nov  6 08:49:37 1994", AT),
            (" Sun, 06 Nov 1994 08:49:37 GMT ", AT),
            ("sun, 06 nOV 1994 08:49:37 gmt", AT), // RFC 9111 §4.2: case-insensitive
            ("Mon, 06 Nov 1994 08:49:37 GMT", AT), // the day name is wrong, the date counts
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thursday, 01-Jan-70 00:00:00 GMT", Some(0)),
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800)),
            ("Tuesday, 01-Jan-69 00:00:00 GMT", Some(3_124_224_000)), // 2069
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_800)),   // a leap second
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Sun, 29 Feb 2023 00:00:00 GMT", None),
            ("Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 94 08:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08.49.37 GMT", None),
            ("Sun,  06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06-Nov-1994 08:49:37 GMT", None),
            ("Sun 06 Nov 1994 08:49:37 GMT", None),
            ("Foo, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun Nov 6 08:49:37 1994", None),
            ("784111777", None),
            ("0", None),
            ("-1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let read = parse(text.as_bytes()).map(|at| match at.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => since.as_secs().cast_signed(),
                Err(before) => -before.duration().as_secs().cast_signed(),
            });
            assert_eq!(read, expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0_u64..253_402_300_800) {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            proptest::prop_assert_eq!(parse(httpdate::fmt_http_date(at).as_bytes()), Some(at));
        }

        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = parse(&text);
            let _ = parse(&[b"Sun Nov ", &text[..]].concat());
        }
    }
}
