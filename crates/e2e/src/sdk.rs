//! The vendor's own SDKs for Python and Node, unmodified, driven by the scripts in `sdk/`, which print one JSON answer.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::stage::Stage;
use crate::workspace;

/// Runs `sdk/NAME` against the stage's API with `args`, and returns the JSON it prints.
pub async fn run(stage: &Stage, name: &str, args: &[&str]) -> anyhow::Result<Value> {
    run_with(stage, name, args, &[], String::new()).await
}

/// One call: product (`cdn`, `vod`, `cdn-2014`), action, parameters.
pub type Call = (&'static str, &'static str, Value);

/// Makes `calls` in order through the older SDK; returns the answers.
pub async fn calls(stage: &Stage, calls: &[impl Serialize]) -> anyhow::Result<Vec<Value>> {
    answers(calls, run_with(stage, "calls.py", &[], &[], serde_json::to_string(calls)?).await?)
}

/// Makes `calls` in order through the typed requests of a generation, `tea` or `legacy`; returns the fields of each
/// reply's model. `shown` are environment variables, such as `SECURITY_TOKEN`, with credentials to use instead of the
/// stage's key.
pub async fn typed(
    stage: &Stage,
    generation: &str,
    shown: &[(&str, &str)],
    calls: &[impl Serialize],
) -> anyhow::Result<Vec<Value>> {
    answers(calls, run_with(stage, "typed.py", &[generation], shown, serde_json::to_string(calls)?).await?)
}

/// Makes `calls` in order through an SDK for Node: `tea`, the current one of CDN, or `pop`, the older core.
pub async fn node(stage: &Stage, generation: &str, calls: &[impl Serialize]) -> anyhow::Result<Vec<Value>> {
    let folder = workspace().join("crates/e2e/sdk/node");
    ensure!(folder.join("node_modules").exists(), "node_modules are missing; ./test installs them");
    let mut command = Command::new("node");
    command.arg(folder.join("typed.cjs")).arg(generation);
    answers(calls, run_command(stage, command, &[], serde_json::to_string(calls)?).await?)
}

fn answers(calls: &[impl Serialize], answers: Value) -> anyhow::Result<Vec<Value>> {
    let answers = answers.as_array().context("a list of answers")?.clone();
    ensure!(answers.len() == calls.len(), "one answer a call: {answers:?}");
    Ok(answers)
}

async fn run_with(
    stage: &Stage,
    name: &str,
    args: &[&str],
    shown: &[(&str, &str)],
    input: String,
) -> anyhow::Result<Value> {
    let python = workspace().join(".venv/bin/python");
    ensure!(python.exists(), "{} is missing; ./test makes it and installs the SDKs", python.display());
    let mut command = Command::new(python);
    command.arg(workspace().join("crates/e2e/sdk").join(name)).args(args);
    run_command(stage, command, shown, input).await.with_context(|| format!("{name} {args:?}"))
}

async fn run_command(
    stage: &Stage,
    mut command: Command,
    shown: &[(&str, &str)],
    input: String,
) -> anyhow::Result<Value> {
    command
        .env("ENDPOINT", format!("127.0.0.1:{}", stage.api_port))
        .env("ALIBABA_CLOUD_ACCESS_KEY_ID", &stage.key.id)
        .env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", &stage.key.secret)
        .envs(shown.iter().copied());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("a piped input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        anyhow::Ok(child.wait_with_output()?)
    })
    .await?
    .context("run an SDK")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.trim()).with_context(|| format!("it printed {text:?}"))
}
