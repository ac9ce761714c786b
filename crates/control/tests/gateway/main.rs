//! The door of a control plane as clients meet it: over a socket, signed, on a database of its own, with a clock that tests move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aliyun::{AccessKey, Ask, encode_pairs, sign_v1, sign_v3};
use control::policy::Policy;
use control::{Control, ControlConfig, Operator, StateUrl};
use http::Method;
use model::{Clock, ManualClock};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod access;
mod audit;
mod clients;
mod credentials;
mod domains;
mod explain;
mod figures;
mod functions;
mod isolation;
mod owners;
mod pages;
mod permissions;
mod quotas;
mod rates;
mod service;
mod steering;
mod tasks;
mod terraform;

const CDN: &str = "2018-05-10";
const OLD: &str = "2014-11-11";
const VOD: &str = "2017-03-21";

/// A day of 2026, 01:00 in UTC+8.
const START: Duration = Duration::from_secs(1_782_752_400);

/// The longest a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What signs a request.
#[derive(Clone, Default)]
struct Signer {
    id: String,
    secret: String,
    /// The token of a session.
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status, code and message of an error; the code is empty for a success.
    fn words(&self) -> (u16, String, String) {
        let json = self.json();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("Code"), text("Message"))
    }

    /// A header's value.
    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split(':').next().is_some_and(|known| known.eq_ignore_ascii_case(name));
        self.head.lines().find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

/// A control plane with one account, `me`, whose domain is `a.com`.
struct Rig {
    control: Control,
    operator: Operator,
    clock: Arc<ManualClock>,
    key: Signer,
    nonces: AtomicU64,
    _dir: TempDir,
}

impl Rig {
    async fn start(profile: &str) -> Rig {
        Rig::with(profile, &[], 0, |_| ()).await
    }

    /// The same with limits of its own, requests a second, and a configuration that `set` changes.
    async fn with(profile: &str, quota: &[(&str, u64)], qps: u64, set: impl FnOnce(&mut ControlConfig)) -> Rig {
        let rig = Rig::bare(profile, quota, qps, set).await;
        rig.add_domain("a.com").await;
        rig
    }

    /// The same without its domain.
    async fn bare(profile: &str, quota: &[(&str, u64)], qps: u64, set: impl FnOnce(&mut ControlConfig)) -> Rig {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("c.db");
        let mut config = ControlConfig::over_sqlite(&path);
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.link_listen = config.listen;
        set(&mut config);
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH + START));
        let control = Control::start(config, clock.clone()).await.unwrap();
        let url = StateUrl::parse(&format!("sqlite:{}", path.display())).unwrap();
        let operator = Operator::open(&url, None, clock.clone()).await.unwrap();
        let quota: BTreeMap<String, u64> = quota.iter().map(|(name, most)| ((*name).to_owned(), *most)).collect();
        operator.create_account("me", profile, quota, qps).await.unwrap();
        let key = operator.create_key("me", None).await.unwrap();
        let key = Signer { id: key.id, secret: key.secret.to_string(), token: None };
        Rig { control, operator, clock, key, nonces: AtomicU64::new(0), _dir: dir }
    }

    async fn add_domain(&self, name: &str) {
        let sources = r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#;
        let params = [("DomainName", name), ("CdnType", "web"), ("Sources", sources), ("Scope", "global")];
        let answer = self.ask(CDN, "AddCdnDomain", &params).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.online(name).await;
    }

    /// Waits until every node knows a domain as it is now.
    async fn online(&self, name: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let detail = self.ask(CDN, "DescribeCdnDomainDetail", &[("DomainName", name)]).await.json();
            if detail["GetDomainDetailModel"]["DomainStatus"] == "online" {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain: {detail}");
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    }

    /// A key of the account that may do what `policy` says.
    async fn key_with(&self, policy: &str) -> Signer {
        let key = self.operator.create_key("me", Some(&Policy::parse(policy).unwrap())).await.unwrap();
        Signer { id: key.id, secret: key.secret.to_string(), token: None }
    }

    /// A key of a new user of the account, to whom these policies are attached: a system's by name, else a document.
    async fn user(&self, name: &str, policies: &[&str]) -> Signer {
        self.operator.create_user("me", name).await.unwrap();
        for (n, policy) in policies.iter().enumerate() {
            let own = format!("{name}-{n}");
            let named = if let Ok(document) = Policy::parse(policy) {
                self.operator.put_policy("me", &own, &document).await.unwrap();
                own.as_str()
            } else {
                policy
            };
            assert!(self.operator.attach("me", name, named).await.unwrap());
        }
        let key = self.operator.create_key_of("me", Some(name), None).await.unwrap();
        Signer { id: key.id, secret: key.secret.to_string(), token: None }
    }

    /// What an action answers to `by` once it answers so: an operator's change takes effect within a second.
    async fn until(&self, by: &Signer, action: &str, params: &[(&str, &str)], status: u16, code: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.v1(by, CDN, action, params, &self.nonce()).await;
            if answer.status == status && answer.words().1 == code {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {code}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn nonce(&self) -> String {
        format!("n{}", self.nonces.fetch_add(1, Ordering::Relaxed))
    }

    /// Calls with the account's key, signed by V1.
    async fn ask(&self, version: &str, action: &str, params: &[(&str, &str)]) -> Answer {
        self.v1(&self.key, version, action, params, &self.nonce()).await
    }

    async fn v1(&self, by: &Signer, version: &str, action: &str, params: &[(&str, &str)], nonce: &str) -> Answer {
        let ask = Ask { method: &Method::POST, action, version, now: self.clock.now(), nonce };
        let token = by.token.as_deref().map(|token| ("SecurityToken", token));
        let params: Vec<(String, String)> = params
            .iter()
            .copied()
            .chain([("Format", "JSON")])
            .chain(token)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let body = encode_pairs(&sign_v1(AccessKey { id: &by.id, secret: &by.secret }, ask, &params));
        self.send("POST", "/", &[], &body).await
    }

    async fn v3(&self, by: &Signer, version: &str, action: &str, params: &[(&str, &str)]) -> Answer {
        let nonce = self.nonce();
        let ask = Ask { method: &Method::POST, action, version, now: self.clock.now(), nonce: &nonce };
        let params: Vec<(String, String)> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = encode_pairs(&params);
        let extra: Vec<(&str, &str)> = by.token.iter().map(|token| ("x-acs-security-token", token.as_str())).collect();
        let key = AccessKey { id: &by.id, secret: &by.secret };
        let headers = sign_v3(key, ask, "cdn.test", &[], body.as_bytes(), &extra);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.send("POST", "/", &headers, &body).await
    }

    /// Sends a request over a connection of its own.
    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            text.push_str("host: cdn.test\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(self.control.api_address()).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            let mut whole = Vec::new();
            stream.read_to_end(&mut whole).await.unwrap();
            String::from_utf8(whole).unwrap()
        };
        let whole = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer");
        let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// Asserts status and code of an answer, and the beginning of its message.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str, message: &str) {
    let (got_status, got_code, got_message) = answer.words();
    assert_eq!((got_status, got_code.as_str()), (status, code), "{answer:?}");
    assert!(got_message.starts_with(message), "{got_message}");
}

/// `count` lines of `a.com`, from number `from` on.
fn lines(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("http://a.com/{n}\n")).collect()
}

/// A time as requests and queries have it: what a client of ours writes.
fn timestamp(at: SystemTime) -> String {
    let ask = Ask { method: &Method::GET, action: "A", version: CDN, now: at, nonce: "n" };
    let signed = sign_v1(AccessKey { id: "i", secret: "s" }, ask, &[]);
    signed.into_iter().find_map(|(name, value)| (name == "Timestamp").then_some(value)).unwrap()
}
