//! `domain config`: the functions of a domain.
//!
//! The value of an argument may be a secret, so it can be read from a file: `auth_key1=@FILE`.

use std::io::Write;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Stop;
use super::api::Api;
use super::submit::show;
use crate::output::Output;

/// Longest value read from a file, in bytes; the API accepts less.
const VALUE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the functions of a domain
    Show {
        /// The domain
        domain: String,
        /// Only functions of this name
        #[arg(long = "function", value_name = "NAME")]
        functions: Vec<String>,
    },
    /// Set a function on a domain
    Set {
        /// The domain
        domain: String,
        /// The function, as in filetype_based_ttl_set
        function: String,
        /// Its arguments; KEY=@FILE takes the value from a file
        #[arg(value_name = "KEY=VALUE")]
        args: Vec<String>,
        /// Change the one of this number, instead of adding another
        #[arg(long, value_name = "ID")]
        id: Option<u64>,
    },
    /// Delete functions of a domain
    Delete {
        /// The domain
        domain: String,
        /// Their numbers
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
}

pub(super) async fn config(
    command: &ConfigCommand,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    match command {
        ConfigCommand::Show { domain, functions } => list(domain, functions, api, output, out).await,
        ConfigCommand::Set { domain, function, args, id } => {
            let args = args.iter().map(|text| argument(text)).collect::<Result<Vec<_>, _>>()?;
            let mut entry = json!({ "functionName": function, "functionArgs": args });
            if let Some(id) = id {
                entry["configId"] = json!(id);
            }
            let functions = Value::Array(vec![entry]).to_string();
            api.call("BatchSetCdnDomainConfig", &[("DomainNames", domain), ("Functions", &functions)]).await?;
            list(domain, std::slice::from_ref(function), api, output, out).await
        }
        ConfigCommand::Delete { domain, ids } => {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            // To the service a number that is not there is as good as deleted; whoever typed it meant another one.
            let entries = api.call("DescribeCdnDomainConfigs", &[("DomainName", domain)]).await?;
            let entries = entries["DomainConfigs"]["DomainConfig"].as_array().map_or(&[][..], Vec::as_slice);
            let is_there = |id: &&String| entries.iter().any(|entry| entry["ConfigId"].as_str() == Some(id));
            if let Some(missing) = ids.iter().find(|id| !is_there(id)) {
                return Err(Stop::Failed(format!(
                    "{domain} has no function with the number {missing}: none was deleted"
                )));
            }
            api.call("DeleteSpecificConfig", &[("DomainName", domain), ("ConfigId", &ids.join(","))]).await?;
            match output {
                Output::Json => Ok(writeln!(out, "{}", json!({ "deleted": ids }))?),
                Output::Table => Ok(writeln!(out, "{}", ids.join("\n"))?),
            }
        }
    }
}

async fn list(
    domain: &str,
    functions: &[String],
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let names = functions.join(",");
    let filter = (!names.is_empty()).then_some(("FunctionNames", names.as_str()));
    let parameters: Vec<(&str, &str)> = [("DomainName", domain)].into_iter().chain(filter).collect();
    let reply = api.call("DescribeCdnDomainConfigs", &parameters).await?;
    let entries = reply["DomainConfigs"]["DomainConfig"].as_array().into_iter().flatten();
    let rows: Vec<Value> = entries.map(|entry| row(entry, output)).collect();
    match output {
        Output::Json => Ok(writeln!(out, "{}", Value::Array(rows))?),
        Output::Table => show(&["id", "function", "args", "status"], &rows, out),
    }
}

fn row(entry: &Value, output: Output) -> Value {
    let args = entry["FunctionArgs"]["FunctionArg"].as_array().into_iter().flatten();
    let pairs =
        args.map(|arg| (arg["ArgName"].as_str().unwrap_or_default(), arg["ArgValue"].as_str().unwrap_or_default()));
    let args = match output {
        Output::Json => pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect(),
        Output::Table => {
            Value::from(pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
        }
    };
    json!({ "id": entry["ConfigId"], "function": entry["FunctionName"], "args": args, "status": entry["Status"] })
}

fn argument(text: &str) -> Result<Value, Stop> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or_else(|| Stop::usage(format_args!("`{text}`: expected KEY=VALUE")))?;
    let value = match value.strip_prefix('@') {
        None => value.to_owned(),
        Some(file) => {
            let unreadable = |error: std::io::Error| Stop::usage(format_args!("{name}: {file}: {error}"));
            if std::fs::metadata(file).map_err(unreadable)?.len() > VALUE_BYTES_MAX {
                return Err(Stop::usage(format_args!("{name}: {file} has more than {VALUE_BYTES_MAX} bytes")));
            }
            std::fs::read_to_string(file).map_err(unreadable)?.trim_end().to_owned()
        }
    };
    Ok(json!({ "argName": name, "argValue": value }))
}
