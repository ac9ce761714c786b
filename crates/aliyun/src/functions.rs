//! The functions of domains: BatchSetCdnDomainConfig, DescribeCdnDomainConfigs, DeleteSpecificConfig and related
//! actions.
//!
//! # Not here
//!
//! Which arguments a function may have: see `model::functions`.

use model::DomainName;
use serde_json::{Map, Value};

use crate::domains;
use crate::profile::Profile;
use crate::read::{Product, Request};
use crate::refusal::{Fault, Refusal};
use crate::tasks::{Page, page};

/// Maximum number of functions in one call.
const FUNCTIONS_MAX: usize = 100;

/// Longest `Functions`, in bytes.
const FUNCTIONS_BYTES_MAX: usize = 256 << 10;

/// Maximum number of ids or names in one list.
const LIST_MAX: usize = 200;

/// The value of `parentId` that detaches a function from its condition.
const DETACHED: &str = "-1";

/// A request to set functions (BatchSetCdnDomainConfig, BatchSetVodDomainConfigs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFunctions {
    /// The domains, without duplicates.
    pub domains: Vec<DomainName>,
    /// The functions; at least one.
    pub functions: Vec<SetFunction>,
}

/// One function to set.
#[derive(Clone, PartialEq, Eq)]
pub struct SetFunction {
    /// What it is called.
    pub name: String,
    /// Its arguments.
    pub args: Vec<(String, String)>,
    /// The id of the condition it is bound to.
    pub parent: Option<u64>,
    /// The id of the existing function to change.
    pub id: Option<u64>,
}

/// Omits values, which may be secrets.
impl std::fmt::Debug for SetFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let args: Vec<&str> = self.args.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "{}{:?}{args:?}{:?}", self.name, self.id, self.parent)
    }
}

/// A query for functions of a domain. All given filters must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionQuery {
    /// The domain.
    pub domain: DomainName,
    /// With one of these names; empty for any.
    pub names: Vec<String>,
    /// With this id.
    pub id: Option<u64>,
    /// Bound to this condition.
    pub parent: Option<u64>,
}

/// A request to delete functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteFunctions {
    /// Their domains, without duplicates.
    pub domains: Vec<DomainName>,
    /// The functions.
    pub which: WhichFunctions,
}

/// Selects functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichFunctions {
    /// By id (DeleteSpecificConfig).
    Ids(Vec<u64>),
    /// By name (BatchDeleteCdnDomainConfig).
    Names(Vec<String>),
}

/// Reads the functions to set.
pub(crate) fn set(request: &Request, profile: &Profile) -> Result<SetFunctions, Refusal> {
    let domains = domains::names(request, profile, "DomainNames")?;
    let functions = read(request.params.required("Functions")?);
    let malformed = || Refusal::of(Fault::Functions, profile.wording(request));
    Ok(SetFunctions { domains, functions: functions.ok_or_else(malformed)? })
}

/// Reads the filters of a list of functions.
pub(crate) fn query(request: &Request, profile: &Profile) -> Result<FunctionQuery, Refusal> {
    let params = &request.params;
    let domain = domains::name(request, profile)?;
    let names = match request.product {
        Product::Vod => Some(params.required("FunctionNames")?),
        Product::Cdn => params.get("FunctionNames"),
    };
    let number = |name: &str| {
        let number = |text: &str| text.parse().map_err(|_| Refusal::invalid(name, "one number is expected"));
        params.get(name).map(number).transpose()
    };
    Ok(FunctionQuery {
        domain,
        names: list(names.unwrap_or_default()),
        id: number("ConfigId")?,
        parent: number("ParentId")?,
    })
}

/// Reads the parameters of DeleteSpecificConfig.
pub(crate) fn delete(request: &Request, profile: &Profile) -> Result<DeleteFunctions, Refusal> {
    for name in ["DomainName", "ConfigId"] {
        request.params.get(name).ok_or_else(|| Refusal::empty(name))?;
    }
    let domain = domains::name(request, profile)?;
    let ids = list(request.params.required("ConfigId")?);
    let bad = || Refusal::invalid("ConfigId", "a list of numbers is expected, split by commas, up to 200");
    let numbers: Option<Vec<u64>> = ids.iter().map(|id| id.parse().ok()).collect();
    let numbers = numbers.filter(|ids| (1..=LIST_MAX).contains(&ids.len())).ok_or_else(bad)?;
    Ok(DeleteFunctions { domains: vec![domain], which: WhichFunctions::Ids(numbers) })
}

/// Reads the parameters of BatchDeleteCdnDomainConfig.
pub(crate) fn delete_by_name(request: &Request, profile: &Profile) -> Result<DeleteFunctions, Refusal> {
    let domains = domains::names(request, profile, "DomainNames")?;
    let names = list(request.params.required("FunctionNames")?);
    if names.is_empty() || names.len() > LIST_MAX {
        return Err(Refusal::invalid("FunctionNames", "a list of names is expected, split by commas, up to 200"));
    }
    Ok(DeleteFunctions { domains, which: WhichFunctions::Names(names) })
}

/// Reads the function that DescribeCdnUserDomainsByFunc asks for.
pub(crate) fn by_function(request: &Request, profile: &Profile) -> Result<(u32, Page), Refusal> {
    let number = request.params.required("FuncId")?.parse();
    let number = number.map_err(|_| Refusal::invalid("FuncId", "the number of a function is expected"))?;
    let worded = |fault| Refusal::of(fault, profile.wording(request));
    Ok((number, page(&request.params, 50).map_err(worded)?))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Reads `Functions`: an array of objects whose keys are case-insensitive and whose values may be numbers.
fn read(text: &str) -> Option<Vec<SetFunction>> {
    if text.len() > FUNCTIONS_BYTES_MAX {
        return None;
    }
    let Ok(Value::Array(entries)) = serde_json::from_str(text) else { return None };
    if entries.is_empty() || entries.len() > FUNCTIONS_MAX {
        return None;
    }
    entries.iter().map(|entry| function(entry.as_object()?)).collect()
}

fn function(entry: &Map<String, Value>) -> Option<SetFunction> {
    let number = |name: &str| match field(entry, name).map(text) {
        None => Some(None),
        Some(text) => match text?.trim() {
            "" | DETACHED => Some(None),
            number => number.parse().ok().map(Some),
        },
    };
    let args = match field(entry, "functionArgs") {
        None => Vec::new(),
        Some(Value::Array(args)) => args.iter().map(|arg| argument(arg.as_object()?)).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let name = text(field(entry, "functionName")?)?.trim().to_owned();
    Some(SetFunction { name, args, parent: number("parentId")?, id: number("configId")? })
}

fn argument(entry: &Map<String, Value>) -> Option<(String, String)> {
    let value = field(entry, "argValue").map_or(Some(String::new()), text)?;
    Some((text(field(entry, "argName")?)?.trim().to_owned(), value))
}

fn field<'a>(entry: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    entry.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null()).map(|(_, value)| value)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        // A list is stored as its JSON text.
        Value::Array(_) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_read_as_clients_write_them() {
        let set = |name: &str, args: &[(&str, &str)], parent, id| SetFunction {
            name: name.to_owned(),
            args: args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            parent,
            id,
        };
        let cases = [
            (
                r#"[{"functionArgs":[{"argName":"enable","argValue":"on"}],"functionName":"range"}]"#,
                Some(set("range", &[("enable", "on")], None, None)),
            ),
            (
                // Terraform: capitalised keys, numbers
                r#"[{"FunctionName":"path_based_ttl_set","FunctionArgs":[{"ArgName":"ttl","ArgValue":60}],"ConfigId":7,"ParentId":"9"}]"#,
                Some(set("path_based_ttl_set", &[("ttl", "60")], Some(9), Some(7))),
            ),
            (r#"[{"functionName":"x","parentId":"-1","configId":null}]"#, Some(set("x", &[], None, None))),
            (
                r#"[{"functionName":"edge_function","functionArgs":[{"argName":"rule"}]}]"#,
                Some(set("edge_function", &[("rule", "")], None, None)),
            ),
            (
                r#"[{"functionName":"x","functionArgs":[{"argName":"uri","argValue":[{"a":"/b"}]}]}]"#,
                Some(set("x", &[("uri", r#"[{"a":"/b"}]"#)], None, None)),
            ),
            ("{}", None),
            ("[]", None),
            ("[1]", None),
            ("[{}]", None),
            (r#"[{"functionName":"x","functionArgs":{}}]"#, None),
            (r#"[{"functionName":"x","functionArgs":[{"argValue":"1"}]}]"#, None),
            (r#"[{"functionName":"x","functionArgs":[{"argName":"a","argValue":{}}]}]"#, None),
            (r#"[{"functionName":"x","configId":"a"}]"#, None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected.map(|function| vec![function]), "{text}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let text = r#"[{"functionName":"aliauth","functionArgs":[{"argName":"auth_key1","argValue":"opensesame"}]}]"#;
        assert!(!format!("{:?}", read(text)).contains("opensesame"));
    }
}
