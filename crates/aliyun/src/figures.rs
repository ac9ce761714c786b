//! Queries for monitoring data: which figures, of which domains, in which window, at which interval.
//!
//! # What always holds
//!
//! - Both times are given or neither; without them the window is the last day ([`WINDOW`]).
//! - The interval must be allowed for the length of the window and still stored for its start ([`FIGURES_KEPT_DAYS`]);
//!   otherwise the finest such interval is used, as the pages say, and the reply states it.
//! - A query for times older than all stored figures is refused, never answered with zeros.
//!
//! # Not here
//!
//! Writing figures into fields: `shown`. The figures themselves: the control plane has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::read::{Params, Request};
use crate::refusal::Refusal;
use crate::tasks::read_time;

mod shown;

pub use shown::{FiguresShown, UrlsShown};
pub(crate) use shown::{fields, urls_fields};

/// For how many days buckets of 300, 3600 and 86400 seconds can be queried.
pub const FIGURES_KEPT_DAYS: [u64; 3] = [31, 186, 366];

/// For how many days lists of URLs can be queried.
pub const URLS_KEPT_DAYS: u64 = 31;

/// Domains that one call may name.
pub const FIGURE_DOMAINS_MAX: usize = 500;

/// Length of the window of a call that names none.
const WINDOW: Duration = Duration::from_secs(DAY);

/// Intervals, in seconds, with the longest windows they are allowed for.
const INTERVALS: [(u64, u64); 3] = [(300, 3 * DAY), (3_600, 31 * DAY), (DAY, u64::MAX)];

/// Longest window of a list of URLs.
const URLS_WINDOW_MAX: Duration = Duration::from_secs(7 * DAY);

/// Tolerated difference between a client's clock and ours when it computes a window.
const SKEW: Duration = Duration::from_secs(15 * 60);

const DAY: u64 = 86_400;

/// The figure that is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The share of bytes sent from stores.
    HitRate,
    /// The share of requests answered from stores.
    RequestHitRate,
    /// Bits per second.
    Bps,
    /// Bytes.
    Traffic,
    /// Requests, and requests per second.
    Qps,
    /// Responses by status.
    HttpCode,
    /// Bits per second from origins.
    SourceBps,
    /// Bytes from origins.
    SourceTraffic,
    /// Requests per second to origins.
    SourceQps,
    /// Responses of origins by status.
    SourceHttpCode,
}

/// Where figures were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everywhere.
    Anywhere,
    /// POPs on the Chinese mainland.
    Domestic,
    /// POPs elsewhere.
    Overseas,
    /// A place without a POP, or an unknown provider: no figures are from there.
    Nowhere,
}

/// The only provider of users, as theirs are unknown.
pub const ANY_ISP: &str = "other";

/// A window of time, and the length of its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its start, as requested.
    pub start: SystemTime,
    /// Its end, as requested.
    pub end: SystemTime,
    /// Length of a bucket, in seconds.
    pub interval: u64,
}

impl Window {
    /// The starts of its buckets, in seconds since 1970: the bucket in which the window starts, and every later one
    /// that starts before its end and not after `now`.
    pub fn buckets(&self, now: SystemTime) -> impl Iterator<Item = u64> + use<> {
        let (start, end) = (secs(self.start), secs(self.end.min(now)));
        let end = if self.end > now { end + 1 } else { end };
        (start - start % self.interval..end).step_by(usize::try_from(self.interval).unwrap_or(usize::MAX).max(1))
    }
}

/// A query for figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FigureQuery {
    /// What is asked for.
    pub figure: Figure,
    /// The domains, lower case; all if empty.
    pub domains: Vec<String>,
    /// The domains as written in the request.
    pub domain_text: String,
    /// The time.
    pub window: Window,
    /// The place.
    pub place: Place,
    /// The location as written in the request.
    pub location_text: String,
    /// The provider as written in the request.
    pub isp_text: String,
}

/// The order of a list of URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// Requests.
    Requests,
    /// Bytes.
    Bytes,
}

/// A query for the most requested URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlQuery {
    /// Whether it is about requests to origins.
    pub origins: bool,
    /// The domains, lower case.
    pub domains: Vec<String>,
    /// The domains as written in the request.
    pub domain_text: String,
    /// The start of the window.
    pub start: SystemTime,
    /// The end of the window.
    pub end: SystemTime,
    /// The order.
    pub sort: SortBy,
}

/// The figure that an action queries; `action` is its name after the product.
pub(crate) fn figure(action: &str) -> Option<Figure> {
    let name = action.strip_prefix("DescribeVod").or_else(|| action.strip_prefix("Describe"))?;
    Some(match name {
        "DomainHitRateData" => Figure::HitRate,
        "DomainReqHitRateData" => Figure::RequestHitRate,
        "DomainBpsData" => Figure::Bps,
        "DomainTrafficData" => Figure::Traffic,
        "DomainQpsData" => Figure::Qps,
        "DomainHttpCodeData" => Figure::HttpCode,
        "DomainSrcBpsData" => Figure::SourceBps,
        "DomainSrcTrafficData" => Figure::SourceTraffic,
        "DomainSrcQpsData" => Figure::SourceQps,
        "DomainSrcHttpCodeData" => Figure::SourceHttpCode,
        _ => return None,
    })
}

/// Reads a query for figures.
pub(crate) fn query(request: &Request, figure: Figure, now: SystemTime) -> Result<FigureQuery, Refusal> {
    let params = &request.params;
    let (domains, domain_text) = domains(params)?;
    let window = window(params, now).map_err(|fault| fault.worded(&request.action))?;
    let text = |name: &str| params.get(name).unwrap_or_default().to_owned();
    // Only these have the two parameters.
    let placed = matches!(figure, Figure::Bps | Figure::Traffic | Figure::Qps | Figure::HttpCode);
    let place = if placed { place(params) } else { Place::Anywhere };
    let (location_text, isp_text) = (text("LocationNameEn"), text("IspNameEn"));
    Ok(FigureQuery { figure, domains, domain_text, window, place, location_text, isp_text })
}

/// Reads a query for the most requested URLs.
pub(crate) fn urls(request: &Request, origins: bool, now: SystemTime) -> Result<UrlQuery, Refusal> {
    let params = &request.params;
    params.required("DomainName")?;
    let (domains, domain_text) = domains(params)?;
    if !origins && domains.len() > 1 {
        return Err(Refusal::one_domain());
    }
    let sort = match params.get("SortBy").map(str::to_ascii_lowercase).as_deref() {
        None | Some("pv") => SortBy::Requests,
        Some("traf") => SortBy::Bytes,
        Some(_) => return Err(Refusal::invalid("SortBy", "pv or traf is expected")),
    };
    let (start, end) = urls_window(params, now).map_err(|fault| fault.worded(&request.action))?;
    Ok(UrlQuery { origins, domains, domain_text, start, end, sort })
}

fn domains(params: &Params) -> Result<(Vec<String>, String), Refusal> {
    let text = params.get("DomainName").unwrap_or_default().trim();
    let mut domains: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let name = name.to_ascii_lowercase();
        if !domains.contains(&name) {
            domains.push(name);
        }
        if domains.len() > FIGURE_DOMAINS_MAX {
            return Err(Refusal::invalid("DomainName", &format!("at most {FIGURE_DOMAINS_MAX} names are expected")));
        }
    }
    if domains.is_empty() && !text.is_empty() {
        return Err(Refusal::invalid("DomainName", "names with commas between them are expected"));
    }
    Ok((domains, text.to_owned()))
}

fn place(params: &Params) -> Place {
    if params.get("IspNameEn").is_some_and(|isp| !isp.eq_ignore_ascii_case(ANY_ISP)) {
        return Place::Nowhere;
    }
    match params.get("LocationNameEn").map(str::to_ascii_lowercase).as_deref() {
        None => Place::Anywhere,
        Some("domestic") => Place::Domestic,
        Some("overseas") => Place::Overseas,
        Some(_) => Place::Nowhere,
    }
}

/// Why a window is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BadWindow {
    /// Only one of the two times is given.
    Alone,
    /// An end without a start.
    NoStart,
    /// The start is unreadable.
    Start,
    /// The end is unreadable.
    End,
    /// The end is not after the start.
    Order,
    /// It starts in the future, before the stored figures, or too long before its end.
    Range,
}

impl BadWindow {
    /// The refusal in the words of the action's page; of two generations, the newer.
    fn worded(self, action: &str) -> Refusal {
        let words = |code: &'static str, text: &str| Refusal::new(400, code, text);
        // Pages that exist only in translation, with different wording.
        let translated = matches!(
            action,
            "DescribeDomainHitRateData"
                | "DescribeDomainTrafficData"
                | "DescribeDomainHttpCodeData"
                | "DescribeDomainSrcHttpCodeData"
                | "DescribeVodDomainTrafficData"
        );
        // The vendor's spelling.
        let mismatch = match action {
            "DescribeDomainBpsData" | "DescribeVodDomainBpsData" => {
                "Specified EndTime does not math the specified StartTime."
            }
            "DescribeVodDomainTrafficData" => "Specified end time does not match the specified start time.",
            _ => "Specified end time does not math the specified start time.",
        };
        match self {
            BadWindow::Alone => words("MissingParameter", "StartTime and EndTime can not be single."),
            BadWindow::NoStart => words("MissingParameter", "The specified value of parameter StartTime is not valid."),
            BadWindow::Start if translated => words("InvalidStartTime.Malformed", "Specified start time is malformed."),
            BadWindow::Start => words("InvalidStartTime.Malformed", "Specified StartTime is malformed."),
            BadWindow::End if translated => words("InvalidEndTime.Malformed", "Specified end time is malformed."),
            BadWindow::End => words("InvalidEndTime.Malformed", "Specified EndTime is malformed."),
            BadWindow::Order => words("InvalidEndTime.Mismatch", mismatch),
            BadWindow::Range if translated => words("InvalidStartTime.ValueNotSupported", mismatch),
            BadWindow::Range => words(
                "InvalidStartTime.ValueNotSupported",
                "The specified value of parameter StartTime is not supported.",
            ),
        }
    }
}

/// Parses `StartTime`, `EndTime` and `Interval`.
fn window(params: &Params, now: SystemTime) -> Result<Window, BadWindow> {
    let (start, end) = match (params.get("StartTime"), params.get("EndTime")) {
        (None, None) => (now.checked_sub(WINDOW).unwrap_or(UNIX_EPOCH), now),
        (Some(start), Some(end)) => (read_time(start).ok_or(BadWindow::Start)?, read_time(end).ok_or(BadWindow::End)?),
        _ => return Err(BadWindow::Alone),
    };
    if end <= start {
        return Err(BadWindow::Order);
    }
    if start > now + SKEW {
        return Err(BadWindow::Range);
    }
    let length = end.duration_since(start).unwrap_or_default().as_secs();
    let age = now.duration_since(start).unwrap_or_default();
    let allowed = |((interval, longest), kept_days): ((u64, u64), u64)| {
        (length <= longest && age <= Duration::from_secs(kept_days * DAY) + SKEW).then_some(interval)
    };
    let allowed: Vec<u64> = INTERVALS.into_iter().zip(FIGURES_KEPT_DAYS).filter_map(allowed).collect();
    let finest = *allowed.first().ok_or(BadWindow::Range)?;
    let asked = params.get("Interval").and_then(|text| text.trim().parse().ok());
    let interval = asked.filter(|asked| allowed.contains(asked)).unwrap_or(finest);
    Ok(Window { start, end, interval })
}

/// The window of a list of URLs: yesterday if no start is given, one day if no end is given.
fn urls_window(params: &Params, now: SystemTime) -> Result<(SystemTime, SystemTime), BadWindow> {
    let today = UNIX_EPOCH + Duration::from_secs(secs(now) / DAY * DAY);
    let day = Duration::from_secs(DAY);
    let (start, end) = match (params.get("StartTime"), params.get("EndTime")) {
        (None, None) => (today.checked_sub(day).unwrap_or(UNIX_EPOCH), today),
        (None, Some(_)) => return Err(BadWindow::NoStart),
        (Some(start), None) => {
            let start = read_time(start).ok_or(BadWindow::Start)?;
            (start, start + day)
        }
        (Some(start), Some(end)) => (read_time(start).ok_or(BadWindow::Start)?, read_time(end).ok_or(BadWindow::End)?),
    };
    let length = end.duration_since(start).map_err(|_| BadWindow::Order)?;
    if length.is_zero() {
        return Err(BadWindow::Order);
    }
    let age = now.duration_since(start).unwrap_or_default();
    if length > URLS_WINDOW_MAX || start > now + SKEW || age > Duration::from_secs(URLS_KEPT_DAYS * DAY) + SKEW {
        return Err(BadWindow::Range);
    }
    Ok((start, end))
}

fn secs(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-01T12:03:30Z";

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn now() -> SystemTime {
        read_time(NOW).unwrap()
    }

    #[test]
    fn interval_is_one_that_window_and_age_allow() {
        let cases = [
            // start                  end                     asked          interval
            ("2026-03-01T00:00:00Z", "2026-03-01T12:00:00Z", "", 300),
            ("2026-03-01T00:00Z", "2026-03-01T12:00Z", "3600", 3_600), // the older form
            ("2026-03-01T00:00:00Z", "2026-03-01T12:00:00Z", "86400", DAY),
            ("2026-03-01T00:00:00Z", "2026-03-01T12:00:00Z", "60", 300), // not supported: the default
            ("2026-03-01T00:00:00Z", "2026-03-01T12:00:00Z", "nonsense", 300),
            ("2026-02-20T00:00:00Z", "2026-02-23T00:00:00Z", "", 300), // three days
            ("2026-02-20T00:00:00Z", "2026-02-23T00:00:01Z", "", 3_600), // and more
            ("2026-02-20T00:00:00Z", "2026-02-23T00:00:01Z", "300", 3_600),
            ("2026-01-29T00:00:00Z", "2026-03-01T00:00:00Z", "", 3_600), // 31 days
            ("2026-01-29T00:00:00Z", "2026-03-01T00:00:01Z", "3600", DAY),
            ("2026-01-29T12:03:30Z", "2026-01-30T00:00:00Z", "", 300), // 31 days ago
            ("2026-01-29T00:00:00Z", "2026-01-30T00:00:00Z", "300", 3_600), // longer ago: not stored
            ("2025-08-01T00:00:00Z", "2025-08-02T00:00:00Z", "300", DAY), // 212 days ago
        ];
        for (start, end, asked, interval) in cases {
            let params = params(&[("StartTime", start), ("EndTime", end), ("Interval", asked)]);
            let window = window(&params, now()).unwrap_or_else(|bad| panic!("{start} {end}: {bad:?}"));
            assert_eq!(window.interval, interval, "{start} {end} {asked}");
        }
        let usual = window(&params(&[]), now()).unwrap();
        assert_eq!((usual.start + WINDOW, usual.end, usual.interval), (now(), now(), 300));
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let good = "2026-03-01T00:00:00Z";
        let cases = [
            (good, "", BadWindow::Alone),
            ("", good, BadWindow::Alone),
            ("2026-03-01", good, BadWindow::Start),
            ("2026-02-30T00:00:00Z", good, BadWindow::Start),
            (good, "tomorrow", BadWindow::End),
            (good, good, BadWindow::Order),
            (good, "2026-02-28T00:00:00Z", BadWindow::Order),
            ("2026-03-01T12:18:31Z", "2026-03-02T00:00:00Z", BadWindow::Range), // further ahead than clocks may differ
            ("2025-02-01T00:00:00Z", "2025-02-02T00:00:00Z", BadWindow::Range), // no longer stored
        ];
        for (start, end, expected) in cases {
            let got = window(&params(&[("StartTime", start), ("EndTime", end)]), now());
            assert_eq!(got, Err(expected), "{start} {end}");
        }
    }

    #[test]
    fn buckets_are_aligned_and_end_now() {
        let cases = [
            ("2026-03-01T00:01:00Z", "2026-03-01T00:15:00Z", "300", "2026-03-01T00:00:00Z", 3),
            ("2026-03-01T00:00:00Z", "2026-03-01T00:15:01Z", "300", "2026-03-01T00:00:00Z", 4),
            ("2026-03-01T11:30:00Z", "2026-03-02T00:00:00Z", "300", "2026-03-01T11:30:00Z", 7), // 12:00 still runs
            ("2026-03-01T11:30:00Z", "2026-03-02T00:00:00Z", "86400", "2026-03-01T00:00:00Z", 1),
            ("2026-03-01T12:05:00Z", "2026-03-02T00:00:00Z", "300", "", 0), // not yet started
        ];
        for (start, end, interval, first, count) in cases {
            let params = params(&[("StartTime", start), ("EndTime", end), ("Interval", interval)]);
            let buckets: Vec<u64> = window(&params, now()).unwrap().buckets(now()).collect();
            assert_eq!(buckets.len(), count, "{start} {end}");
            assert_eq!(buckets.first().copied(), read_time(first).map(secs), "{start} {end}");
        }
    }

    #[test]
    fn urls_are_those_of_yesterday_unless_told() {
        let time = |text: &str| read_time(text).unwrap();
        let cases = [
            ("", "", Ok(("2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"))),
            ("2026-02-10T00:00:00Z", "", Ok(("2026-02-10T00:00:00Z", "2026-02-11T00:00:00Z"))),
            ("2026-02-10T00:00:00Z", "2026-02-17T00:00:00Z", Ok(("2026-02-10T00:00:00Z", "2026-02-17T00:00:00Z"))),
            ("2026-02-10T00:00:00Z", "2026-02-17T00:00:01Z", Err(BadWindow::Range)),
            ("2026-02-10T00:00:00Z", "2026-02-10T00:00:00Z", Err(BadWindow::Order)),
            ("", "2026-02-17T00:00:01Z", Err(BadWindow::NoStart)),
            ("2026-01-01T00:00:00Z", "", Err(BadWindow::Range)),
            ("2026-03-02T00:00:00Z", "", Err(BadWindow::Range)),
        ];
        for (start, end, expected) in cases {
            let got = urls_window(&params(&[("StartTime", start), ("EndTime", end)]), now());
            assert_eq!(got, expected.map(|(start, end)| (time(start), time(end))), "{start} {end}");
        }
    }

    #[test]
    fn places_without_a_pop_have_nothing() {
        let cases = [
            ("", "", Place::Anywhere),
            ("Domestic", "", Place::Domestic),
            ("overseas", "other", Place::Overseas),
            ("hangzhou", "", Place::Nowhere),
            ("", "telecom", Place::Nowhere),
            ("domestic", "telecom", Place::Nowhere),
        ];
        for (location, isp, expected) in cases {
            let params = params(&[("LocationNameEn", location), ("IspNameEn", isp)]);
            assert_eq!(place(&params), expected, "{location} {isp}");
        }
    }
}
