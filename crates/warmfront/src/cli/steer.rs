//! `tasks pause`, `resume`, `cancel` and `priority`: steering of prefetches; and the details of one in `tasks show`.

use std::io::Write;

use serde_json::{Value, json};

use super::Stop;
use super::api::Api;
use super::submit::show;
use crate::output::Output;

/// Maximum number of ids in one call, a limit of the API.
const IDS_PER_CALL: usize = 10;

/// Steers tasks by `action`, a few per call. Calls that succeeded before one is refused remain in effect, and are
/// shown.
pub(super) async fn steer(
    action: &str,
    ids: &[String],
    priority: Option<u8>,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let mut rows: Vec<Value> = Vec::new();
    let mut problem = None;
    let priority = priority.map(|priority| priority.to_string());
    for some in ids.chunks(IDS_PER_CALL) {
        let some = some.join(",");
        let mut parameters = vec![("TaskId", some.as_str())];
        parameters.extend(priority.as_deref().map(|priority| ("Priority", priority)));
        match api.call(action, &parameters).await {
            Ok(reply) => {
                let tasks = reply["Tasks"]["Task"].as_array().map(Vec::as_slice).unwrap_or_default();
                rows.extend(tasks.iter().map(|task| json!({ "task_id": task["TaskId"], "urls": task["Urls"] })));
            }
            Err(error) => {
                problem = Some(Stop::Failed(format!("task {some}: {error}")));
                break;
            }
        }
    }
    match output {
        Output::Json => writeln!(out, "{}", Value::Array(rows))?,
        Output::Table => show(&["task_id", "urls"], &rows, out)?,
    }
    problem.map_or(Ok(()), Err)
}

/// A prefetch as DescribePreloadTask shows it: its state, and each job of its first URLs.
pub(super) struct Whole {
    head: Value,
    jobs: Vec<Value>,
    more_urls: u64,
}

const COLUMNS: [&str; 9] =
    ["url", "target", "variant", "state", "node", "bytes", "length", "bytes_per_second", "cause"];

pub(super) fn read(reply: &Value) -> Whole {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let urls = reply["Urls"]["Url"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one_job = |url: &Value, job: &Value| {
        json!({ "url": url["Url"], "target": job["Target"], "variant": job["Variant"], "state": job["Status"],
                "node": text(&job["Node"]), "bytes": job["Bytes"], "length": job["Length"],
                "bytes_per_second": job["BytesPerSecond"], "cause": text(&job["Cause"]),
                "http_status": job["HttpStatus"], "failed": text(&job["FailedTime"]) })
    };
    let jobs = urls.iter().flat_map(|url| {
        let jobs = url["Jobs"]["Job"].as_array().map(Vec::as_slice).unwrap_or_default();
        jobs.iter().map(move |job| one_job(url, job))
    });
    Whole {
        head: json!({ "steered": reply["State"], "priority": reply["Priority"], "process": reply["Process"],
                      "not_before": text(&reply["NotBefore"]), "paused": text(&reply["PausedTime"]) }),
        jobs: jobs.collect(),
        more_urls: reply["TotalCount"].as_u64().unwrap_or(0).saturating_sub(urls.len() as u64),
    }
}

impl Whole {
    pub(super) fn json(&self) -> Value {
        let mut whole = self.head.clone();
        whole["jobs"] = Value::Array(self.jobs.clone());
        whole["more_urls"] = self.more_urls.into();
        whole
    }

    pub(super) fn tell(&self, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
        let word = |name: &str| self.head[name].as_str().map(str::to_owned);
        writeln!(out)?;
        write!(
            out,
            "{}, priority {}, {}",
            word("steered").unwrap_or_default(),
            self.head["priority"],
            word("process").unwrap_or_default()
        )?;
        if let Some(time) = word("not_before") {
            write!(out, ", not before {time}")?;
        }
        if let Some(time) = word("paused") {
            write!(out, ", paused since {time}")?;
        }
        writeln!(out)?;
        if !self.jobs.is_empty() {
            let jobs: Vec<Value> = self
                .jobs
                .iter()
                .map(|job| {
                    let mut job = job.clone();
                    if let (Some(cause), Some(time)) = (job["cause"].as_str(), job["failed"].as_str()) {
                        job["cause"] = format!("{cause}, {time}").into();
                    }
                    job
                })
                .collect();
            show(&COLUMNS, &jobs, out)?;
        }
        if self.more_urls > 0 {
            writeln!(out, "and {} more URLs", self.more_urls)?;
        }
        Ok(())
    }
}
