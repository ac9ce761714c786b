//! `tasks show`, `tasks receipt` and `receipt`: the nodes that a refresh waits for, and the proof that it was complete.
//!
//! Checking a receipt takes no service, only the file and the trusted key.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control::receipt::{PublicKey, claimed_key, verify};
use model::fence::Passed;
use model::receipt::{Receipt, Step};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::api::Api;
use super::steer::{self, steer};
use super::submit::show;
use super::wait::Row;
use super::{Stop, note};
use crate::output::Output;

/// The largest receipt accepted, in bytes; ten thousand nodes need a few megabytes.
const RECEIPT_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Show one task, and the nodes it waits for
    Show {
        /// Its id
        #[arg(value_name = "TASK_ID")]
        id: String,
    },
    /// Fetch the receipt of a refresh that is complete
    Receipt {
        /// Its id
        #[arg(value_name = "TASK_ID")]
        id: String,
        /// Where to write it [default: standard output]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Begin nothing more of prefetches until they are resumed; their deadline stands still
    Pause(SteerArgs),
    /// Let prefetches go on
    Resume(SteerArgs),
    /// End prefetches; what is resident stays, what is not done fails
    Cancel(SteerArgs),
    /// Say which prefetches of the account go first
    Priority {
        /// 1 to 9; the highest goes first, 5 is usual
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
        priority: u8,
        #[command(flatten)]
        tasks: SteerArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    /// Ids of tasks
    #[arg(required = true, value_name = "TASK_ID")]
    ids: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Check a receipt without asking anybody
    Verify(VerifyArgs),
    /// Show the public key that receipts are signed with: keep it, to check receipts by
    Key(super::Verb<KeyArgs>),
}

/// There is nothing to say beyond who asks.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The receipt
    file: PathBuf,
    /// The key that is trusted, as `warmfront receipt key` showed it, or a file with it
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
}

pub(super) async fn tasks(
    command: &TasksCommand,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    match command {
        TasksCommand::Show { id } => show_task(id, api, output, out).await,
        TasksCommand::Pause(tasks) => steer("PausePreloadTask", &tasks.ids, None, api, output, out).await,
        TasksCommand::Resume(tasks) => steer("ResumePreloadTask", &tasks.ids, None, api, output, out).await,
        TasksCommand::Cancel(tasks) => steer("CancelPreloadTask", &tasks.ids, None, api, output, out).await,
        TasksCommand::Priority { priority, tasks } => {
            steer("SetPreloadTaskPriority", &tasks.ids, Some(*priority), api, output, out).await
        }
        TasksCommand::Receipt { id, file } => {
            let reply = api.call("DescribeRefreshTaskReceipt", &[("TaskId", id)]).await?;
            let receipt =
                reply["Receipt"].as_str().ok_or_else(|| Stop::Failed("the service sent no receipt".to_owned()))?;
            match file {
                None => Ok(writeln!(out, "{receipt}")?),
                Some(path) => std::fs::write(path, format!("{receipt}\n"))
                    .map_err(|error| Stop::Failed(format!("write {}: {error}", path.display()))),
            }
        }
    }
}

async fn show_task(id: &str, api: &Api, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let reply = api.call("DescribeRefreshTaskById", &[("TaskId", id)]).await?;
    let tasks = reply["Tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tasks.is_empty() {
        return Err(Stop::Failed(format!("no task {id}")));
    }
    let rows: Vec<Value> = tasks.iter().map(|task| Row::read(task).shown()).collect();
    // If the service does not have this action of ours, its own answer is shown.
    let is_prefetch = tasks.iter().any(|task| task["ObjectType"] == "preload");
    let whole = if is_prefetch {
        api.call("DescribePreloadTask", &[("TaskId", id), ("PageSize", "100")]).await.ok()
    } else {
        None
    };
    let whole = whole.as_ref().map(steer::read);
    let waiting = reply["WaitingFor"].as_array().and_then(|waiting| waiting.first());
    let nodes = waiting.and_then(|waiting| waiting["Nodes"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let more = waiting.and_then(|waiting| waiting["MoreNodes"].as_u64()).unwrap_or(0);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match output {
        Output::Json => {
            let nodes: Vec<Value> = nodes
                .iter()
                .map(|node| {
                    json!({ "node": node["Name"], "last_heard": text(&node["LastHeardTime"]),
                            "acknowledged": node["Acknowledged"], "until": node["Until"],
                            "at_most_until": text(&node["AtMostUntilTime"]) })
                })
                .collect();
            let mut shown = json!({ "task_id": id, "urls": rows, "revision": waiting.map(|waiting| &waiting["Revision"]),
                                    "waiting_for": nodes, "more_nodes": more });
            if let Some(whole) = whole {
                shown["prefetch"] = whole.json();
            }
            Ok(writeln!(out, "{shown}")?)
        }
        Output::Table => {
            show(&Row::COLUMNS, &rows, out)?;
            if let Some(whole) = whole {
                whole.tell(out)?;
            }
            if nodes.is_empty() {
                return Ok(());
            }
            let nodes: Vec<Value> = nodes
                .iter()
                .map(|node| {
                    let heard = text(&node["LastHeardTime"]);
                    let waits = match text(&node["AtMostUntilTime"]) {
                        Some(time) => format!("its acknowledgement, or the end of its lease, {time} at the latest"),
                        None => "its acknowledgement alone: it serves in isolation".to_owned(),
                    };
                    json!({ "waits_for": node["Name"], "acknowledged": node["Acknowledged"].to_string(), "until": waits,
                            "last_heard": heard.unwrap_or_else(|| "never since the control plane started".to_owned()) })
                })
                .collect();
            writeln!(out)?;
            show(&["waits_for", "last_heard", "acknowledged", "until"], &nodes, out)?;
            if more > 0 {
                writeln!(out, "and {more} more nodes")?;
            }
            Ok(())
        }
    }
}

pub(super) async fn key(api: &Api, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let reply = api.call("DescribeReceiptKey", &[]).await?;
    let key = reply["PublicKey"].as_str().and_then(PublicKey::parse);
    let key = key.ok_or_else(|| Stop::Failed("the service sent no key".to_owned()))?;
    match output {
        Output::Json => Ok(writeln!(out, "{}", json!({ "key": key.to_string(), "fingerprint": key.fingerprint() }))?),
        Output::Table => {
            // Alone on its line, so that it can be redirected into a file.
            note(format_args!("Ed25519, fingerprint {}", key.fingerprint()));
            Ok(writeln!(out, "{key}")?)
        }
    }
}

/// Checks a receipt. Everything shown was signed by the trusted key.
pub(super) fn check(args: &VerifyArgs, output: Output, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let file = read(&args.file)?;
    let Some(trusted) = &args.key else {
        let claimed = claimed_key(&file);
        let claimed = claimed.map_or("nothing that can be read".to_owned(), |key| format!("key {}", key.fingerprint()));
        let how = "give --key with the key that you kept from `warmfront receipt key`";
        return Err(Stop::usage(format_args!("the file says that it was signed with {claimed}; {how}")));
    };
    let trusted = match PublicKey::parse(trusted) {
        Some(key) => key,
        None => PublicKey::parse(&read(Path::new(trusted))?)
            .ok_or_else(|| Stop::usage(format_args!("--key {trusted}: expected an Ed25519 key in base64")))?,
    };
    let receipt = verify(&file, trusted).map_err(|error| {
        let mut text = format!("{}: {error}", args.file.display());
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Stop::Failed(text)
    })?;
    match output {
        Output::Json => {
            let steps: Vec<Value> = receipt.steps.iter().map(step).collect();
            let shown = json!({
                "good": true, "fingerprint": trusted.fingerprint(), "task_id": receipt.task, "account": receipt.account,
                "type": receipt.kind, "log": receipt.log, "accepted": moment(receipt.accepted_ms),
                "completed": moment(receipt.completed_ms), "swept_as_of": moment(receipt.issued_ms),
                "objects": receipt.objects, "steps": steps,
            });
            Ok(writeln!(out, "{shown}")?)
        }
        Output::Table => tell(&receipt, trusted, out),
    }
}

fn tell(receipt: &Receipt, trusted: PublicKey, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    writeln!(out, "good       signed with the trusted key {}", trusted.fingerprint())?;
    writeln!(out, "task       {} ({}) of account {}", receipt.task, receipt.kind, receipt.account)?;
    writeln!(out, "log        {}", receipt.log)?;
    writeln!(out, "accepted   {}", moment(receipt.accepted_ms))?;
    writeln!(out, "complete   {}", moment(receipt.completed_ms))?;
    writeln!(out, "objects    {}, SHA-256 {}", receipt.objects.count, receipt.objects.sha256)?;
    for object in &receipt.objects.listed {
        writeln!(out, "           {object}")?;
    }
    for step in &receipt.steps {
        let (first, last) = (step.revisions.first(), step.revisions.last());
        let revisions = match (first, last) {
            (Some(first), Some(last)) if first == last => format!("revision {first}"),
            (Some(first), Some(last)) => format!("{} revisions from {first} to {last}", step.revisions.len()),
            _ => "no revision".to_owned(),
        };
        let (lease, margin) = (step.lease_ms as f64 / 1e3, step.margin_ms as f64 / 1e3);
        writeln!(out)?;
        writeln!(out, "{revisions}: complete {}, lease {lease} s + {margin} s", moment(step.completed_ms))?;
        if step.members.is_empty() {
            writeln!(out, "there were no nodes to wait for")?;
            continue;
        }
        let members: Vec<Value> = step.members.iter().map(|member| one(step, member)).collect();
        show(&["node", "past_by", "acknowledged", "at", "swept_objects", "swept_bytes", "isolation"], &members, out)?;
        let swept_as_of = moment(receipt.issued_ms);
        match step.swept_together {
            None => writeln!(out, "swept as of {swept_as_of}")?,
            Some((from, to)) => {
                writeln!(out, "swept as of {swept_as_of}, by revisions {from} to {to} together, others' among them")?
            }
        }
    }
    Ok(())
}

fn step(step: &Step) -> Value {
    json!({
        "revisions": step.revisions, "completed": moment(step.completed_ms), "known_for_ms": step.known_for_ms,
        "lease_ms": step.lease_ms, "margin_ms": step.margin_ms, "swept_together": step.swept_together,
        "members": step.members.iter().map(|member| one(step, member)).collect::<Vec<_>>(),
    })
}

fn one(step: &Step, member: &model::receipt::MemberThen) -> Value {
    let past_by = match step.passed(member) {
        Passed::Acknowledged => "acknowledgement",
        Passed::LeaseOver => "lease over",
        Passed::Waiting => "nothing",
    };
    let at = (member.acknowledged_ms > 0).then(|| moment(member.acknowledged_ms));
    json!({ "node": member.node, "past_by": past_by, "acknowledged": member.acknowledged, "at": at,
            "swept_objects": member.swept_objects, "swept_bytes": member.swept_bytes,
            "swept_upto": member.swept_upto, "isolation": member.isolation })
}

/// A wall-clock time, as people and programs read it.
fn moment(millis: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{millis} ms after 1970"))
}

/// Reads a text file of bounded size.
fn read(path: &Path) -> Result<String, Stop> {
    let wrong = |problem: String| Stop::Usage(format!("{}: {problem}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > RECEIPT_BYTES_MAX {
        return Err(wrong(format!("larger than {} MiB", RECEIPT_BYTES_MAX >> 20)));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| Stop::Failed(format!("{}: not a receipt: not text", path.display())))
}

#[cfg(test)]
mod tests;
