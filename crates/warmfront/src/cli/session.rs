//! `session create`: temporary credentials of the access key, for a job that should not have the key itself.
//!
//! # What always holds
//!
//! - Issued credentials go to standard output, where they were requested, and nowhere else.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Stop;
use super::api::Api;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Issue credentials that end by themselves; they are shown once, as lines for a shell
    Create {
        /// How long they are good for
        #[arg(long, default_value_t = 3600, value_name = "N", value_parser = clap::value_parser!(u32).range(900..=43_200))]
        secs: u32,
        /// What they may do of what the key may, as JSON; all of it without
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
}

pub(super) async fn session(
    args: &SessionArgs,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let SessionCommand::Create { secs, policy } = &args.command;
    let policy = policy.as_ref().map(|path| {
        std::fs::read_to_string(path).map_err(|error| Stop::usage(format_args!("--policy {}: {error}", path.display())))
    });
    let (secs, policy) = (secs.to_string(), policy.transpose()?);
    let mut parameters = vec![("DurationSeconds", secs.as_str())];
    parameters.extend(policy.as_deref().map(|policy| ("Policy", policy.trim())));
    let reply = api.call("CreateSessionCredentials", &parameters).await?;
    let text = |name: &str| reply["Credentials"][name].as_str().unwrap_or_default();
    let (id, secret, token) = (text("AccessKeyId"), text("AccessKeySecret"), text("SecurityToken"));
    if [id, secret, token].contains(&"") {
        return Err(Stop::Failed("the service answered without credentials".to_owned()));
    }
    match output {
        Output::Json => {
            let value = json!({ "access_key_id": id, "access_key_secret": secret, "security_token": token,
                                "expires": text("Expiration") });
            Ok(writeln!(out, "{value}")?)
        }
        // All three consist of letters, digits and `+/=.`, so a shell needs no quotes.
        Output::Table => Ok(writeln!(
            out,
            "export ALIBABA_CLOUD_ACCESS_KEY_ID={id}\nexport ALIBABA_CLOUD_ACCESS_KEY_SECRET={secret}\n\
             export ALIBABA_CLOUD_SECURITY_TOKEN={token}"
        )?),
    }
}
