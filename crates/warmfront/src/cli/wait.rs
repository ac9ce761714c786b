//! Waiting for tasks: polls those that are not done, shows a progress bar for each, and returns all rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use model::UrlKey;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::api::{Api, ApiError};
use super::note;

/// Maximum number of ids in one query, a limit of the API.
const IDS_PER_CALL: usize = 10;
/// The pause between rounds: short at first, as small tasks take less than a second, then within the API's rates.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause between calls of one round: 20 calls a second, where the API allows 30.
const PAUSE_BETWEEN: Duration = Duration::from_millis(50);
/// Maximum number of bars shown, to fit a small terminal. Further tasks are waited for all the same.
const BARS_MAX: usize = 20;

/// One URL of a task, as the API reports it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Row {
    #[serde(rename = "TaskId", default)]
    pub(super) task_id: String,
    #[serde(rename = "ObjectPath", default)]
    pub(super) url: String,
    /// `file`, `directory`, `regex`, `preload`.
    #[serde(rename = "ObjectType", default)]
    pub(super) kind: String,
    /// `Refreshing`, `Complete`, `Failed`; any other word counts as running.
    #[serde(rename = "Status", default)]
    pub(super) state: String,
    /// `0%` to `100%`.
    #[serde(rename = "Process", default)]
    pub(super) process: String,
    /// When it was submitted.
    #[serde(rename = "CreationTime", default)]
    pub(super) created: String,
    /// Why it failed; otherwise empty.
    #[serde(rename = "Description", default)]
    pub(super) cause: String,
}

/// A reply with rows. There may be thousands of them, so they are deserialised directly.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Tasks", default)]
    tasks: Vec<Row>,
}

impl Row {
    /// The columns of a table of rows, as [`Row::shown`] names them.
    pub(super) const COLUMNS: [&str; 7] = ["task_id", "url", "type", "state", "process", "created", "cause"];

    /// The row as shown.
    pub(super) fn shown(&self) -> Value {
        serde_json::json!({ "task_id": self.task_id, "url": self.url, "type": self.kind, "state": self.state,
                            "process": self.process, "created": self.created, "cause": self.cause })
    }

    pub(super) fn read(task: &Value) -> Row {
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        Row {
            task_id: text("TaskId"),
            url: text("ObjectPath"),
            kind: text("ObjectType"),
            state: text("Status"),
            process: text("Process"),
            created: text("CreationTime"),
            cause: text("Description"),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state == "Complete"
    }

    fn is_done(&self) -> bool {
        self.is_complete() || self.state == "Failed"
    }

    /// Progress in percent.
    fn percent(&self) -> f64 {
        if self.is_done() { 100.0 } else { self.process.trim_end_matches('%').parse().unwrap_or(0.0) }
    }
}

/// The submitted URLs by task id; `None` for a task if one of its lines is not a URL, such as a tag. Submissions for
/// the same domain in the same second share a task, and the rows of others need not be waited for.
pub(super) struct Submission<'a>(HashMap<&'a str, Option<HashSet<UrlKey>>>);

impl<'a> Submission<'a> {
    /// From submitted URLs or tags, each with the task ids of its call.
    pub(super) fn of(accepted: &'a [(String, String)]) -> Submission<'a> {
        let mut urls: HashMap<&str, Option<HashSet<UrlKey>>> = HashMap::new();
        for (line, ids) in accepted {
            for id in ids.split(',') {
                let known = urls.entry(id.trim()).or_insert_with(|| Some(HashSet::new()));
                match (known.as_mut(), key(line)) {
                    (Some(known), Some(key)) => drop(known.insert(key)),
                    _ => *known = None,
                }
            }
        }
        Submission(urls)
    }

    /// Selects the rows of a task that were submitted here. Keeps all of them if a submitted URL is missing: the
    /// service shows that URL in another form, so it may be any row.
    fn own(&self, id: &str, mut rows: Vec<Row>) -> Vec<Row> {
        let Some(Some(urls)) = self.0.get(id) else { return rows };
        let keys: Vec<Option<UrlKey>> = rows.iter().map(|row| key(&row.url)).collect();
        let there: HashSet<&UrlKey> = keys.iter().flatten().collect();
        // The URLs of one call are split into tasks by host.
        let hosts: HashSet<&str> = there.iter().map(|key| key.host()).collect();
        let mut submitted = urls.iter().filter(|key| hosts.contains(key.host())).peekable();
        if submitted.peek().is_some() && submitted.all(|key| there.contains(key)) {
            let mut keys = keys.iter();
            rows.retain(|_| keys.next().is_some_and(|key| key.as_ref().is_some_and(|key| urls.contains(key))));
        }
        rows
    }
}

/// What a URL and its row have in common, as the service shows some URLs in another form than submitted.
fn key(url: &str) -> Option<UrlKey> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = [":80", ":443"].iter().find_map(|port| authority.strip_suffix(port)).unwrap_or(authority);
    UrlKey::new(host, path).ok()
}

/// The result of waiting.
#[derive(Debug)]
pub(super) struct Waited {
    /// All rows of the submission, in the order of the ids.
    pub(super) rows: Vec<Row>,
    /// Tasks that were not done by the deadline.
    pub(super) late: Vec<String>,
}

/// Waits until everything of a submission is done, for at most `timeout`, even while the service is unavailable for a
/// time.
pub(super) async fn wait(
    api: &Api,
    ids: &[String],
    submission: &Submission<'_>,
    timeout: Duration,
) -> Result<Waited, ApiError> {
    let deadline = Instant::now() + timeout;
    let bars = Bars::new(ids);
    let mut rows: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    let mut open: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut pause = PAUSE;
    while !open.is_empty() {
        let last = Instant::now() >= deadline;
        let mut asked = 0;
        // Each answer contains every URL of its tasks, so a task without a visible bar is only queried once the one
        // before it is done.
        let mut most = if bars.are_seen() || last { IDS_PER_CALL } else { 1 };
        while asked < open.len() {
            let ids = &open[asked..open.len().min(asked + most)];
            if asked > 0 {
                tokio::time::sleep(PAUSE_BETWEEN).await;
            }
            let mut done = 0;
            match api.read::<Listed>("DescribeRefreshTaskById", &[("TaskId", &ids.join(","))]).await {
                Ok(listed) => {
                    let mut found: BTreeMap<&str, Vec<Row>> = ids.iter().map(|id| (*id, Vec::new())).collect();
                    for row in listed.tasks {
                        if let Some(rows) = found.get_mut(row.task_id.as_str()) {
                            rows.push(row);
                        }
                    }
                    for (id, found) in found {
                        let found = submission.own(id, found);
                        bars.show(id, &found);
                        done += usize::from(found.iter().all(Row::is_done));
                        rows.insert(id, found);
                    }
                }
                Err(error) if error.is_passing() => bars.note(&format!("{error}; still waiting")),
                Err(error) => return Err(error),
            }
            // Tasks end roughly in order: if none of these has, querying later ones would be in vain.
            let in_vain = done == 0 && !(bars.are_seen() && asked + ids.len() < BARS_MAX);
            asked += ids.len();
            if in_vain && !last {
                break;
            }
            most = IDS_PER_CALL.min(most * 2);
        }
        // A task without rows is not yet visible, rather than done.
        open.retain(|id| rows.get(id).is_none_or(|rows| rows.is_empty() || !rows.iter().all(Row::is_done)));
        let left = deadline.saturating_duration_since(Instant::now());
        if open.is_empty() || last {
            break;
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    let late = open.iter().map(|id| (*id).to_owned()).collect();
    Ok(Waited { rows: ids.iter().filter_map(|id| rows.remove(id.as_str())).flatten().collect(), late })
}

/// A progress bar for each task on standard error; hidden if that is not a terminal.
struct Bars {
    bars: BTreeMap<String, ProgressBar>,
    /// Arranges the bars on separate lines.
    lines: MultiProgress,
}

impl Bars {
    fn new(ids: &[String]) -> Bars {
        let lines = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3}% {msg}")
            .expect("the template is written for this version of the crate");
        let bars = ids.iter().take(BARS_MAX).map(|id| {
            let bar = lines.add(ProgressBar::new(100).with_style(style.clone()).with_prefix(id.clone()));
            bar.tick();
            (id.clone(), bar)
        });
        Bars { bars: bars.collect(), lines }
    }

    /// Whether the bars are visible.
    fn are_seen(&self) -> bool {
        !self.lines.is_hidden()
    }

    /// Writes a message above the bars.
    fn note(&self, text: &str) {
        self.lines.suspend(|| note(text));
    }

    fn show(&self, id: &str, rows: &[Row]) {
        let (Some(bar), false) = (self.bars.get(id), rows.is_empty()) else { return };
        let count = |test: fn(&Row) -> bool| rows.iter().filter(|row| test(row)).count();
        let (done, failed) = (count(Row::is_done), count(|row| row.state == "Failed"));
        let average = rows.iter().map(Row::percent).sum::<f64>() / rows.len() as f64;
        bar.set_position(average as u64);
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        bar.set_message(format!("{done} of {} URLs{failed}", rows.len()));
        if done == rows.len() {
            bar.finish();
        }
    }
}
