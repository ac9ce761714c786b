//! Submitting: PushObjectCache, PreloadVodObjectCaches, RefreshObjectCaches, RefreshVodObjectCaches,
//! RefreshObjectCacheByCacheTag.
//!
//! # Not here
//!
//! Whether a host belongs to the caller, and whether today's quota allows the call: the control plane knows.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use model::{Coverage, DomainName, Pattern, Tag};
use serde_json::Value;

use crate::call::boolean;
use crate::path::{Limits, ObjectPath, Shape, read_lines};
use crate::profile::{AreaDefault, LINES_PER_CALL_MAX, Profile, Wording};
use crate::read::{Params, Request};
use crate::refusal::{Fault, Refusal};
use crate::rules::Rules;
use crate::steering;

/// Maximum number of variants of each URL in one call, from `WithHeader`.
pub const VARIANTS_MAX: usize = 16;

/// Longest `WithHeader`, in bytes.
const WITH_HEADER_BYTES_MAX: usize = 4096;

/// Longest time for which objects may be pinned, in seconds: 30 days.
const PIN_SECS_MAX: u64 = 30 * 86_400;

/// Headers that a prefetch may set, besides those beginning with `x-`.
const HEADERS_ALLOWED: &[&str] =
    &["accept", "accept-encoding", "accept-language", "user-agent", "referer", "origin", "cookie"];

/// A prefetch, checked except for what only the control plane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// The URLs: at least one, without duplicates.
    pub paths: Vec<ObjectPath>,
    /// The area; `None` is wherever the domain is served. Never global.
    pub area: Option<Coverage>,
    /// Whether the L2s are warmed as well as the nodes before the origin (`L2Preload`).
    pub l2: bool,
    /// Whether the nodes that face users are warmed as well (`Tier=edge`, our own).
    pub edge: bool,
    /// The request headers of each variant to fetch, with lower-case names; at least one variant.
    pub variants: Vec<Vec<(String, String)>>,
    /// Whether the URLs themselves are the cache keys, even if the domain's functions derive other ones
    /// (`QueryHashkey=false`).
    pub verbatim: bool,
    /// Whether copies stored before the submission are fetched again (`Refetch`, our own).
    pub refetch: bool,
    /// How long the objects stay in the warmed stores, even under eviction pressure (`Pin`, our own).
    pub pin: Option<Duration>,
    /// Priority among the account's prefetches (`Priority`, our own); `None` is the default.
    pub priority: Option<u8>,
    /// The moment before which it does not begin (`NotBefore`, our own).
    pub not_before: Option<SystemTime>,
}

/// A refresh, checked except for what only the control plane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// The paths: at least one, without duplicates.
    pub paths: Vec<ObjectPath>,
    /// What the paths cover.
    pub kind: RefreshType,
    /// Whether stored copies are deleted rather than expired. Has no effect on files, which are always deleted.
    pub force: bool,
}

/// What a refresh's paths cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshType {
    /// One object per path.
    File,
    /// Everything below each path. The key may be a wildcard domain with its leading dot as host and the path `/`: all
    /// of that domain.
    Directory,
    /// Everything that each path, as a [`Pattern`], matches.
    Regex,
    /// Each path with any query; the keys have none.
    IgnoreParams,
}

/// A refresh by tag, checked except for what only the control plane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshByTag {
    /// The domain of the objects.
    pub domain: DomainName,
    /// The tags: at least one, without duplicates.
    pub tags: Vec<Tag>,
    /// Whether stored copies are deleted rather than expired.
    pub force: bool,
}

impl RefreshByTag {
    /// The line for one of its tags in task lists, where every line is a URL; no page of the vendor's shows one.
    pub fn line(domain: &DomainName, tag: &Tag) -> String {
        format!("http://{domain}/?CacheTag={}", crate::form::encode(tag.as_str()))
    }
}

/// Reads the parameters of a prefetch.
pub(crate) fn prefetch(
    request: &Request,
    profile: &Profile,
    rules: Rules,
    now: SystemTime,
) -> Result<Prefetch, Refusal> {
    let params = &request.params;
    let wording = profile.wording(request);
    let per_call = profile.per_call(request.product);
    let limits = Limits { lines: per_call.push_call, hosts: per_call.call.domains, per_host: per_call.call.per_domain };
    let paths = paths(request, Shape::Prefetch, limits, wording, rules)?;
    let area = match params.get("Area") {
        Some(area) if area.eq_ignore_ascii_case("domestic") => Some(Coverage::Domestic),
        Some(area) if area.eq_ignore_ascii_case("overseas") => Some(Coverage::Overseas),
        Some(_) => return Err(Refusal::invalid("Area", "domestic or overseas is expected")),
        None => match per_call.area_default {
            AreaDefault::Domain => None,
            AreaDefault::Overseas => Some(Coverage::Overseas),
        },
    };
    let edge = match params.get("Tier") {
        Some(tier) if tier.eq_ignore_ascii_case("edge") => true,
        Some(_) => return Err(Refusal::invalid("Tier", "edge is expected")),
        None => false,
    };
    let with_header = match wording {
        Wording::Legacy => None, // older than the parameter
        Wording::Current | Wording::LegacyVod => params.get("WithHeader"),
    };
    // Before the parameter existed, only omitting it selects the key of users' requests.
    let (asked_for_key, derived) = (params.get("QueryHashkey").is_some(), boolean(params, "QueryHashkey")?);
    Ok(Prefetch {
        paths,
        area,
        l2: boolean(params, "L2Preload")?,
        edge,
        variants: variants(with_header).map_err(|fault| Refusal::of(fault, wording))?,
        verbatim: !derived && (asked_for_key || wording == Wording::Current),
        refetch: boolean(params, "Refetch")?,
        pin: pin(params)?,
        priority: steering::priority(params)?,
        not_before: steering::not_before(params, now)?,
    })
}

/// How long the objects are to be pinned.
fn pin(params: &Params) -> Result<Option<Duration>, Refusal> {
    let Some(text) = params.get("Pin") else { return Ok(None) };
    let secs = text.parse().ok().filter(|secs| (1..=PIN_SECS_MAX).contains(secs));
    let secs = secs.ok_or_else(|| Refusal::invalid("Pin", "a number of seconds from 1 to 2592000 is expected"))?;
    Ok(Some(Duration::from_secs(secs)))
}

/// Reads the parameters of a refresh.
pub(crate) fn refresh(request: &Request, profile: &Profile, rules: Rules) -> Result<Refresh, Refusal> {
    let params = &request.params;
    let wording = profile.wording(request);
    params.required("ObjectPath")?;
    let kind = match params.get("ObjectType").unwrap_or("File").to_ascii_lowercase().as_str() {
        "file" => RefreshType::File,
        "directory" => RefreshType::Directory,
        "regex" => RefreshType::Regex,
        "exquery" | "ignoreparams" => RefreshType::IgnoreParams,
        _ => return Err(Refusal::of(Fault::ObjectType, wording)),
    };
    let per_call = profile.per_call(request.product).call;
    let (shape, lines) = match kind {
        RefreshType::File => (Shape::File, per_call.url),
        RefreshType::Directory => (Shape::Directory, per_call.dir),
        RefreshType::Regex => (Shape::Regex, per_call.regex.unwrap_or(per_call.dir)),
        RefreshType::IgnoreParams => (Shape::IgnoreParams, per_call.url),
    };
    let limits = Limits { lines, hosts: per_call.domains, per_host: per_call.per_domain };
    let paths = paths(request, shape, limits, wording, rules)?;
    if kind == RefreshType::Regex {
        let bad = paths.iter().find_map(|path| Pattern::parse(path.key.clone()).err());
        if let Some(bad) = bad {
            return Err(Refusal::of(Fault::ObjectPath, wording).because(&bad.to_string()));
        }
    }
    Ok(Refresh { paths, kind, force: boolean(params, "Force")? })
}

/// Reads the parameters of a refresh by tag.
pub(crate) fn refresh_by_tag(request: &Request, profile: &Profile) -> Result<RefreshByTag, Refusal> {
    let params = &request.params;
    let wording = profile.wording(request);
    let (name, list) = (params.required("DomainName")?, params.required("CacheTag")?);
    if name.starts_with('*') {
        return Err(Refusal::of(Fault::WildcardHost, wording));
    }
    let domain = DomainName::parse(name).map_err(|_| Refusal::of(Fault::DomainUnknown, wording))?;
    let mut tags: Vec<Tag> = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let tag = Tag::parse(text).map_err(|bad| Refusal::of(Fault::ObjectPath, wording).because(&bad.to_string()))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > LINES_PER_CALL_MAX {
            return Err(Refusal::of(Fault::OverLimit, wording));
        }
    }
    if tags.is_empty() {
        return Err(Refusal::missing("CacheTag"));
    }
    Ok(RefreshByTag { domain, tags, force: boolean(params, "Force")? })
}

/// The lines of `ObjectPath`, at least one.
fn paths(
    request: &Request,
    shape: Shape,
    limits: Limits,
    wording: Wording,
    rules: Rules,
) -> Result<Vec<ObjectPath>, Refusal> {
    let text = request.params.required("ObjectPath")?;
    let paths = read_lines(text, shape, limits, rules).map_err(|fault| Refusal::of(fault, wording))?;
    if paths.is_empty() { Err(Refusal::missing("ObjectPath")) } else { Ok(paths) }
}

/// The variants for `WithHeader`: every combination of one value of each header (prefetch-refresh §6).
fn variants(with_header: Option<&str>) -> Result<Vec<Vec<(String, String)>>, Fault> {
    let Some(text) = with_header else {
        return Ok(vec![vec![("accept-encoding".to_owned(), "gzip".to_owned())]]);
    };
    if text.len() > WITH_HEADER_BYTES_MAX {
        return Err(Fault::HeaderSyntax);
    }
    let Ok(Value::Object(headers)) = serde_json::from_str(text) else {
        return Err(Fault::HeaderSyntax);
    };
    let mut variants: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for (name, values) in &headers {
        let values: Option<Vec<&str>> = values.as_array().and_then(|values| values.iter().map(Value::as_str).collect());
        let values = values.filter(|values| !values.is_empty()).ok_or(Fault::HeaderSyntax)?;
        let name = name.to_ascii_lowercase();
        let allowed = HEADERS_ALLOWED.contains(&name.as_str()) || name.starts_with("x-");
        if !allowed || HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(Fault::HeaderName);
        }
        let valid = |value: &&str| HeaderValue::from_str(value).is_ok();
        let twice = variants[0].iter().any(|(seen, _)| *seen == name);
        if twice || !values.iter().all(valid) {
            return Err(Fault::HeaderSyntax);
        }
        if variants.len() * values.len() > VARIANTS_MAX {
            return Err(Fault::HeaderName);
        }
        variants = variants
            .iter()
            .flat_map(|variant| {
                values.iter().map(|value| {
                    let mut variant = variant.clone();
                    variant.push((name.clone(), (*value).to_owned()));
                    variant
                })
            })
            .collect();
    }
    Ok(variants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_header_is_read_into_variants() {
        type Variants<'a> = &'a [&'a [(&'a str, &'a str)]];
        let cases: &[(&str, Result<Variants<'_>, Fault>)] = &[
            (r#"{"Accept-Encoding":["gzip"]}"#, Ok(&[&[("accept-encoding", "gzip")]])),
            (
                r#"{"Accept-Encoding":["gzip","br"]}"#,
                Ok(&[&[("accept-encoding", "gzip")], &[("accept-encoding", "br")]]),
            ),
            (
                r#"{"Accept":["a","b"],"X-Kind":["1"]}"#,
                Ok(&[&[("accept", "a"), ("x-kind", "1")], &[("accept", "b"), ("x-kind", "1")]]),
            ),
            ("{}", Ok(&[&[]])),
            ("gzip", Err(Fault::HeaderSyntax)),
            ("[]", Err(Fault::HeaderSyntax)),
            (r#"{"Accept":"a"}"#, Err(Fault::HeaderSyntax)),
            (r#"{"Accept":[]}"#, Err(Fault::HeaderSyntax)),
            (r#"{"Accept":[1]}"#, Err(Fault::HeaderSyntax)),
            (r#"{"Accept":["a\nb"]}"#, Err(Fault::HeaderSyntax)),
            (r#"{"Accept":["a"],"accept":["b"]}"#, Err(Fault::HeaderSyntax)),
            (r#"{"Host":["a"]}"#, Err(Fault::HeaderName)),
            (r#"{"Range":["bytes=0-1"]}"#, Err(Fault::HeaderName)),
            (r#"{"Authorization":["a"]}"#, Err(Fault::HeaderName)),
            (r#"{"X- y":["a"]}"#, Err(Fault::HeaderName)),
            (r#"{"Accept":["1","2","3","4","5"],"Origin":["1","2","3","4"]}"#, Err(Fault::HeaderName)),
        ];
        for (text, expected) in cases {
            let got = variants(Some(text));
            let expected = expected.map(|variants| {
                let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
                variants.iter().map(|variant| variant.iter().map(pair).collect()).collect::<Vec<Vec<_>>>()
            });
            assert_eq!(got, expected, "{text}");
        }
    }
}
