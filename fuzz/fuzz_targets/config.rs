//! Texts that operators write or paste: `node.toml`, `control.toml`, a policy, a join token. A policy's patterns are
//! compared with a naive matcher.
#![no_main]

use control::policy::Policy;
use control::{ControlConfig, StateUrl};
use libfuzzer_sys::fuzz_target;
use node::NodeConfig;

fuzz_target!(|text: &str| {
    match NodeConfig::parse(text) {
        Ok(config) => assert!(config.check().is_ok()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match ControlConfig::parse(text) {
        Ok(config) => {
            _ = (format!("{config:?}"), config.secret_key_path(), config.margin(), config.prefetch_deadline())
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(url) = StateUrl::parse(text) {
        let _ = (format!("{url:?}"), url.sqlite_path());
    }
    node::fuzzing::join_token(text);
    if let Ok(policy) = Policy::parse(text) {
        let _ = policy.allows("cdn:PushObjectCache", "acs:cdn:*:demo:domain/a.com");
    }
    // One pattern and one text.
    let (pattern, over) = text.split_once('\n').unwrap_or((text, "cdn:PushObjectCache"));
    if pattern.len() <= 24 && over.len() <= 24 && pattern.matches('*').count() <= 4 {
        let statement = serde_json::json!({ "Effect": "Allow", "Action": pattern, "Resource": "*" });
        let policy = serde_json::json!({ "Version": "1", "Statement": [statement] }).to_string();
        let policy = Policy::parse(&policy).expect("a policy");
        let (pattern, lower) = (pattern.to_ascii_lowercase(), over.to_ascii_lowercase());
        assert_eq!(policy.allows(over, ""), naive(pattern.as_bytes(), lower.as_bytes()), "{pattern} over {over}");
    }
});

fn naive(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| naive(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && naive(rest, &text[1..]),
    }
}
