//! Our own ExplainPreload: what a prefetch would do with each URL, and what is in its way. It reads what PushObjectCache reads.
//!
//! # Not here
//!
//! Submitting: nothing is written down, and nothing is charged.

use serde_json::{Map, Value, json};

/// What a prefetch of one URL would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The URL with its scheme.
    pub url: String,
    /// The domain that serves it.
    pub domain: String,
    /// Under what it would be kept.
    pub key: String,
    /// The key of users' requests for the URL.
    pub users_key: String,
    /// What makes users' key of the URL, step by step: the functions that may have changed it, and what it is then.
    pub steps: Vec<(Vec<String>, String)>,
    /// What origins would be asked for: a path with its query.
    pub origin_path: String,
    /// The domain's origins, `NAME:PORT`, the first to be asked first but for their weights.
    pub origins: Vec<String>,
    /// Request headers of each variant.
    pub variants: Vec<Vec<(String, String)>>,
    /// Where it would be kept.
    pub targets: Vec<ExplainedTarget>,
    /// What is in its way, or not as one may expect, in words for a person.
    pub problems: Vec<String>,
}

/// A tier of a POP in which one node would keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedTarget {
    /// The POP.
    pub pop: String,
    /// The tier.
    pub tier: String,
    /// Its nodes, in the order in which they own the key, and whether each is connected: the first that is gets the job.
    pub owners: Vec<(String, bool)>,
}

/// The fields of the reply.
pub(crate) fn fields(request_id: &str, urls: &[Explained]) -> Value {
    let urls: Vec<Value> = urls.iter().map(url).collect();
    json!({ "RequestId": request_id, "Urls": urls })
}

fn url(of: &Explained) -> Value {
    let headers = |variant: &Vec<(String, String)>| -> Map<String, Value> {
        variant.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
    };
    let step = |(functions, key): &(Vec<String>, String)| json!({ "Functions": functions, "Key": key });
    let target = |target: &ExplainedTarget| {
        let owner = |(node, connected): &(String, bool)| json!({ "Node": node, "Connected": connected });
        let owners: Vec<Value> = target.owners.iter().map(owner).collect();
        json!({ "Pop": target.pop, "Tier": target.tier, "Owners": owners })
    };
    json!({
        "Url": of.url,
        "Domain": of.domain,
        "Key": of.key,
        "UsersKey": of.users_key,
        "Because": of.steps.iter().map(step).collect::<Vec<_>>(),
        "OriginPath": of.origin_path,
        "Origins": of.origins,
        "Variants": of.variants.iter().map(headers).collect::<Vec<_>>(),
        "Targets": of.targets.iter().map(target).collect::<Vec<_>>(),
        "Problems": of.problems,
    })
}
