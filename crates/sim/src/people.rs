//! Users who read, customers who refresh, and checks of the responses.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use aliyun::{Ask, encode_pairs, sign_v3};
use http::Method;
use model::{Clock, Tier};
use serde_json::Value;
use tokio::time::Instant;

use crate::history::Read;
use crate::http1;
use crate::nemesis;
use crate::net::WIDE;
use crate::origin::{self, PATHS};
use crate::random::Random;
use crate::world::{DOMAIN, KEY, World, lock};

/// How long a refresh may take once all is repaired: the longest lease, the margin, and polling.
const HEALED_MAX: Duration = Duration::from_secs(9);

/// Maximum number of refresh tasks watched at a time.
const OPEN_MAX: usize = 12;

/// Maximum number of tasks in one query.
const IDS_BATCH_MAX: usize = 10;

impl World {
    /// One call of the API.
    pub(crate) async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<Value> {
        let form = encode_pairs(parameters);
        let now = lock(&self.planes)[0].clock.now();
        let nonce = format!("{:016x}", lock(&self.nonces).draw());
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now, nonce: &nonce };
        let headers = sign_v3(KEY, ask, "control:9680", &[], form.as_bytes(), &[("accept", "application/json")]);
        let mut request =
            format!("POST / HTTP/1.1\r\nhost: control:9680\r\nconnection: close\r\ncontent-length: {}\r\n", form.len());
        for (name, value) in headers.iter().filter(|(name, _)| name != "host") {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&form);
        let exchange = async {
            let end = self.user.dial("control:9680", WIDE).await?;
            http1::exchange(end, request.as_bytes(), Duration::ZERO).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let body: Value = serde_json::from_slice(&answer.body?).map_err(io::Error::other)?;
        if answer.status == 200 {
            Ok(body)
        } else {
            Err(io::Error::other(format!("{} {}", answer.status, body["Code"])))
        }
    }

    /// One user's request of random kind; returns the status.
    pub(crate) async fn read(&self, at: usize, path: &str, random: &mut Random) -> Option<u16> {
        let more = match random.draw() % 16 {
            0 => "cache-control: max-stale\r\n".to_owned(),
            1 => "accept-encoding: gzip\r\n".to_owned(),
            2 => "range: bytes=0-9\r\n".to_owned(),
            4 => format!("range: bytes={}-\r\n", random.draw() % 40_000),
            5 => {
                let first = random.draw() % 40_000;
                format!("range: bytes={first}-{}\r\n", first + random.draw() % 20_000)
            }
            3 => format!("if-none-match: \"{}\"\r\n", self.origin.version(path).saturating_sub(1)),
            _ => String::new(),
        };
        // Some users read slowly, over connections with small buffers.
        let slow = random.one_in(12);
        let (capacity, pause) = if slow { (64, random.millis(1..4_000)) } else { (WIDE, Duration::ZERO) };
        self.ask(at, path, &more, capacity, pause).await
    }

    /// One user's request; returns the status.
    pub(crate) async fn ask(&self, at: usize, path: &str, more: &str, capacity: usize, pause: Duration) -> Option<u16> {
        let name = lock(&self.hosts)[at].name.clone();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {DOMAIN}\r\nconnection: close\r\n{more}\r\n");
        let begun = Instant::now();
        let exchange = async {
            let end = self.user.dial(&format!("{name}:80"), capacity).await?;
            http1::exchange(end, request.as_bytes(), pause).await
        };
        let answer = match tokio::time::timeout(Duration::from_secs(6), exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => return None,
        };
        if !matches!(answer.status, 200 | 206 | 304) {
            self.history().note(&format!("{name} answers {} for {path}", answer.status));
            return Some(answer.status);
        }
        let etag =
            answer.headers.get("etag").and_then(|etag| etag.trim_start_matches("W/").trim_matches('"').parse().ok());
        let version = answer.headers.get("x-version").and_then(|version| version.parse().ok()).or(etag);
        let Some(version) = version else {
            let text = format!("{name} answers {} for {path} without a version", answer.status);
            self.history().violation(text);
            return Some(answer.status);
        };
        let line = format!("{path} {version}");
        if answer.status == 200
            && let Ok(body) = &answer.body
            && (body.is_empty() || !String::from_utf8_lossy(body).lines().all(|have| have == line))
        {
            let text = format!("TORN: {name} sent a body of {path} v{version} that is not of it");
            self.history().violation(text);
        }
        // Every line of a body is the same, so the expected bytes of any part are known.
        if answer.status == 206
            && let Ok(body) = &answer.body
        {
            let first = answer
                .headers
                .get("content-range")
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<usize>().ok());
            let whole = format!("{line}\n");
            let mut expected = whole.bytes().cycle().skip(first.unwrap_or_default() % whole.len());
            if first.is_none() || !body.iter().all(|byte| Some(*byte) == expected.next()) {
                let text = format!("TORN: {name} sent a part of {path} v{version} that is not of it");
                self.history().violation(text);
            }
        }
        let outside = lock(&self.outside).iter().any(|time| {
            let over = time.until.is_some_and(|until| answer.written > until);
            time.node == name && time.from <= answer.written && !over
        });
        if !outside {
            let read = Read { node: name, path: path.to_owned(), version, begun, sent: answer.written };
            self.history().read(&read);
        }
        Some(answer.status)
    }

    /// Users who read now and then, until `end`.
    pub(crate) async fn reads(self, mut random: Random, end: Instant) {
        while Instant::now() < end {
            tokio::time::sleep(random.millis(5..250)).await;
            let hosts = self.nodes() as u64;
            let (at, path) = (random.within(0..hosts) as usize, *random.pick(&PATHS));
            self.read(at, path, &mut random).await;
        }
    }

    /// A customer who changes objects and refreshes them, until `end`.
    pub(crate) async fn refreshes(self, mut random: Random, end: Instant) {
        while Instant::now() < end {
            tokio::time::sleep(random.millis(50..1_200)).await;
            if self.history().open().len() >= OPEN_MAX {
                continue;
            }
            // Sometimes just while nodes are isolated, and then a few at once.
            let mut many = 1;
            if random.one_in(if self.focused { 1 } else { 3 }) {
                nemesis::isolate(&self, &mut random, end);
                tokio::time::sleep(random.millis(0..300)).await;
                many = random.within(1..5);
            }
            for _ in 0..many {
                self.refresh(&mut random).await;
            }
        }
    }

    /// Polls the open tasks, and at once verifies those that are complete, until `end` or until none are left.
    pub(crate) async fn watch(self, mut random: Random, end: Instant, all: bool) {
        let every = *random.pick(&[40, 300, 300]);
        let mut looking = tokio::task::JoinSet::new();
        while Instant::now() < end && !(all && self.history().open().is_empty()) {
            tokio::time::sleep(random.millis(20..every)).await;
            for task in self.look().await {
                let (world, mut random) = (self.clone(), random.fork());
                looking.spawn(async move { world.look_around(&task, &mut random).await });
            }
            while looking.try_join_next().is_some() {}
        }
        while looking.join_next().await.is_some() {}
    }

    /// Changes the paths that a refresh will cover, and submits it; returns the task's id if acceptance is known.
    pub(crate) async fn refresh(&self, random: &mut Random) -> Option<String> {
        let path = *random.pick(&PATHS);
        let bare = path.split('?').next().unwrap_or(path);
        let site = format!("http://{DOMAIN}");
        let (kind, object, covered): (&str, String, Vec<&str>) = match random.draw() % 8 {
            0 | 1 => {
                let directory = &path[..=path.rfind('/').unwrap_or(0)];
                let covered = PATHS.iter().copied().filter(|path| path.starts_with(directory)).collect();
                ("Directory", format!("{site}{directory}"), covered)
            }
            2 => {
                let digit = PATHS.iter().copied().filter(|path| path.ends_with(|last: char| last.is_ascii_digit()));
                let covered = digit.filter(|path| path.starts_with("/a/")).collect();
                ("Regex", format!("{site}/a/.*[0-9]"), covered)
            }
            3 => ("ExQuery", format!("{site}{bare}"), vec![path]),
            4 => {
                let tag = origin::tag(path);
                ("Tag", tag.clone(), PATHS.iter().copied().filter(|path| origin::tag(path) == tag).collect())
            }
            _ => ("File", format!("{site}{path}"), vec![path]),
        };
        let mut versions = BTreeMap::new();
        for path in covered {
            // Not every refreshed object has changed: then a 304 keeps it.
            let version = if random.one_in(4) { self.origin.version(path) } else { self.origin.change(path) };
            versions.insert(path.to_owned(), version);
        }
        let force = if random.one_in(4) { "true" } else { "false" };
        let called = if kind == "Tag" {
            let parameters = [("DomainName", DOMAIN), ("CacheTag", object.as_str()), ("Force", force)];
            self.call("RefreshObjectCacheByCacheTag", &parameters).await
        } else {
            let parameters = [("ObjectPath", object.as_str()), ("ObjectType", kind), ("Force", force)];
            self.call("RefreshObjectCaches", &parameters).await
        };
        match called {
            Ok(reply) => {
                let task = reply["RefreshTaskId"].as_str()?.to_owned();
                self.history().accepted(&task, versions);
                Some(task)
            }
            Err(error) => {
                self.history().note(&format!("refresh of {kind} {object}: {error}"));
                None
            }
        }
    }

    /// Tasks that read `Complete` for the first time.
    pub(crate) async fn look(&self) -> Vec<String> {
        let open = self.history().open();
        let mut complete = Vec::new();
        for ids in open.chunks(IDS_BATCH_MAX) {
            let Ok(reply) = self.call("DescribeRefreshTaskById", &[("TaskId", &ids.join(","))]).await else { continue };
            let lines = reply["Tasks"].as_array().map_or(&[][..], Vec::as_slice);
            for id in ids {
                let mut of_it = lines.iter().filter(|line| line["TaskId"] == id.as_str()).peekable();
                let done = of_it.peek().is_some() && of_it.all(|line| line["Status"] == "Complete");
                if done && self.history().complete(id) {
                    complete.push(id.clone());
                }
            }
        }
        complete
    }

    /// Reads the paths of a task from every node at once.
    pub(crate) async fn look_around(&self, task: &str, random: &mut Random) {
        let paths = self.history().paths(task);
        let mut reading = tokio::task::JoinSet::new();
        for at in 0..self.nodes() {
            let path = random.pick(&paths).clone();
            let (world, mut random) = (self.clone(), random.fork());
            reading.spawn(async move { world.read(at, &path, &mut random).await });
        }
        while reading.join_next().await.is_some() {}
    }

    /// Repairs everything; then every task must complete, and every node must serve the origin's current versions.
    pub(crate) async fn healed(&self) {
        self.net.heal_all();
        self.origin.get_well();
        for at in 0..self.replicas() {
            self.start_plane(at).await;
            lock(&self.planes)[at].faults.clear();
        }
        for at in 0..self.nodes() {
            self.start_host(at).await;
        }
        self.history().note("all is healed");
        self.clone().watch(Random::new(1), Instant::now() + HEALED_MAX, true).await;
        let open = self.history().open();
        if !open.is_empty() {
            let text = format!("tasks {open:?} are not complete {} s after all was healed", HEALED_MAX.as_secs());
            self.history().violation(text);
        }
        // Requests that waited for a slow link have ended by now.
        for at in 0..self.nodes() {
            for path in PATHS {
                self.must_serve(at, path, "though all is healed").await;
            }
        }
        self.lagging().await;
    }

    /// A parent that has not applied a refresh must not keep its children from serving the refreshed object: its
    /// responses reflect the fence it was asked with.
    pub(crate) async fn lagging(&self) {
        let parent = lock(&self.hosts).iter().find(|host| host.tier > Tier::L1).map(|host| host.name.clone());
        let Some(parent) = parent else { return };
        self.net.cut("control", &parent);
        self.history().note(&format!("{parent} lags"));
        let path = PATHS[0];
        self.origin.change(path);
        let object = format!("http://{DOMAIN}{path}");
        let parameters = [("ObjectPath", object.as_str()), ("ObjectType", "File")];
        if let Err(error) = self.call("RefreshObjectCaches", &parameters).await {
            self.history().violation(format!("a refresh is refused though all is healed: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        for at in 0..self.nodes() {
            self.must_serve(at, path, &format!("because {parent} lags")).await;
        }
        self.net.heal("control", &parent);
    }

    /// A node must serve a path, though maybe not at once.
    pub(crate) async fn must_serve(&self, at: usize, path: &str, why: &str) {
        let deadline = Instant::now() + HEALED_MAX;
        while self.ask(at, path, "", WIDE, Duration::ZERO).await.is_none_or(|status| status >= 400) {
            if Instant::now() > deadline {
                let name = lock(&self.hosts)[at].name.clone();
                self.history().violation(format!("{name} does not serve {path} {why}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
