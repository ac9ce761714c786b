//! Whole connections to a control plane's API: either raw bytes; or, after `!`, an action, its version and its proof
//! (`v1`, `v3`, `session`, `bearer`), and parameters in lines, as a client sends them. The answer is HTTP with JSON or
//! XML, and never contains a secret that was not asked for.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aliyun::{AccessKey, Ask, encode_pairs, sign_v1, sign_v3};
use control::{Control, Operator, Seal, State};
use fuzz::text;
use http::Method;
use libfuzzer_sys::fuzz_target;
use model::{Clock, ManualClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Number of inputs after which the control plane is replaced: it keeps their submissions in memory.
const INPUTS_MAX: u32 = 2_000;

/// How long to wait for an answer before the connection is half closed, and then for its end: longer than any timeout
/// of the server. The clock is paused, so this takes no time.
const ANSWER_MAX: Duration = Duration::from_secs(120);

const KEY: AccessKey<'static> = AccessKey { id: "fuzz-key", secret: "fuzz-secret-of-the-lasting-key" };

struct Rig {
    runtime: Runtime,
    api: mpsc::Sender<DuplexStream>,
    _link: mpsc::Sender<DuplexStream>,
    _control: Control,
    now: SystemTime,
    session: (String, String, String),
    bearer: String,
    /// Secrets that inputs have contained themselves, for example in a URL that is listed later.
    said: [bool; 4],
    inputs: u32,
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    RIG.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|rig| rig.inputs >= INPUTS_MAX) {
            *slot = Some(start());
        }
        let Some(rig) = slot else { return };
        rig.inputs += 1;
        match bytes.strip_prefix(b"!") {
            Some(asked) => _ = text(asked).map(|asked| signed(rig, asked)),
            None => _ = exchange(rig, bytes, bytes),
        }
    });
});

fn start() -> Rig {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)));
    let now = clock.now();
    let path = std::env::temp_dir().join(format!("fuzz-gateway-{}.key", std::process::id()));
    let seal = || Seal::open_or_create(&path).expect("a key in the folder for such files");
    let (api, incoming) = mpsc::channel(16);
    let (link, link_incoming) = mpsc::channel(1);
    let control = runtime.block_on(async {
        let state = State::in_memory();
        let operator = Operator::over(state.clone(), seal(), clock.clone()).await.expect("a state");
        operator.create_account("me", "open", BTreeMap::new(), 0).await.expect("an account");
        operator.import_key("me", KEY.id, KEY.secret, None).await.expect("a key");
        let times = control::Times {
            lease_secs: None,
            margin: Duration::from_secs(1),
            prefetch_deadline: Duration::from_secs(1),
            rules: aliyun::Rules::default(),
            audit_history: Duration::from_secs(86_400),
        };
        Control::start_on(state, seal(), clock.clone(), times, incoming, link_incoming).await.expect("it starts")
    });
    let _ = std::fs::remove_file(&path);
    let nothing = || String::new();
    let mut rig = Rig {
        runtime,
        api,
        _link: link,
        _control: control,
        now,
        session: (nothing(), nothing(), nothing()),
        bearer: nothing(),
        said: [false; 4],
        inputs: 0,
    };
    let sources = r#"Sources=[{"content":"127.0.0.1","type":"ipaddr"}]"#;
    signed(&mut rig, &format!("AddCdnDomain 2018-05-10 v1\nDomainName=a.com\nCdnType=web\n{sources}"));
    let json = |answer: Vec<u8>| -> serde_json::Value {
        let whole = String::from_utf8(answer).expect("text");
        serde_json::from_str(whole.split_once("\r\n\r\n").expect("a head").1).expect("JSON")
    };
    let issued = json(signed(&mut rig, "CreateSessionCredentials 2018-05-10 v1\nDurationSeconds=43200"));
    let text = |name: &str| issued["Credentials"][name].as_str().expect("a text").to_owned();
    rig.session = (text("AccessKeyId"), text("AccessKeySecret"), text("SecurityToken"));
    let issued = json(signed(&mut rig, "CreateBearerToken 2018-05-10 v1\nDurationSeconds=43200"));
    rig.bearer = issued["BearerToken"].as_str().expect("a text").to_owned();
    rig.inputs = 0;
    rig
}

/// Sends bytes, made from `input`, over a connection and half closes it; returns everything received until the server
/// closed it.
fn exchange(rig: &mut Rig, bytes: &[u8], input: &[u8]) -> Vec<u8> {
    let secrets = [KEY.secret.to_owned(), rig.session.1.clone(), rig.session.2.clone(), rig.bearer.clone()];
    let api = rig.api.clone();
    let answer = rig.runtime.block_on(async {
        let (client, server) = tokio::io::duplex(64 << 10);
        api.send(server).await.expect("somebody takes connections");
        let (mut reading, mut writing) = tokio::io::split(client);
        let mut whole = Vec::new();
        // A client that is refused early need not finish sending.
        let exchange = async { tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut whole)).1 };
        if tokio::time::timeout(ANSWER_MAX, exchange).await.is_err() {
            let _ = writing.shutdown().await;
            let ended = tokio::time::timeout(ANSWER_MAX, reading.read_to_end(&mut whole)).await;
            assert!(ended.is_ok(), "no end");
        }
        whole
    });
    let shown = String::from_utf8_lossy(&answer);
    let issues = bytes.windows(6).any(|word| word == b"Create");
    let is_in = |secret: &str, bytes: &[u8]| bytes.windows(secret.len()).any(|piece| piece == secret.as_bytes());
    for (secret, said) in secrets.iter().zip(&mut rig.said).filter(|(secret, _)| !secret.is_empty()) {
        *said |= is_in(secret, input);
        let told = *said || issues || is_in(secret, bytes);
        assert!(told || !shown.contains(secret.as_str()), "a secret in {shown}");
    }
    answer
}

/// Sends a signed call as a client does; the answer must be complete, and in the requested format.
fn signed(rig: &mut Rig, asked: &str) -> Vec<u8> {
    let mut lines = asked.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (action, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let way = words.next().unwrap_or("v1");
    let params: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            (name.to_owned(), value.replace("\\n", "\n"))
        })
        .collect();
    rig.inputs += 1;
    let nonce = format!("n{}-{}", rig.inputs, params.len());
    let ask = Ask { method: &Method::POST, action, version, now: rig.now, nonce: &nonce };
    let (id, secret, token) = &rig.session;
    let key = if way == "session" { AccessKey { id, secret } } else { KEY };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let (mut head, body) = match way {
        "v3" | "session" => {
            let body = encode_pairs(&params);
            let extra: &[(&str, &str)] = if way == "session" { &[("x-acs-security-token", token)] } else { &[] };
            let headers = sign_v3(key, ask, "api.test", &[], body.as_bytes(), extra);
            let bad = headers.iter().any(|(_, value)| value.chars().any(|c| c.is_control() || !c.is_ascii()));
            if bad {
                return Vec::new(); // no client can send it
            }
            let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            (format!("POST / HTTP/1.1\r\n{head}"), body)
        }
        "bearer" => {
            let mut pairs = sign_v1(key, ask, &params);
            pairs.retain(|(name, _)| !["AccessKeyId", "Signature", "SignatureMethod"].contains(&name.as_str()));
            pairs.extend([pair("SignatureType", "BEARERTOKEN"), pair("BearerToken", &rig.bearer)]);
            ("POST / HTTP/1.1\r\nhost: api.test\r\n".to_owned(), encode_pairs(&pairs))
        }
        _ => {
            let params = [params, vec![pair("Format", "JSON")]].concat();
            ("POST / HTTP/1.1\r\nhost: api.test\r\n".to_owned(), encode_pairs(&sign_v1(key, ask, &params)))
        }
    };
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()));
    let answer = exchange(rig, &[head.into_bytes(), body.into_bytes()].concat(), asked.as_bytes());
    let whole = std::str::from_utf8(&answer).expect("answers are text");
    let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    match head.contains("application/json;charset=utf-8") {
        true => _ = serde_json::from_str::<serde_json::Value>(body).expect("JSON"),
        false => assert!(body.starts_with("<?xml version='1.0' encoding='UTF-8'?>\n<"), "{whole}"),
    }
    answer
}
