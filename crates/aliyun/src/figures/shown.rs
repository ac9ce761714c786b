//! Figures as fields of replies: strings, as in the official SDKs' models.
//!
//! # What always holds
//!
//! - Arithmetic is in integers and rounds down: bits per second to a whole number, requests per second and percentages
//!   to hundredths. A share of zero requests is 0.
//! - Every bucket of the window is present; those without requests contain zeros.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::figures::{Class, Codes, Figures, Regional, Side, Tally};
use serde_json::{Map, Value, json};

use super::{Figure, FigureQuery, Place, SortBy, UrlQuery};
use crate::read::{Product, timestamp};

/// Maximum number of URLs in one list.
const URLS_SHOWN_MAX: usize = 100;

/// The answer to a query for figures.
#[derive(Clone, Debug, PartialEq)]
pub struct FiguresShown {
    /// The query.
    pub query: FigureQuery,
    /// The figures of each bucket, by its start in seconds since 1970.
    pub buckets: Vec<(u64, Regional)>,
}

/// The answer to a query for the most requested URLs.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlsShown {
    /// The query.
    pub query: UrlQuery,
    /// The counts of each URL, unordered, each URL once per class.
    pub urls: Vec<(Class, model::figures::Visits)>,
}

/// The fields of figures.
pub(crate) fn fields(product: Product, request_id: &str, shown: &FiguresShown) -> Value {
    let FiguresShown { query, buckets } = shown;
    let interval = query.window.interval;
    let rows: Vec<Value> = buckets
        .iter()
        .map(|(bucket, counted)| {
            let mut row = match (query.place, query.figure) {
                (Place::Nowhere, figure) => row(figure, interval, &Regional::default()),
                (Place::Anywhere, figure) => row(figure, interval, counted),
                (Place::Domestic, figure) => {
                    row(figure, interval, &Regional { overseas: Figures::default(), ..counted.clone() })
                }
                (Place::Overseas, figure) => {
                    row(figure, interval, &Regional { domestic: Figures::default(), ..counted.clone() })
                }
            };
            row.insert("TimeStamp".to_owned(), json!(timestamp(at(*bucket))));
            Value::Object(row)
        })
        .collect();
    let (list, element) = match (query.figure, product) {
        (Figure::HitRate, _) => ("HitRateInterval", "DataModule"),
        (Figure::RequestHitRate, Product::Cdn) => ("ReqHitRateInterval", "DataModule"),
        (Figure::RequestHitRate, Product::Vod) => ("Data", "DataModule"),
        (Figure::Bps, _) => ("BpsDataPerInterval", "DataModule"),
        (Figure::Traffic, _) => ("TrafficDataPerInterval", "DataModule"),
        (Figure::Qps, _) => ("QpsDataInterval", "DataModule"),
        (Figure::SourceBps, _) => ("SrcBpsDataPerInterval", "DataModule"),
        (Figure::SourceTraffic, _) => ("SrcTrafficDataPerInterval", "DataModule"),
        (Figure::SourceQps, _) => ("SrcQpsDataPerInterval", "DataModule"),
        (Figure::HttpCode | Figure::SourceHttpCode, _) => ("HttpCodeData", "UsageData"),
    };
    let mut fields = json!({
        "RequestId": request_id,
        "DomainName": query.domain_text,
        "StartTime": timestamp(query.window.start),
        "EndTime": timestamp(query.window.end),
        "DataInterval": interval.to_string(),
        list: { element: rows },
    });
    if query.figure == Figure::Bps {
        fields["LocationNameEn"] = json!(query.location_text);
        fields["IspNameEn"] = json!(query.isp_text);
    }
    if product == Product::Vod {
        let total = |side: fn(&Figures) -> &Side| {
            let rows = rows_of(shown);
            rows.iter().map(|figures| side(figures).all.bytes).fold(0, u64::saturating_add).to_string()
        };
        match query.figure {
            Figure::Traffic => fields["TotalTraffic"] = json!(total(|figures| &figures.users)),
            Figure::SourceTraffic => fields["TotalTraffic"] = json!(total(|figures| &figures.origins)),
            _ => {}
        }
    }
    fields
}

/// The figures of each bucket, with the regions added up.
fn rows_of(shown: &FiguresShown) -> Vec<Figures> {
    let of = |(_, counted): &(u64, Regional)| match shown.query.place {
        Place::Anywhere => counted.sum(),
        Place::Domestic => counted.domestic.clone(),
        Place::Overseas => counted.overseas.clone(),
        Place::Nowhere => Figures::default(),
    };
    shown.buckets.iter().map(of).collect()
}

/// A row without its time.
fn row(figure: Figure, interval: u64, counted: &Regional) -> Map<String, Value> {
    let sum = counted.sum();
    let mut row = Map::new();
    match figure {
        Figure::HitRate => {
            let rate = |tally: Tally| percent(tally.hit_bytes, tally.bytes);
            put(&mut row, "Value", rate(sum.users.all));
            put(&mut row, "HttpsValue", rate(sum.users.secure));
        }
        Figure::RequestHitRate => {
            let rate = |tally: Tally| percent(tally.hits, tally.requests);
            put(&mut row, "Value", rate(sum.users.all));
            put(&mut row, "HttpsValue", rate(sum.users.secure));
        }
        Figure::Bps => by_region(&mut row, "", counted, &sum, |tally| bits(tally.bytes, interval)),
        Figure::Traffic => by_region(&mut row, "", counted, &sum, |tally| tally.bytes.to_string()),
        Figure::Qps => {
            by_region(&mut row, "", counted, &sum, |tally| hundredths(tally.requests, interval));
            by_region(&mut row, "Acc", counted, &sum, |tally| tally.requests.to_string());
        }
        Figure::SourceBps => {
            put(&mut row, "Value", bits(sum.origins.all.bytes, interval));
            put(&mut row, "HttpsValue", bits(sum.origins.secure.bytes, interval));
        }
        Figure::SourceTraffic => {
            put(&mut row, "Value", sum.origins.all.bytes.to_string());
            put(&mut row, "HttpsValue", sum.origins.secure.bytes.to_string());
        }
        Figure::SourceQps => put(&mut row, "Value", hundredths(sum.origins.all.requests, interval)),
        Figure::HttpCode => _ = row.insert("Value".to_owned(), codes(&sum.users.codes)),
        Figure::SourceHttpCode => _ = row.insert("Value".to_owned(), codes(&sum.origins.codes)),
    }
    row
}

fn put(row: &mut Map<String, Value>, name: &str, value: String) {
    row.insert(name.to_owned(), Value::String(value));
}

/// Figures of users' responses by region and scheme: six fields, whose names consist of `lead` and the region.
fn by_region(
    row: &mut Map<String, Value>,
    lead: &str,
    counted: &Regional,
    sum: &Figures,
    shown: impl Fn(Tally) -> String,
) {
    for (region, figures) in [("", sum), ("Domestic", &counted.domestic), ("Overseas", &counted.overseas)] {
        put(row, &format!("{lead}{region}Value"), shown(figures.users.all));
        put(row, &format!("Https{lead}{region}Value"), shown(figures.users.secure));
    }
}

fn codes(codes: &Codes) -> Value {
    let all = codes.values().copied().fold(0, u64::saturating_add);
    let one = |(code, count): (&u16, &u64)| json!({ "Code": code.to_string(), "Count": count.to_string(), "Proportion": percent(*count, all) });
    json!({ "CodeProportionData": codes.iter().map(one).collect::<Vec<_>>() })
}

/// The fields of lists of URLs.
pub(crate) fn urls_fields(request_id: &str, shown: &UrlsShown) -> Value {
    let mut fields = json!({
        "RequestId": request_id,
        "DomainName": shown.query.domain_text,
        "StartTime": timestamp(shown.query.start),
    });
    let mut all: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    for (_, visits) in &shown.urls {
        let sum = all.entry(&visits.url).or_default();
        *sum = (sum.0.saturating_add(visits.requests), sum.1.saturating_add(visits.bytes));
    }
    let requests = all.values().map(|sum| sum.0).fold(0, u64::saturating_add);
    let bytes = all.values().map(|sum| sum.1).fold(0, u64::saturating_add);
    let list = |urls: Vec<(&str, (u64, u64))>| -> Value {
        let mut urls = urls;
        urls.sort_by_key(|(url, (requests, bytes))| {
            let by = if shown.query.sort == SortBy::Requests { (*requests, *bytes) } else { (*bytes, *requests) };
            (std::cmp::Reverse(by), *url)
        });
        let one = |(url, (visits, flow)): &(&str, (u64, u64))| {
            json!({
                "UrlDetail": format!("http://{url}"),
                "VisitData": visits.to_string(),
                "VisitProportion": share(*visits, requests),
                "Flow": flow.to_string(),
                "FlowProportion": share(*flow, bytes),
            })
        };
        json!({ "UrlList": urls.iter().take(URLS_SHOWN_MAX).map(one).collect::<Vec<_>>() })
    };
    for class in Class::ALL {
        let of = shown.urls.iter().filter(|(of, _)| *of == class);
        let of = of.map(|(_, visits)| (visits.url.as_str(), (visits.requests, visits.bytes))).collect();
        fields[format!("Url{}00List", class.digit())] = list(of);
    }
    fields["AllUrlList"] = list(all.into_iter().collect());
    fields
}

/// Bits per second for `bytes` in `secs` seconds.
fn bits(bytes: u64, secs: u64) -> String {
    (u128::from(bytes) * 8 / u128::from(secs.max(1))).to_string()
}

fn percent(part: u64, whole: u64) -> String {
    decimal(u128::from(part) * 10_000 / u128::from(whole.max(1)))
}

/// The share as a number.
fn share(part: u64, whole: u64) -> f64 {
    (u128::from(part) * 10_000 / u128::from(whole.max(1))) as f64 / 100.0
}

/// A quotient with up to two decimals.
fn hundredths(number: u64, by: u64) -> String {
    decimal(u128::from(number) * 100 / u128::from(by.max(1)))
}

fn decimal(hundredths: u128) -> String {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => whole.to_string(),
        (whole, part) if part % 10 == 0 => format!("{whole}.{}", part / 10),
        (whole, part) => format!("{whole}.{part:02}"),
    }
}

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_down() {
        let cases = [
            (percent(0, 0), "0"),
            (percent(1, 3), "33.33"),
            (percent(2, 3), "66.66"),
            (percent(1, 2), "50"),
            (percent(9_999_999, 10_000_000), "99.99"),
            (percent(7, 7), "100"),
            (percent(1, 8), "12.5"),
            (hundredths(3, 300), "0.01"),
            (hundredths(2, 300), "0"),
            (hundredths(u64::MAX, 1), "18446744073709551615"),
            (bits(1, 300), "0"),
            (bits(38, 300), "1"),
            (bits(u64::MAX, 300), "491913175298921376"),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected);
        }
    }
}
