//! `push` and `refresh`: submit in calls that the API accepts, then optionally wait.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::Api;
use super::wait::{Row, Submission, wait};
use super::{Stop, explain, note, urls};
use crate::output::{Output, table};

/// URLs and waiting, the same for both verbs.
#[derive(Debug, Args)]
pub(super) struct Batch {
    /// URLs; `@FILE` stands for the lines of a file, `-` for those of standard input
    #[arg(required = true, value_name = "URL")]
    pub(super) urls: Vec<String>,
    /// URLs in one call of the API
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) per_call: u16,
    /// Return only when every URL is complete or failed
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait at most, in seconds
    #[arg(long, default_value_t = 1800, value_name = "SECONDS", requires = "wait",
          value_parser = clap::value_parser!(u64).range(..=604_800))]
    pub(super) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(super) batch: Batch,
    /// Where to warm [default: everywhere the domain is served]
    #[arg(long)]
    pub(super) area: Option<Area>,
    /// Warm every L2, not only the nodes that ask the origin
    #[arg(long)]
    pub(super) l2: bool,
    /// Warm the edges (L1) as well; Warmfront only
    #[arg(long)]
    pub(super) edge: bool,
    /// Which of the account's prefetches go first: 1 to 9, the highest does, 5 is usual; Warmfront only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(super) priority: Option<u8>,
    /// Do not begin before this time, as 2026-01-31T00:00:00Z; Warmfront only
    #[arg(long, value_name = "TIME")]
    pub(super) not_before: Option<String>,
    /// Keep each object under its URL as given, which is the API's default, instead of under the key that users' requests have
    #[arg(long)]
    pub(super) key_as_given: bool,
    /// Fetch again, even where a copy is fresh; Warmfront only
    #[arg(long)]
    pub(super) refetch: bool,
    /// Pin the objects in the stores for this long, such as 90s, 30m, 2h or 7d; Warmfront only
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) pin: Option<u64>,
    /// Say what would be done with each URL and why, and submit nothing; Warmfront only
    #[arg(long, conflicts_with_all = ["wait", "timeout"])]
    pub(super) explain: bool,
}

/// Parses a duration: a number with `s`, `m`, `h` or `d`.
fn seconds(text: &str) -> Result<u64, String> {
    let unit = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)].into_iter().find(|(unit, _)| text.ends_with(*unit));
    let number = unit.and_then(|(_, secs)| text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(secs));
    let number = number.filter(|secs| (1..=30 * 86_400).contains(secs));
    number.ok_or_else(|| "expected a number with s, m, h or d, at most 30d".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Area {
    Domestic,
    Overseas,
}

#[derive(Debug, Args)]
#[command(mut_arg("urls", |urls| urls.required(false).required_unless_present("tags")))]
pub(crate) struct RefreshArgs {
    #[command(flatten)]
    pub(super) batch: Batch,
    /// What the URLs mean [default: directory for those that end in `/`, file for the others]
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) kind: Option<Kind>,
    /// Everything that the origin gave this tag, instead of URLs; may be given more than once
    #[arg(long = "tag", value_name = "TAG", requires = "domain", conflicts_with_all = ["urls", "kind"])]
    pub(super) tags: Vec<String>,
    /// The domain of the tags
    #[arg(long, value_name = "NAME", requires = "tags")]
    pub(super) domain: Option<String>,
    /// Drop the copies instead of revalidating them; those of files always are
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// One object each
    File,
    /// Everything beneath
    Directory,
    /// Everything a regular expression of [0-9], [a-z], [^/]* and .* matches, from the first byte of the path to the last of the
    /// query
    Regex,
    /// One path each, with every query string
    IgnoreParams,
}

impl Kind {
    /// The API's name for it.
    fn as_str(self) -> &'static str {
        match self {
            Kind::File => "File",
            Kind::Directory => "Directory",
            Kind::Regex => "Regex",
            Kind::IgnoreParams => "IgnoreParams",
        }
    }

    /// How many of a kind the API accepts in one call, whatever `--per-call` allows.
    fn per_call_max(self) -> usize {
        match self {
            Kind::File | Kind::IgnoreParams => usize::MAX,
            Kind::Directory => 100,
            Kind::Regex => 1,
        }
    }
}

/// Calls of one action with the same parameters.
struct Group<'a> {
    action: &'static str,
    /// Where the reply has the task ids.
    id_field: &'static str,
    parameters: Vec<(&'static str, &'a str)>,
    what: What,
    /// URLs, or tags.
    list: Vec<String>,
    per_call: usize,
}

/// What a call lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Urls,
    Tags,
}

impl What {
    /// The parameter for the list, and its separator.
    fn parameter(self) -> (&'static str, &'static str) {
        match self {
            What::Urls => ("ObjectPath", "\n"),
            What::Tags => ("CacheTag", ","),
        }
    }
}

impl Group<'_> {
    /// The list, split into calls.
    fn calls(&self) -> Vec<&[String]> {
        match self.what {
            What::Urls => urls::calls(&self.list, self.per_call),
            What::Tags => self.list.chunks(self.per_call).collect(),
        }
    }

    /// `many` of the list, in words.
    fn count(&self, many: usize) -> String {
        match self.what {
            What::Urls => count(many),
            What::Tags if many == 1 => "1 tag".to_owned(),
            What::Tags => format!("{many} tags"),
        }
    }
}

pub(super) async fn push(args: &PushArgs, api: &Api, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let mut parameters = Vec::new();
    match args.area {
        Some(Area::Domestic) => parameters.push(("Area", "domestic")),
        Some(Area::Overseas) => parameters.push(("Area", "overseas")),
        None => {}
    }
    if args.l2 {
        parameters.push(("L2Preload", "true"));
    }
    if args.edge {
        parameters.push(("Tier", "edge"));
    }
    let priority = args.priority.map(|priority| priority.to_string());
    parameters.extend(priority.as_deref().map(|priority| ("Priority", priority)));
    parameters.extend(args.not_before.as_deref().map(|time| ("NotBefore", time)));
    // A push is meant to warm what users request.
    parameters.push(("QueryHashkey", if args.key_as_given { "false" } else { "true" }));
    if args.refetch {
        parameters.push(("Refetch", "true"));
    }
    let pin = args.pin.map(|secs| secs.to_string());
    parameters.extend(pin.as_deref().map(|secs| ("Pin", secs)));
    let list = urls::read(&args.batch.urls, std::io::stdin())?;
    let per_call = usize::from(args.batch.per_call);
    if args.explain {
        return explain::explain(&parameters, &list, per_call, api, output, out).await;
    }
    let (action, id_field) = ("PushObjectCache", "PushTaskId");
    let group = Group { action, id_field, parameters, what: What::Urls, list, per_call };
    submit(&[group], &args.batch, api, output, out).await
}

pub(super) async fn refresh(
    args: &RefreshArgs,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let id_field = "RefreshTaskId";
    let force = args.force.then_some(("Force", "true"));
    let per_call = usize::from(args.batch.per_call);
    if let Some(domain) = &args.domain {
        if let Some(bad) = args.tags.iter().find(|tag| tag.contains([',', ' ']) || tag.is_empty()) {
            return Err(Stop::usage(format_args!("--tag `{bad}`: a tag has no commas and no spaces")));
        }
        let parameters = [("DomainName", domain.as_str())].into_iter().chain(force).collect();
        let (action, list) = ("RefreshObjectCacheByCacheTag", args.tags.clone());
        let group = Group { action, id_field, parameters, what: What::Tags, list, per_call };
        return submit(&[group], &args.batch, api, output, out).await;
    }
    let urls = urls::read(&args.batch.urls, std::io::stdin())?;
    let kind = |url: &str| args.kind.unwrap_or(if url.ends_with('/') { Kind::Directory } else { Kind::File });
    let mut groups = Vec::new();
    for wanted in Kind::value_variants() {
        let list: Vec<String> = urls.iter().filter(|url| kind(url) == *wanted).cloned().collect();
        let parameters = [("ObjectType", wanted.as_str())].into_iter().chain(force).collect();
        let per_call = per_call.min(wanted.per_call_max());
        groups.push(Group { action: "RefreshObjectCaches", id_field, parameters, what: What::Urls, list, per_call });
    }
    submit(&groups, &args.batch, api, output, out).await
}

/// The results of the calls.
#[derive(Default)]
struct Submitted {
    ids: Vec<String>,
    /// Accepted URLs, with the task ids of their call.
    accepted: Vec<(String, String)>,
    /// URLs not accepted, with state and cause.
    others: Vec<(String, &'static str, String)>,
    problem: Option<String>,
}

/// Submits call after call. The first refusal ends it: further calls would most likely be refused as well, and the
/// quota is better kept for a corrected command.
async fn submit_all(groups: &[Group<'_>], api: &Api) -> Submitted {
    let mut submitted = Submitted::default();
    for group in groups {
        for urls in group.calls() {
            let all =
                |state, cause: &str| urls.iter().map(|url| (url.clone(), state, cause.to_owned())).collect::<Vec<_>>();
            if submitted.problem.is_some() {
                submitted.others.extend(all("NotSent", ""));
                continue;
            }
            let (parameter, separator) = group.what.parameter();
            let list = urls.join(separator);
            let mut parameters = group.parameters.clone();
            parameters.push((parameter, &list));
            let reply = api.call(group.action, &parameters).await.map_err(|error| error.to_string());
            let ids = reply.and_then(|reply| match reply[group.id_field].as_str() {
                Some(ids) if !ids.is_empty() => Ok(ids.to_owned()),
                _ => Err(format!("the reply has no {}", group.id_field)),
            });
            match ids {
                Ok(ids) => {
                    note(format_args!("task {ids}: {} submitted", group.count(urls.len())));
                    submitted.accepted.extend(urls.iter().map(|url| (url.clone(), ids.clone())));
                    // Calls within one second may share a task.
                    for id in ids.split(',').map(str::trim) {
                        if !submitted.ids.iter().any(|had| had == id) {
                            submitted.ids.push(id.to_owned());
                        }
                    }
                }
                Err(cause) => {
                    submitted.others.extend(all("Refused", &cause));
                    submitted.problem = Some(cause);
                }
            }
        }
    }
    submitted
}

async fn submit(
    groups: &[Group<'_>],
    batch: &Batch,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let submitted = submit_all(groups, api).await;
    let mut problem = submitted.problem;
    let mut waited = None;
    if batch.wait && !submitted.ids.is_empty() {
        let submission = Submission::of(&submitted.accepted);
        match wait(api, &submitted.ids, &submission, Duration::from_secs(batch.timeout)).await {
            Ok(all) => {
                let waited = waited.insert(all);
                let unfinished = waited.rows.iter().filter(|row| !row.is_complete()).count();
                if !waited.late.is_empty() {
                    let late = waited.late.join(", ");
                    problem.get_or_insert(format!("not done after {} s: task {late}", batch.timeout));
                } else if unfinished > 0 {
                    problem.get_or_insert(format!("{unfinished} of {} failed", count(waited.rows.len())));
                }
            }
            Err(error) => {
                problem.get_or_insert(format!("waiting: {error}"));
            }
        }
    }
    let mut lines: Vec<Line<'_>> = match &waited {
        Some(waited) => waited.rows.iter().map(Line::of).collect(),
        None => submitted.accepted.iter().map(|(url, ids)| Line::new(url, Some(ids), "Submitted", "")).collect(),
    };
    lines.extend(submitted.others.iter().map(|(url, state, cause)| Line::new(url, None, state, cause)));

    match output {
        Output::Json => {
            let shown = serde_json::to_string(&Shown { task_ids: &submitted.ids, urls: &lines });
            writeln!(out, "{}", shown.map_err(|error| Stop::Failed(error.to_string()))?)?;
        }
        Output::Table if batch.wait => {
            let rows: Vec<Value> =
                lines.iter().map(|line| json!({ "url": line.url, "state": line.state, "cause": line.cause })).collect();
            show(&["url", "state", "cause"], &rows, out)?;
        }
        // Only the ids, ready for a pipe.
        Output::Table => submitted.ids.iter().try_for_each(|id| writeln!(out, "{id}"))?,
    }
    problem.map_or(Ok(()), |problem| Err(Stop::Failed(problem)))
}

/// A number of URLs in words.
fn count(urls: usize) -> String {
    if urls == 1 { "1 URL".to_owned() } else { format!("{urls} URLs") }
}

/// The final output. There may be a million lines, so they are serialised directly.
#[derive(Serialize)]
struct Shown<'a> {
    task_ids: &'a [String],
    urls: &'a [Line<'a>],
}

/// The result of one URL.
#[derive(Serialize)]
struct Line<'a> {
    url: &'a str,
    task_id: Option<&'a str>,
    state: &'a str,
    process: &'a str,
    cause: &'a str,
}

impl Line<'_> {
    fn of(row: &Row) -> Line<'_> {
        let Row { url, task_id, state, process, cause, .. } = row;
        Line { url, task_id: Some(task_id), state, process, cause }
    }

    fn new<'a>(url: &'a str, task_id: Option<&'a String>, state: &'a str, cause: &'a str) -> Line<'a> {
        Line { url, task_id: task_id.map(String::as_str), state, process: "0%", cause }
    }
}

/// Writes rows as a table of `columns`.
pub(super) fn show(columns: &[&str], rows: &[Value], out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let mut table = table(columns);
    for row in rows {
        table.add_row(columns.iter().map(|column| match &row[*column] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }));
    }
    Ok(writeln!(out, "{table}")?)
}
