//! The client's commands: `push`, `refresh`, `tasks`, `receipt`, `quota`, `session`, `domain`.
//!
//! They use the vendor's API like any other client, signed with V3, so they work with the vendor's own endpoint as well
//! as ours. Each command is a function from arguments to data; data goes to the given writer (standard output),
//! messages and progress bars go to standard error.
//!
//! # What always holds
//!
//! - Exit status: 0 if everything requested is done (with `--wait`: every URL is complete), 1 if something failed, was
//!   refused or timed out, 2 if the command itself was wrong and nothing was sent.
//! - A secret is never an argument; it comes from the environment or from a file.
//! - A submission is retried only if it is certain that it was not accepted.
//!
//! - With `--output json` a command writes one value on one line; `--help` shows its shape. Fields are only ever added.
//!
//! # Not here
//!
//! The operator's commands, which work on the state database itself, and VOD's actions.

pub(crate) mod api;
mod certificate;
mod explain;
mod functions;
mod query;
mod receipt;
mod session;
mod steer;
mod submit;
mod urls;
mod wait;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use model::Clock;

use crate::output::Output;

/// Where the API is and who calls it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiArgs {
    /// The API's address; without a scheme https is spoken, except to this machine
    #[arg(
        long,
        global = true,
        env = "WARMFRONT_ENDPOINT",
        default_value = "http://127.0.0.1:9680",
        value_name = "URL"
    )]
    pub(crate) endpoint: String,
    /// Id of the access key
    #[arg(long, global = true, env = "ALIBABA_CLOUD_ACCESS_KEY_ID", value_name = "ID")]
    pub(crate) access_key_id: Option<String>,
    /// File with the secret of the access key [default: the value of ALIBABA_CLOUD_ACCESS_KEY_SECRET]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) access_key_secret_file: Option<PathBuf>,
}

/// A verb's own arguments, and those that all of them have.
#[derive(Debug, Args)]
pub(crate) struct Verb<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    api: ApiArgs,
}

/// The verbs of a client.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Fetch objects into the caches before users ask for them
    #[command(after_long_help = SUBMIT_HELP)]
    Push(Verb<submit::PushArgs>),
    /// Make cached copies stale, so that the next request asks the origin again
    #[command(after_long_help = SUBMIT_HELP)]
    Refresh(Verb<submit::RefreshArgs>),
    /// Show tasks, the newest first; one task with what it waits for; the receipt of a refresh; steer prefetches
    #[command(after_long_help = TASKS_HELP)]
    Tasks(Verb<query::TasksArgs>),
    /// Receipts of refreshes, and the key they are signed with
    #[command(subcommand, after_long_help = RECEIPT_HELP)]
    Receipt(receipt::ReceiptCommand),
    /// Show what is left of today's quota
    #[command(after_long_help = QUOTA_HELP)]
    Quota(Verb<query::QuotaArgs>),
    /// Temporary credentials of the access key
    #[command(after_long_help = SESSION_HELP)]
    Session(Verb<session::SessionArgs>),
    /// Accelerated domains
    #[command(after_long_help = DOMAIN_HELP)]
    Domain(Verb<query::DomainArgs>),
}

const SUBMIT_HELP: &str = "\
Exit status: 0 when every URL was accepted (with --wait: is complete), 1 when one was not, 2 when the command was wrong.

JSON: {\"task_ids\": [ID], \"urls\": [{\"url\", \"task_id\", \"state\", \"process\", \"cause\"}]}
`state` is Complete, Failed or Refreshing; Submitted where it was not waited for; Refused for the URLs of a call that was
refused, and NotSent for those behind it.

JSON of push --explain: {\"urls\": [{\"url\", \"domain\", \"key\", \"users_key\", \"because\": [{\"functions\": [NAME], \"key\"}], \"origin_path\",
    \"origins\": [NAME:PORT], \"variants\": [{NAME: VALUE}], \"targets\": [{\"pop\", \"tier\", \"owners\": [{\"node\", \"connected\"}]}],
    \"problems\": [TEXT]}]}; exit status 1 when a URL has a problem";

const TASKS_HELP: &str = "\
JSON: [{\"task_id\", \"url\", \"type\", \"state\", \"process\", \"created\", \"cause\"}]
JSON of show: {\"task_id\", \"urls\": [as above], \"revision\", \"more_nodes\",
               \"waiting_for\": [{\"node\", \"last_heard\", \"acknowledged\", \"until\", \"at_most_until\"}]}
    of a prefetch with {\"prefetch\": {\"steered\", \"priority\", \"process\", \"not_before\", \"paused\", \"more_urls\", \"jobs\": [{\"url\",
    \"target\", \"variant\", \"state\", \"node\", \"bytes\", \"length\", \"bytes_per_second\", \"cause\", \"http_status\", \"failed\"}]}}
JSON of pause, resume, cancel and priority: [{\"task_id\", \"urls\"}], with how many URLs had not ended
`until` is Acknowledgement, or LeaseOver: then it is waited for until `at_most_until`. `last_heard` is null for a node that the
control plane has not heard since it started. `receipt` writes the signed file, whatever --output says.";

const RECEIPT_HELP: &str = "\
Exit status of verify: 0 only when the trusted key signed the receipt and it proves that every node was past the refresh.

JSON of verify: {\"good\": true, \"fingerprint\", \"task_id\", \"account\", \"type\", \"log\", \"accepted\", \"completed\", \"swept_as_of\",
                 \"objects\", \"steps\": [{\"revisions\", \"completed\", \"known_for_ms\", \"lease_ms\", \"margin_ms\", \"swept_together\",
                 \"members\": [{\"node\", \"past_by\", \"acknowledged\", \"at\", \"swept_objects\", \"swept_bytes\", \"swept_upto\", \"isolation\"}]}]}
JSON of key: {\"key\", \"fingerprint\"}";

const QUOTA_HELP: &str = "JSON: {\"preload\": {\"limit\": N, \"remaining\": N}, \"url\", \"dir\", \"regex\", \"ignore_params\"}; null where the service does not say";

const SESSION_HELP: &str = "\
The variables that it writes stand for the key in this and other clients; the token goes along as ALIBABA_CLOUD_SECURITY_TOKEN.

JSON: {\"access_key_id\", \"access_key_secret\", \"security_token\", \"expires\"}";

const DOMAIN_HELP: &str = "\
JSON of list: [{\"domain\", \"status\", \"coverage\", \"cname\"}]
JSON of add, show, start, stop and set: {\"domain\", \"status\", \"coverage\", \"cname\", \"type\",
    \"sources\": [{\"content\", \"type\", \"port\", \"priority\", \"weight\"}]}, with \"tag_header\" where one is set
    and \"description\" where there is something to say of the status
JSON of delete: {\"deleted\": NAME}
JSON of certificate set and show: {\"domain\", \"tls\", \"name\", \"subject\", \"issuer\", \"good_from\", \"good_until\", \"set\", \"chain\"}
    `tls` is on or off; where it is off the fields behind it are empty
JSON of config show and set: [{\"id\", \"function\", \"args\": {KEY: VALUE}, \"status\"}]
JSON of config delete: {\"deleted\": [ID]}";

/// Why a command ended without doing all that was requested.
#[derive(Debug)]
enum Stop {
    /// The command line was wrong; nothing was sent.
    Usage(String),
    /// Something failed; the known results were shown.
    Failed(String),
}

impl Stop {
    fn usage(problem: impl Display) -> Stop {
        Stop::Usage(problem.to_string())
    }
}

impl From<api::ApiError> for Stop {
    fn from(error: api::ApiError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Failed(format!("write the result: {error}"))
    }
}

/// Parses an origin, `http://HOST[:PORT]` or `https://HOST[:PORT]`, into the API's format.
pub(crate) fn origin(text: &str) -> Option<serde_json::Value> {
    query::source(text, "20").ok().filter(|source| source["scheme"].is_string())
}

/// Runs one command: data goes to `out`, everything else to standard error.
pub(crate) async fn run(
    command: &ClientCommand,
    output: Output,
    clock: Arc<dyn Clock>,
    out: &mut (dyn Write + Send),
) -> ExitCode {
    let done = async {
        let api = |args: &ApiArgs| api::Api::new(args, clock);
        match command {
            ClientCommand::Push(verb) => submit::push(&verb.args, &api(&verb.api)?, output, out).await,
            ClientCommand::Refresh(verb) => submit::refresh(&verb.args, &api(&verb.api)?, output, out).await,
            ClientCommand::Tasks(verb) => query::tasks(&verb.args, &api(&verb.api)?, output, out).await,
            ClientCommand::Receipt(receipt::ReceiptCommand::Verify(args)) => receipt::check(args, output, out),
            ClientCommand::Receipt(receipt::ReceiptCommand::Key(verb)) => {
                receipt::key(&api(&verb.api)?, output, out).await
            }
            ClientCommand::Quota(verb) => query::quota(&api(&verb.api)?, output, out).await,
            ClientCommand::Session(verb) => session::session(&verb.args, &api(&verb.api)?, output, out).await,
            ClientCommand::Domain(verb) => query::domain(&verb.args.command, &api(&verb.api)?, output, out).await,
        }
    };
    let (status, problem) = match done.await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Stop::Failed(problem)) => (1, problem),
        Err(Stop::Usage(problem)) => (2, problem),
    };
    note(format_args!("error: {problem}"));
    ExitCode::from(status)
}

/// Writes a message to the person at the terminal.
fn note(text: impl Display) {
    // If standard error is closed, nobody is left to be told.
    let _ = writeln!(std::io::stderr(), "{text}");
}
