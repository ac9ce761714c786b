//! The vendor's tags of domains: TagResources, UntagResources, ListTagResources, DescribeTagResources,
//! DescribeUserTags.
//!
//! They have no effect here; they are stored, shown and used as filters. In code they are called labels, as a tag is
//! what a refresh by tag names.
//!
//! # What always holds
//!
//! - A call names at most 20 labels and 50 domains, without duplicates, and no key or value is longer than 128
//!   characters.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::DomainName;
use serde_json::{Value, json};

use crate::call::boolean;
use crate::profile::Profile;
use crate::read::{Params, Request};
use crate::refusal::{Fault, Refusal};

/// Maximum number of labels in one call, and of one domain.
pub const LABELS_MAX: usize = 20;

/// Maximum number of domains in one call.
const RESOURCES_MAX: usize = 50;

/// Longest key and longest value, in characters.
const CHARACTERS_MAX: usize = 128;

/// Longest name of a domain.
const NAME_CHARACTERS_MAX: usize = 254;

/// Longest `NextToken`, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;

/// A label: key and value; the value may be empty.
pub type Label = (String, String);

/// A label to filter by: `None` for any value of the key.
pub type LabelFilter = (String, Option<String>);

/// A request to add labels to domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLabels {
    /// The domains, without duplicates.
    pub domains: Vec<DomainName>,
    /// The labels; at least one, without duplicate keys.
    pub labels: Vec<Label>,
}

/// A request to remove labels from domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveLabels {
    /// The domains, without duplicates.
    pub domains: Vec<DomainName>,
    /// The keys; `None` for all labels.
    pub keys: Option<Vec<String>>,
}

/// A query for labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelQuery {
    /// The domains; empty for any.
    pub domains: Vec<DomainName>,
    /// Only domains that have all of these.
    pub labels: Vec<LabelFilter>,
    /// After this domain and key, where an earlier answer ended.
    pub after: Option<(String, String)>,
}

/// A label of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRow {
    /// The domain.
    pub domain: String,
    /// Its label.
    pub label: Label,
}

/// Reads TagResources.
pub(crate) fn set(request: &Request, profile: &Profile) -> Result<SetLabels, Refusal> {
    let domains = resources(request, profile, true)?;
    let labels = read(&request.params)?;
    if labels.is_empty() {
        return Err(Refusal::missing("Tag.1.Key"));
    }
    Ok(SetLabels { domains, labels })
}

/// Reads UntagResources: the named keys, or all if none is named.
pub(crate) fn remove(request: &Request, profile: &Profile) -> Result<RemoveLabels, Refusal> {
    let domains = resources(request, profile, true)?;
    let all = boolean(&request.params, "All")?;
    let keys: Vec<String> = list(&request.params, "TagKey", LABELS_MAX)?.into_iter().map(|(_, key)| key).collect();
    match (keys.is_empty(), all) {
        (false, _) => Ok(RemoveLabels { domains, keys: Some(keys) }),
        (true, true) => Ok(RemoveLabels { domains, keys: None }),
        (true, false) => Err(Refusal::missing("TagKey.1")),
    }
}

/// Reads ListTagResources and DescribeTagResources; only the latter requires domains.
pub(crate) fn query(request: &Request, profile: &Profile, needs_domains: bool) -> Result<LabelQuery, Refusal> {
    let domains = resources(request, profile, needs_domains)?;
    let after = match request.params.get("NextToken").filter(|_| !needs_domains) {
        None => None,
        Some(token) => Some(
            open(token)
                .ok_or_else(|| Refusal::invalid("NextToken", "the NextToken of an earlier answer is expected"))?,
        ),
    };
    Ok(LabelQuery { domains, labels: filters(&request.params)?, after })
}

/// Parses the labels `Tag.N.Key` and `Tag.N.Value`.
pub(crate) fn read(params: &Params) -> Result<Vec<Label>, Refusal> {
    let filters = filters(params)?;
    let good = |key: &str| {
        let lower = key.to_ascii_lowercase();
        let reserved = lower.starts_with("aliyun") || lower.starts_with("acs:");
        !reserved && !lower.contains("http://") && !lower.contains("https://")
    };
    if let Some((key, _)) = filters.iter().find(|(key, _)| !good(key)) {
        let expected = "a key that neither begins with aliyun or acs: nor has http:// or https:// in it is expected";
        return Err(Refusal::invalid(key, expected));
    }
    Ok(filters.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Parses the same as filters: a missing value matches any.
pub(crate) fn filters(params: &Params) -> Result<Vec<LabelFilter>, Refusal> {
    let mut labels: Vec<LabelFilter> = Vec::new();
    let fields = list(params, "Tag", LABELS_MAX)?;
    let value_of = |number: &str| {
        fields.iter().find(|(name, _)| name.strip_suffix(".Value") == Some(number)).map(|(_, value)| value.clone())
    };
    for (name, text) in &fields {
        match name.split_once('.') {
            Some((number, "Key")) => {
                if labels.iter().any(|(known, _)| known == text) {
                    return Err(Refusal::invalid(text, "each key once is expected"));
                }
                labels.push((text.clone(), value_of(number)));
            }
            Some((number, "Value")) => {
                if !fields.iter().any(|(name, _)| name.strip_suffix(".Key") == Some(number)) {
                    return Err(Refusal::missing(&format!("Tag.{number}.Key")));
                }
            }
            _ => return Err(Refusal::invalid(&format!("Tag.{name}"), "Tag.N.Key and Tag.N.Value are expected")),
        }
    }
    Ok(labels)
}

/// Parses the domains `ResourceId.N`; there is only one type.
fn resources(request: &Request, profile: &Profile, needed: bool) -> Result<Vec<DomainName>, Refusal> {
    let params = &request.params;
    let ids = list(params, "ResourceId", RESOURCES_MAX)?;
    if needed && ids.is_empty() {
        return Err(Refusal::missing("ResourceId.1"));
    }
    if !params.required("ResourceType")?.eq_ignore_ascii_case("DOMAIN") {
        return Err(Refusal::invalid("ResourceType", "DOMAIN is expected"));
    }
    let mut domains = Vec::new();
    for (_, id) in ids {
        // An invalid name belongs to no domain.
        let name = DomainName::parse(&id);
        let name = name.map_err(|_| Refusal::of(Fault::DomainUnknown, profile.wording(request)))?;
        if !domains.contains(&name) {
            domains.push(name);
        }
    }
    Ok(domains)
}

/// The parameters `NAME.N` and `NAME.N.FIELD`, by the part after `NAME.`, in the order of their numbers.
fn list(params: &Params, name: &str, most: usize) -> Result<Vec<(String, String)>, Refusal> {
    let prefix = format!("{name}.");
    let longest = if name == "ResourceId" { NAME_CHARACTERS_MAX } else { CHARACTERS_MAX };
    let mut found: Vec<(usize, String, String)> = Vec::new();
    for (rest, value) in params.with_prefix(&prefix).filter(|(_, value)| !value.is_empty()) {
        let number = rest.split('.').next().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| (1..=most).contains(number)) else {
            return Err(Refusal::invalid(
                &format!("{prefix}{rest}"),
                &format!("numbers from 1 to {most} are expected"),
            ));
        };
        if value.chars().count() > longest || value.chars().any(char::is_control) {
            let expected = format!("at most {longest} printable characters are expected");
            return Err(Refusal::invalid(&format!("{prefix}{rest}"), &expected));
        }
        found.push((number, rest.to_owned(), value.to_owned()));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, rest, value)| (rest, value)).collect())
}

/// The token for continuing a list, which [`open`] decodes.
fn seal(after: &LabelRow) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}\n{}", after.domain, after.label.0))
}

fn open(token: &str) -> Option<(String, String)> {
    let bytes = Some(token).filter(|token| token.len() <= TOKEN_BYTES_MAX)?;
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(bytes).ok()?).ok()?;
    let (domain, key) = text.split_once('\n')?;
    Some((domain.to_owned(), key.to_owned()))
}

/// The fields of ListTagResources; `more` says whether the list continues after its last row.
pub(crate) fn list_fields(request_id: &str, rows: &[LabelRow], more: bool) -> Value {
    let one = |row: &LabelRow| {
        let (key, value) = &row.label;
        json!({ "ResourceId": row.domain, "ResourceType": "DOMAIN", "TagKey": key, "TagValue": value })
    };
    json!({
        "RequestId": request_id,
        // Empty if the list is complete.
        "NextToken": rows.last().filter(|_| more).map(seal).unwrap_or_default(),
        "TagResources": { "TagResource": rows.iter().map(one).collect::<Vec<_>>() },
    })
}

/// The fields of DescribeTagResources.
pub(crate) fn of_domains_fields(request_id: &str, domains: &[(String, Vec<Label>)]) -> Value {
    let label = |(key, value): &Label| json!({ "Key": key, "Value": value });
    let one = |(domain, labels): &(String, Vec<Label>)| json!({ "ResourceId": domain, "Tag": labels.iter().map(label).collect::<Vec<_>>() });
    json!({ "RequestId": request_id, "TagResources": domains.iter().map(one).collect::<Vec<_>>() })
}

/// The fields of DescribeUserTags.
pub(crate) fn of_account_fields(request_id: &str, keys: &[(String, Vec<String>)]) -> Value {
    let one = |(key, values): &(String, Vec<String>)| json!({ "Key": key, "Value": values });
    json!({ "RequestId": request_id, "Tags": keys.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn labels_are_read_in_order_and_within_bounds() {
        let long = "x".repeat(CHARACTERS_MAX);
        let longer = "x".repeat(CHARACTERS_MAX + 1);
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<&'a [(&'a str, &'a str)], &'a str>);
        let cases: [Case<'_>; 13] = [
            (&[], Ok(&[])),
            (&[("Tag.2.Key", "b"), ("Tag.10.Key", "c"), ("Tag.1.Key", "a")], Ok(&[("a", ""), ("b", ""), ("c", "")])),
            (&[("Tag.1.Key", "环境"), ("Tag.1.Value", "生产")], Ok(&[("环境", "生产")])),
            (&[("Tag.1.Key", &long), ("Tag.1.Value", &long)], Ok(&[(&long, &long)])),
            (&[("Tag.1.Key", &longer)], Err("InvalidParameter")),
            (&[("Tag.1.Key", "a"), ("Tag.1.Value", &longer)], Err("InvalidParameter")),
            (&[("Tag.21.Key", "a")], Err("InvalidParameter")),
            (&[("Tag.0.Key", "a")], Err("InvalidParameter")),
            (&[("Tag.1.Key", "a"), ("Tag.2.Key", "a")], Err("InvalidParameter")),
            (&[("Tag.1.Value", "a")], Err("MissingParameter")),
            (&[("Tag.1", "a")], Err("InvalidParameter")),
            (&[("Tag.1.Key", "Aliyun-x")], Err("InvalidParameter")),
            (&[("Tag.1.Key", "see http://a")], Err("InvalidParameter")),
        ];
        for (pairs, expected) in cases {
            let expected = expected.map(|labels| {
                labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
            });
            let got = read(&params(pairs)).map_err(|refusal| refusal.code);
            assert_eq!(got, expected.map_err(Into::into), "{pairs:?}");
        }
        assert_eq!(filters(&params(&[("Tag.1.Key", "acs:x")])).map(|found| found.len()), Ok(1), "may be asked for");
    }

    #[test]
    fn token_leads_to_where_the_list_ended() {
        let row = LabelRow { domain: ".a.com".to_owned(), label: ("k\u{e4}y".to_owned(), "v".to_owned()) };
        assert_eq!(open(&seal(&row)), Some((".a.com".to_owned(), "k\u{e4}y".to_owned())));
        for bad in ["", "!", "YWJj", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert_eq!(open(bad), None, "{bad}");
        }
    }
}
