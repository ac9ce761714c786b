//! `tasks`, `quota` and `domain`: one query, or one change, and its answer.

use std::io::Write;
use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Stop;
use super::api::{Api, ApiError};
use super::certificate::{self, CertificateCommand};
use super::functions::{self, ConfigCommand};
use super::receipt::{self, TasksCommand};
use super::submit::show;
use super::wait::Row;
use crate::output::Output;

/// Maximum number of rows on one page, a limit of the API.
const TASKS_PER_PAGE: usize = 100;
const DOMAINS_PER_PAGE: usize = 100;
/// Maximum number of domains listed; an account has far fewer.
const DOMAINS_MAX: usize = 100_000;

#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    /// Ids of tasks [default: all of the last three days]
    #[arg(value_name = "TASK_ID")]
    ids: Vec<String>,
    /// Only this URL
    #[arg(long)]
    url: Option<String>,
    /// Only this domain; needs --type
    #[arg(long, requires = "kind")]
    domain: Option<String>,
    /// Only this kind
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<TaskKind>,
    /// Only this state; needs --type
    #[arg(long, requires = "kind")]
    state: Option<TaskState>,
    /// Show this many at most
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(subcommand)]
    command: Option<TasksCommand>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskKind {
    File,
    Directory,
    Regex,
    Preload,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskState {
    Complete,
    Refreshing,
    Failed,
}

pub(super) async fn tasks(
    args: &TasksArgs,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    if let Some(command) = &args.command {
        return receipt::tasks(command, api, output, out).await;
    }
    let ids = args.ids.join(",");
    let mut filter: Vec<(&str, &str)> = Vec::new();
    if !ids.is_empty() {
        filter.push(("TaskId", &ids));
    }
    filter.extend(args.url.as_deref().map(|url| ("ObjectPath", url)));
    filter.extend(args.domain.as_deref().map(|domain| ("DomainName", domain)));
    filter.extend(args.kind.map(|kind| {
        let kind = match kind {
            TaskKind::File => "file",
            TaskKind::Directory => "directory",
            TaskKind::Regex => "regex",
            TaskKind::Preload => "preload",
        };
        ("ObjectType", kind)
    }));
    filter.extend(args.state.map(|state| {
        let state = match state {
            TaskState::Complete => "Complete",
            TaskState::Refreshing => "Refreshing",
            TaskState::Failed => "Failed",
        };
        ("Status", state)
    }));
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let tasks = pages(api, "DescribeRefreshTasks", &filter, ["Tasks", "CDNTask"], limit, TASKS_PER_PAGE).await?;
    let rows: Vec<Value> = tasks.iter().map(|task| Row::read(task).shown()).collect();
    match output {
        Output::Json => Ok(writeln!(out, "{}", Value::Array(rows))?),
        Output::Table => show(&Row::COLUMNS, &rows, out),
    }
}

/// Reads pages of a list until it ends or `limit` is reached.
async fn pages(
    api: &Api,
    action: &str,
    filter: &[(&str, &str)],
    list: [&str; 2],
    limit: usize,
    per_page: usize,
) -> Result<Vec<Value>, ApiError> {
    let size = per_page.min(limit);
    let mut found = Vec::new();
    for page in 1.. {
        let (page, size_text) = (format!("{page}"), size.to_string());
        let mut parameters = filter.to_vec();
        parameters.extend([("PageNumber", page.as_str()), ("PageSize", size_text.as_str())]);
        let mut reply = api.call(action, &parameters).await?;
        let Value::Array(entries) = reply[list[0]][list[1]].take() else { break };
        let last = entries.len() < size;
        found.extend(entries);
        if last || found.len() >= limit {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

pub(super) async fn quota(api: &Api, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let reply = api.call("DescribeRefreshQuota", &[]).await?;
    // The API sends numbers as strings.
    let number = |name: String| match &reply[&name] {
        Value::String(text) => text.parse::<i64>().map_or(Value::Null, Value::from),
        Value::Number(number) => Value::Number(number.clone()),
        _ => Value::Null,
    };
    let counters =
        [("preload", "Preload"), ("url", "Url"), ("dir", "Dir"), ("regex", "Regex"), ("ignore_params", "IgnoreParams")];
    let counters =
        counters.map(|(name, field)| (name, number(format!("{field}Quota")), number(format!("{field}Remain"))));
    match output {
        Output::Json => {
            let value: serde_json::Map<String, Value> = counters
                .into_iter()
                .map(|(name, limit, remaining)| (name.to_owned(), json!({ "limit": limit, "remaining": remaining })))
                .collect();
            Ok(writeln!(out, "{}", Value::Object(value))?)
        }
        Output::Table => {
            let rows = counters
                .map(|(name, limit, remaining)| json!({ "quota": name, "limit": limit, "remaining": remaining }));
            show(&["quota", "limit", "remaining"], &rows, out)
        }
    }
}

/// There is nothing to say beyond who asks.
#[derive(Debug, Args)]
pub(crate) struct QuotaArgs {}

#[derive(Debug, Args)]
pub(crate) struct DomainArgs {
    /// What to do
    #[command(subcommand)]
    pub(super) command: DomainCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Accelerate a domain
    Add {
        /// The domain; with a leading dot every host below it
        domain: String,
        /// Where its objects come from: an address or a host name, perhaps with a port
        #[arg(long, required = true, value_name = "HOST[:PORT]")]
        origin: Vec<String>,
        /// Asked when the others fail
        #[arg(long, value_name = "HOST[:PORT]")]
        backup: Vec<String>,
        /// Where it is served [default: domestic, as the API says]
        #[arg(long)]
        coverage: Option<Coverage>,
        /// The type of its content
        #[arg(long = "type", value_name = "TYPE", default_value = "web")]
        kind: DomainKind,
    },
    /// Show all domains
    List,
    /// Show one domain
    Show {
        /// The domain
        domain: String,
    },
    /// Serve a domain again that was stopped
    Start {
        /// The domain
        domain: String,
    },
    /// Serve a domain no more, and keep it
    Stop {
        /// The domain
        domain: String,
    },
    /// Change what a domain does; Warmfront only
    Set {
        /// The domain
        domain: String,
        /// The response header in which its origins name tags; empty for Cache-Tag and Surrogate-Key
        #[arg(long, value_name = "HEADER")]
        tag_header: String,
    },
    /// The TLS certificate of a domain
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// The functions of a domain: what shapes its caching
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Stop accelerating a domain
    Delete {
        /// The domain
        domain: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Coverage {
    Domestic,
    Overseas,
    Global,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DomainKind {
    Web,
    Download,
    Video,
}

pub(super) async fn domain(
    command: &DomainCommand,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    match command {
        DomainCommand::Add { domain, origin, backup, coverage, kind } => {
            let mut sources = origin.iter().map(|text| source(text, "20")).collect::<Result<Vec<_>, _>>()?;
            for text in backup {
                sources.push(source(text, "30")?);
            }
            let sources = Value::Array(sources).to_string();
            let kind = match kind {
                DomainKind::Web => "web",
                DomainKind::Download => "download",
                DomainKind::Video => "video",
            };
            let mut parameters = vec![("DomainName", domain.as_str()), ("Sources", &sources), ("CdnType", kind)];
            parameters.extend(coverage.map(|coverage| {
                let coverage = match coverage {
                    Coverage::Domestic => "domestic",
                    Coverage::Overseas => "overseas",
                    Coverage::Global => "global",
                };
                ("Scope", coverage)
            }));
            api.call("AddCdnDomain", &parameters).await?;
            detail(domain, api, output, out).await
        }
        DomainCommand::List => {
            let list = ["Domains", "PageData"];
            let all = [("CheckDomainShow", "true")];
            let domains = pages(api, "DescribeUserDomains", &all, list, DOMAINS_MAX, DOMAINS_PER_PAGE).await?;
            let rows: Vec<Value> = domains
                .iter()
                .map(|domain| {
                    json!({ "domain": domain["DomainName"], "status": domain["DomainStatus"],
                            "coverage": domain["Coverage"], "cname": domain["Cname"] })
                })
                .collect();
            match output {
                Output::Json => Ok(writeln!(out, "{}", Value::Array(rows))?),
                Output::Table => show(&["domain", "status", "coverage", "cname"], &rows, out),
            }
        }
        DomainCommand::Show { domain } => detail(domain, api, output, out).await,
        DomainCommand::Start { domain } => {
            api.call("StartCdnDomain", &[("DomainName", domain)]).await?;
            detail(domain, api, output, out).await
        }
        DomainCommand::Stop { domain } => {
            api.call("StopCdnDomain", &[("DomainName", domain)]).await?;
            detail(domain, api, output, out).await
        }
        DomainCommand::Set { domain, tag_header } => {
            api.call("SetWarmfrontDomain", &[("DomainName", domain), ("TagHeader", tag_header)]).await?;
            detail(domain, api, output, out).await
        }
        DomainCommand::Certificate(command) => certificate::run(command, api, output, out).await,
        DomainCommand::Config(command) => functions::config(command, api, output, out).await,
        DomainCommand::Delete { domain } => {
            api.call("DeleteCdnDomain", &[("DomainName", domain)]).await?;
            match output {
                Output::Json => Ok(writeln!(out, "{}", json!({ "deleted": domain }))?),
                Output::Table => Ok(writeln!(out, "{domain}")?),
            }
        }
    }
}

async fn detail(domain: &str, api: &Api, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let reply = api.call("DescribeCdnDomainDetail", &[("DomainName", domain)]).await?;
    let model = &reply["GetDomainDetailModel"];
    let sources: Vec<Value> = model["SourceModels"]["SourceModel"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|source| {
            json!({ "content": source["Content"], "type": source["Type"], "port": source["Port"],
                    "priority": source["Priority"], "weight": source["Weight"] })
        })
        .collect();
    let mut fields = vec![
        ("domain", &model["DomainName"]),
        ("status", &model["DomainStatus"]),
        ("coverage", &model["Scope"]),
        ("cname", &model["Cname"]),
        ("type", &model["CdnType"]),
    ];
    let description = model.get("Description").filter(|text| text.as_str().is_some_and(|text| !text.is_empty()));
    fields.extend(description.map(|text| ("description", text)));
    // Only if set, and only by our own service.
    fields.extend(model.get("TagHeader").map(|header| ("tag_header", header)));
    match output {
        Output::Json => {
            let mut value = json!({ "sources": sources });
            for (name, field) in fields {
                value[name] = field.clone();
            }
            Ok(writeln!(out, "{value}")?)
        }
        Output::Table => {
            for (name, field) in fields {
                writeln!(out, "{name:10}  {}", field.as_str().unwrap_or_default())?;
            }
            show(&["content", "type", "port", "priority", "weight"], &sources, out)
        }
    }
}

/// Parses an origin into the API's format: `[http://|https://]HOST[:PORT]`, IPv6 in brackets. Without a scheme it
/// follows from the port, which is 80 by default.
pub(super) fn source(text: &str, priority: &str) -> Result<Value, Stop> {
    let wrong = || {
        Stop::usage(format_args!(
            "origin `{text}`: expected HOST or HOST:PORT, with http:// or https:// before it or not"
        ))
    };
    let (scheme, text, usual) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (Some("https"), rest, 443),
        (None, Some(rest)) => (Some("http"), rest, 80),
        (None, None) => (None, text, 80),
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse::<u16>().map_err(|_| wrong())?)
        }
        Some(_) if text.parse::<IpAddr>().is_err() && !text.starts_with('[') => return Err(wrong()),
        _ => (text, usual),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', ' ', '@']) {
        return Err(wrong());
    }
    let kind = if host.parse::<IpAddr>().is_ok() { "ipaddr" } else { "domain" };
    let mut source = json!({ "content": host, "type": kind, "priority": priority, "port": port, "weight": "10" });
    if let Some(scheme) = scheme {
        source["scheme"] = json!(scheme);
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read() {
        let cases = [
            ("origin.test", Some(("origin.test", "domain", 80))),
            ("origin.test:8080", Some(("origin.test", "domain", 8080))),
            ("127.0.0.1:9790", Some(("127.0.0.1", "ipaddr", 9790))),
            ("::1", Some(("::1", "ipaddr", 80))),
            ("[::1]:8080", Some(("::1", "ipaddr", 8080))),
            ("[::1]", Some(("::1", "ipaddr", 80))),
            ("http://origin.test", Some(("origin.test", "domain", 80))),
            ("https://origin.test", Some(("origin.test", "domain", 443))),
            ("https://[::1]:8443", Some(("::1", "ipaddr", 8443))),
            ("https://origin.test/", None),
            ("ftp://origin.test", None),
            ("origin.test:http", None),
            ("origin.test:99999", None),
            ("a:b:c", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let read = source(text, "20").ok();
            let read = read.as_ref().map(|source| {
                (
                    source["content"].as_str().unwrap(),
                    source["type"].as_str().unwrap(),
                    source["port"].as_u64().unwrap(),
                )
            });
            assert_eq!(read, expected, "{text}");
            let scheme = source(text, "20").ok().and_then(|source| source["scheme"].as_str().map(str::to_owned));
            let given = text.split_once("://").map(|(scheme, _)| scheme.to_owned());
            assert_eq!(scheme, given.filter(|_| expected.is_some()), "{text}");
        }
    }
}
