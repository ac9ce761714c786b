//! What a key may be used for: a policy in the form the vendor's users have them.
//!
//! Statements allow or deny actions on resources, both as patterns in which `*` stands for anything. What no
//! statement allows is denied, and one that denies outweighs any that allows.

use serde::{Deserialize, Serialize};

/// Statements in one policy.
const STATEMENTS_MAX: usize = 100;

/// A policy, as in `{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "cdn:Push*", "Resource": "*"}]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Policy {
    version: String,
    statement: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    effect: Effect,
    action: Patterns,
    resource: Patterns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

impl Policy {
    /// Reads a policy from JSON; the error says what was expected.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_json::from_str(text).map_err(|error| {
            format!("policy: {error}; expected Version and Statement, each with Effect, Action and Resource")
        })?;
        if policy.statement.len() > STATEMENTS_MAX {
            return Err(format!("policy: at most {STATEMENTS_MAX} statements"));
        }
        Ok(policy)
    }

    /// Whether `action` (`cdn:PushObjectCache`) is allowed on `resource` (`acs:cdn:*:demo:domain/a.com`).
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        let says = |effect| {
            let mut said = self.statement.iter().filter(|statement| statement.effect == effect);
            said.any(|statement| statement.action.match_any(action) && statement.resource.match_any(resource))
        };
        says(Effect::Allow) && !says(Effect::Deny)
    }
}

impl Patterns {
    fn match_any(&self, text: &str) -> bool {
        match self {
            Patterns::One(pattern) => matches(pattern, text),
            Patterns::Many(patterns) => patterns.iter().any(|pattern| matches(pattern, text)),
        }
    }
}

/// Whether `pattern` is `text`, letter case aside, with each `*` for any run of bytes. Linear but for the last star.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let text = text.to_ascii_lowercase();
    let Some(mut rest) = text.strip_prefix(&first.to_ascii_lowercase()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let part = part.to_ascii_lowercase();
        let Some(at) = rest.find(&part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(&last.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_users_know_them() {
        let cases = [
            ("*", "anything", true),
            ("cdn:*", "cdn:PushObjectCache", true),
            ("cdn:Push*Cache", "cdn:PushObjectCache", true),
            ("cdn:push*", "cdn:PushObjectCache", true),
            ("cdn:Refresh*", "cdn:PushObjectCache", false),
            ("acs:cdn:*:*:domain/a.com", "acs:cdn:*:demo:domain/a.com", true),
            ("acs:cdn:*:*:domain/a.com", "acs:cdn:*:demo:domain/b.com", false),
            ("a*a", "a", false), // both ends are needed
            ("", "x", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} over {text}");
        }
    }

    #[test]
    fn denial_outweighs() {
        let policy = Policy::parse(
            r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["cdn:*"],"Resource":"*"},
                {"Effect":"Deny","Action":"cdn:Delete*","Resource":"*"}]}"#,
        )
        .unwrap();
        assert!(policy.allows("cdn:PushObjectCache", "acs:cdn:*:demo:domain/a.com"));
        assert!(!policy.allows("cdn:DeleteCdnDomain", "acs:cdn:*:demo:domain/a.com"));
        assert!(!policy.allows("vod:PreloadVodObjectCaches", "*"), "what nothing allows is denied");
        assert!(Policy::parse("{}").unwrap_err().contains("Statement"));
    }
}
