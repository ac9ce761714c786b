//! Writers: they change objects at the origin, refresh them through the signed API, and wait until the task is `Complete`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Method, Request};
use aliyun::{AccessKey, Ask, encode_pairs, sign_v3};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;

use super::Dice;
use super::checker::Refresh;
use super::history::History;
use super::origin::{self, DIRECTORIES, Origin};
use crate::http;
use crate::stage::{DOMAIN, Key};

/// The pause between polls of a task.
const LOOK: Duration = Duration::from_millis(40);

/// The API of a control plane, used with one access key.
#[derive(Clone, Debug)]
pub struct Api {
    /// Its port on loopback.
    pub port: u16,
    /// The access key.
    pub key: Key,
}

impl Api {
    /// Makes one call of the current version, signed by V3.
    pub async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        #[allow(clippy::disallowed_methods, reason = "the service compares it with its own wall clock")]
        let now = std::time::SystemTime::now();
        let nonce = format!("{}-{now:?}-{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
        let form = encode_pairs(parameters);
        let host = format!("127.0.0.1:{}", self.port);
        let key = AccessKey { id: &self.key.id, secret: &self.key.secret };
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now, nonce: &nonce };
        let headers = sign_v3(key, ask, &host, &[], form.as_bytes(), &[("accept", "application/json")]);
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = http::send(self.port, request.body(Full::new(Bytes::from(form)))?).await?;
        ensure!(answer.status.is_success(), "{action}: {} {}", answer.status, answer.text());
        Ok(answer.json())
    }
}

/// The scope of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One object with all its variants.
    File(String),
    /// Everything below a directory.
    Directory(String),
}

impl Scope {
    /// A random scope.
    pub fn any(dice: &mut Dice) -> Scope {
        match dice.below(10) {
            0..=5 => Scope::File(dice.pick(&origin::paths()).clone()),
            6..=8 => Scope::Directory((*dice.pick(&DIRECTORIES)).to_owned()),
            _ => Scope::Directory("/".to_owned()),
        }
    }

    /// The objects it covers.
    pub fn paths(&self) -> Vec<String> {
        match self {
            Scope::File(path) => vec![path.clone()],
            Scope::Directory(folder) => origin::paths().into_iter().filter(|path| path.starts_with(folder)).collect(),
        }
    }
}

/// A refresh that was accepted.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The refresh that the checker will hold reads to once it is complete.
    pub refresh: Refresh,
    api: Api,
}

/// Changes all objects that `scope` covers, and refreshes it.
pub async fn submit(
    api: &Api,
    origin: &Origin,
    history: &History,
    scope: &Scope,
    force: bool,
) -> anyhow::Result<Submitted> {
    let set = scope.paths().into_iter().map(|path| (path.clone(), origin.change(&path))).collect();
    let (path, kind) = match scope {
        Scope::File(path) => (path, "File"),
        Scope::Directory(folder) => (folder, "Directory"),
    };
    let url = format!("http://{DOMAIN}{path}");
    let mut parameters = vec![("ObjectPath", url.as_str()), ("ObjectType", kind)];
    if force {
        parameters.push(("Force", "true"));
    }
    let submitted = history.now();
    let reply = api.call("RefreshObjectCaches", &parameters).await?;
    let accepted = history.now();
    let task = reply["RefreshTaskId"].as_str().with_context(|| format!("a task id in {reply}"))?.to_owned();
    let what = format!("{kind} {path}{}", if force { " with Force" } else { "" });
    Ok(Submitted { refresh: Refresh { task, what, set, submitted, accepted }, api: api.clone() })
}

impl Submitted {
    /// Whether every row of the task is `Complete`; an error if the control plane does not answer.
    pub async fn is_complete(&self) -> anyhow::Result<bool> {
        let reply = self.api.call("DescribeRefreshTaskById", &[("TaskId", &self.refresh.task)]).await?;
        let rows = reply["Tasks"].as_array().with_context(|| format!("rows in {reply}"))?;
        ensure!(rows.iter().all(|row| row["Status"] != "Failed"), "a refresh cannot fail: {reply}");
        Ok(!rows.is_empty() && rows.iter().all(|row| row["Status"] == "Complete"))
    }

    /// Polls until the task is complete, and tells the history; returns the time since the submission. Keeps polling
    /// while the control plane is unavailable.
    pub async fn wait(self, history: &History, at_most: Duration) -> anyhow::Result<Duration> {
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            let last = match tokio::time::timeout(Duration::from_secs(2), self.is_complete()).await {
                Ok(Ok(true)) => {
                    let since = self.refresh.submitted;
                    return Ok(history.completed(self.refresh).await?.saturating_sub(since));
                }
                Ok(Ok(false)) => "is not complete".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            ensure!(
                tokio::time::Instant::now() < deadline,
                "refresh {} of {} not done after {at_most:?}: {last}",
                self.refresh.task,
                self.refresh.what
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}
