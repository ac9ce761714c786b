//! Our own ExplainPreload: what a prefetch would do with each URL, and what would prevent it. Takes the parameters of
//! PushObjectCache.
//!
//! # Not here
//!
//! Submitting: nothing is stored, and nothing is charged.

use serde_json::{Map, Value, json};

/// What a prefetch of one URL would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The URL with its scheme.
    pub url: String,
    /// The domain that serves it.
    pub domain: String,
    /// The cache key it would be stored under.
    pub key: String,
    /// The cache key of users' requests for the URL.
    pub users_key: String,
    /// How users' key is derived from the URL, step by step: the functions that may have made the change, and the
    /// result.
    pub steps: Vec<(Vec<String>, String)>,
    /// The path with query that origins would be asked for.
    pub origin_path: String,
    /// The domain's origins, `NAME:PORT`, in order of priority, ignoring weights.
    pub origins: Vec<String>,
    /// Request headers of each variant.
    pub variants: Vec<Vec<(String, String)>>,
    /// Where it would be stored.
    pub targets: Vec<ExplainedTarget>,
    /// Problems and surprises, in words for humans.
    pub problems: Vec<String>,
}

/// A tier of a POP, where one node would store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedTarget {
    /// The POP.
    pub pop: String,
    /// The tier.
    pub tier: String,
    /// Its nodes, in the order in which they own the key, and whether each is connected: the first connected one gets
    /// the job.
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
