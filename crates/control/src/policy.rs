//! Policies, in the form known to the vendor's users: what a key or a user may do.
//!
//! Statements allow or deny actions on resources, both given as patterns. Whatever no statement allows is denied, and a
//! denial outweighs every permission, whichever policies they are in.
//!
//! # What always holds
//!
//! - Every part of a document is either applied or refused by name. An unknown part is never ignored, because a
//!   statement that is only half understood may allow what it was written to deny.
//! - Matching takes at most the product of both lengths, whatever the pattern.
//!
//! # Not here
//!
//! Which permission a call needs: `api::calls` decides, by the table of `aliyun`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The longest document, in bytes (the vendor's bound for an account's own policies).
pub const DOCUMENT_BYTES_MAX: usize = 6_144;

/// The most statements in one policy.
const STATEMENTS_MAX: usize = 100;

/// The only version of the language.
const VERSION: &str = "1";

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

/// Patterns, written as one string or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct Patterns(Vec<String>);

/// A policy as people write it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    version: String,
    statement: OneOrMany<WrittenStatement>,
}

/// A statement as people write it, including the parts of the vendor's language that are refused by name.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct WrittenStatement {
    effect: Effect,
    action: Option<Patterns>,
    resource: Option<Patterns>,
    not_action: Option<IgnoredAny>,
    not_resource: Option<IgnoredAny>,
    condition: Option<IgnoredAny>,
    principal: Option<IgnoredAny>,
}

/// A single object, or a list of them.
struct OneOrMany<T>(Vec<T>);

impl Policy {
    /// Parses a policy from JSON; the error says what was expected.
    pub fn parse(text: &str) -> Result<Policy, String> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("policy: at most {DOCUMENT_BYTES_MAX} bytes are expected"));
        }
        let document: Document = serde_json::from_str(text).map_err(|error| {
            format!("policy: {error}; expected Version and Statement, each with Effect, Action and Resource")
        })?;
        if document.version != VERSION {
            return Err(format!("policy: Version \"{VERSION}\" is expected"));
        }
        let OneOrMany(written) = document.statement;
        if written.len() > STATEMENTS_MAX {
            return Err(format!("policy: at most {STATEMENTS_MAX} statements"));
        }
        let statements = written.into_iter().enumerate().map(|(at, written)| written.read(at + 1));
        Ok(Policy { version: document.version, statement: statements.collect::<Result<_, _>>()? })
    }

    /// Whether `action` (`cdn:PushObjectCache`) is allowed on `resource` (`acs:cdn:*:demo:domain/a.com`).
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        Policy::allow([self], action, resource)
    }

    /// Whether policies that apply together allow `action` on `resource`: at least one allows it and none denies it.
    pub(crate) fn allow<'a>(policies: impl IntoIterator<Item = &'a Policy>, action: &str, resource: &str) -> bool {
        let mut allowed = false;
        for statement in policies.into_iter().flat_map(|policy| &policy.statement) {
            if statement.action.match_any(action) && statement.resource.match_any(resource) {
                match statement.effect {
                    Effect::Deny => return false,
                    Effect::Allow => allowed = true,
                }
            }
        }
        allowed
    }

    /// The document in its stored form.
    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("our own types have string keys and no failing serialiser")
    }
}

impl WrittenStatement {
    /// The `number`th statement, unless it has unsupported parts.
    fn read(self, number: usize) -> Result<Statement, String> {
        let beyond = [
            ("NotAction", self.not_action),
            ("NotResource", self.not_resource),
            ("Condition", self.condition),
            ("Principal", self.principal),
        ];
        if let Some((name, _)) = beyond.iter().find(|(_, given)| given.is_some()) {
            return Err(format!("policy: statement {number}: {name} is not supported and never ignored"));
        }
        let needed = |name: &str, patterns: Option<Patterns>| match patterns {
            Some(patterns) if !patterns.0.is_empty() => Ok(patterns),
            _ => Err(format!("policy: statement {number}: {name} is expected, a text or a list of texts")),
        };
        let (action, resource) = (needed("Action", self.action)?, needed("Resource", self.resource)?);
        // A pattern that can match nothing is a mistake, which matters most in a denial.
        let open = |pattern: &str| pattern.starts_with(['*', '?']);
        if let Some(bad) = action.0.iter().find(|pattern| !open(pattern) && !pattern.contains(':')) {
            return Err(format!(
                "policy: statement {number}: Action `{bad}`: expected SERVICE:ACTION, such as cdn:Push*"
            ));
        }
        if let Some(bad) = resource.0.iter().find(|pattern| !open(pattern) && !pattern.starts_with("acs:")) {
            let expected = "expected * or acs:cdn:*:ACCOUNT:domain/NAME";
            return Err(format!("policy: statement {number}: Resource `{bad}`: {expected}"));
        }
        Ok(Statement { effect: self.effect, action, resource })
    }
}

impl Patterns {
    fn match_any(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), text.as_bytes()))
    }
}

/// Whether `pattern` matches `text`, ignoring letter case; `*` matches any run of bytes and `?` exactly one.
///
/// On a mismatch, the last star takes one more byte; earlier stars never need to, because each took as little as
/// possible.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut in_text) = (0, 0);
    // The position after the last star, and where in the text matching was last resumed there.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), text.get(in_text)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, in_text));
            }
            (Some(wanted), Some(byte)) if *wanted == b'?' || wanted.eq_ignore_ascii_case(byte) => {
                (at, in_text) = (at + 1, in_text + 1);
            }
            (_, None) => return false, // too little text is left, and a star would only take more
            (_, Some(_)) => {
                let Some((behind, tried)) = star else { return false };
                (at, in_text) = (behind, tried + 1);
                star = Some((behind, tried + 1));
            }
        }
    }
}

/// The system policies, which every account has and none can change, by name. Their documents are the vendor's, as far
/// as they concern what exists here.
static SYSTEM: LazyLock<[(&str, Policy); 3]> = LazyLock::new(|| {
    let allow = |actions: &[&str]| Policy {
        version: VERSION.to_owned(),
        statement: vec![Statement {
            effect: Effect::Allow,
            action: Patterns(actions.iter().map(|action| (*action).to_owned()).collect()),
            resource: Patterns(vec!["*".to_owned()]),
        }],
    };
    [
        ("AliyunCDNFullAccess", allow(&["cdn:*"])),
        ("AliyunCDNReadOnlyAccess", allow(&["cdn:Describe*", "cdn:List*"])),
        ("AliyunVODFullAccess", allow(&["vod:*"])),
    ]
});

/// The system policy `name`.
pub fn system(name: &str) -> Option<&'static Policy> {
    SYSTEM.iter().find(|(known, _)| *known == name).map(|(_, policy)| policy)
}

/// The names of the system policies.
pub fn system_names() -> impl Iterator<Item = &'static str> {
    SYSTEM.iter().map(|(name, _)| *name)
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Patterns, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Patterns)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany<T>, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a statement or a list of statements")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany<T>, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes())
    }

    #[test]
    fn patterns_match_as_users_know_them() {
        let cases = [
            ("*", "anything", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("cdn:*", "cdn:PushObjectCache", true),
            ("cdn:Push*Cache", "cdn:PushObjectCache", true),
            ("cdn:push*", "cdn:PushObjectCache", true),
            ("cdn:Refresh*", "cdn:PushObjectCache", false),
            ("cdn:PushObjectCach?", "cdn:PushObjectCache", true),
            ("cdn:PushObjectCache?", "cdn:PushObjectCache", false), // it stands for one, not for none
            ("acs:cdn:*:*:domain/a.com", "acs:cdn:*:demo:domain/a.com", true),
            ("acs:cdn:*:*:domain/a.com", "acs:cdn:*:demo:domain/b.com", false),
            ("acs:cdn:*:*:domain/*.a.com", "acs:cdn:*:demo:domain/www.a.com", true),
            ("acs:cdn:*:*:domain/*.a.com", "acs:cdn:*:demo:domain/a.com", false),
            ("acs:cdn:*:demo:domain/*", "acs:cdn:*:demo:domain/*", true),
            ("a*a", "a", false), // both ends are needed
            ("a**b", "ab", true),
            ("*ab*abc", "ababab-abc", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(is(pattern, text), expected, "{pattern} over {text}");
        }
    }

    /// The meaning of a pattern, in its simplest form.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            Some((b'?', rest)) => !text.is_empty() && naive(rest, &text[1..]),
            Some((byte, rest)) => {
                text.first().is_some_and(|first| first.eq_ignore_ascii_case(byte)) && naive(rest, &text[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_a_pattern_means(pattern in "[aAb:*?]{0,9}", text in "[abB:*]{0,12}") {
            prop_assert_eq!(is(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = "*a".repeat(DOCUMENT_BYTES_MAX / 2);
        let text = "a".repeat(4_000);
        assert!(is(&pattern, &"a".repeat(pattern.len())));
        assert!(!is(&format!("{pattern}b"), &text), "some millions of steps at most");
    }

    fn statement(text: &str) -> String {
        format!(r#"{{"Version":"1","Statement":{text}}}"#)
    }

    #[test]
    fn denial_outweighs_wherever_it_stands() {
        let all = r#"{"Effect":"Allow","Action":["cdn:*"],"Resource":"*"}"#;
        let no_delete = r#"{"Effect":"Deny","Action":"cdn:Delete*","Resource":"*"}"#;
        let (push, delete, on) = ("cdn:PushObjectCache", "cdn:DeleteCdnDomain", "acs:cdn:*:demo:domain/a.com");
        for both in [format!("[{all},{no_delete}]"), format!("[{no_delete},{all}]")] {
            let policy = Policy::parse(&statement(&both)).unwrap();
            assert!(policy.allows(push, on) && !policy.allows(delete, on));
            assert!(!policy.allows("vod:PreloadVodObjectCaches", "*"), "what nothing allows is denied");
        }
        let (all, no_delete) = (Policy::parse(&statement(all)).unwrap(), Policy::parse(&statement(no_delete)).unwrap());
        assert!(Policy::allow([&all, &no_delete], push, on) && Policy::allow([&no_delete, &all], push, on));
        assert!(!Policy::allow([&all, &no_delete], delete, on) && !Policy::allow([&no_delete, &all], delete, on));
        assert!(!Policy::allow([], push, on) && !no_delete.allows(push, on));
        let empty = Policy::parse(&statement("[]")).unwrap();
        assert!(!empty.allows(push, on));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let cases = [
            ("{}", "Version"),
            (r#"{"Version":"2012-10-17","Statement":[]}"#, r#"Version "1" is expected"#),
            (r#"{"Version":"1","Statement":[],"Id":"x"}"#, "`Id`"),
            (&statement(r#""x""#), "a statement or a list of statements"),
            (&statement(r#"{"Effect":"allow","Action":"*","Resource":"*"}"#), "`allow`"),
            (
                &statement(r#"{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}"#),
                "duplicate field `Effect`",
            ),
            (&statement(r#"{"Effect":"Allow","Action":7,"Resource":"*"}"#), "a text or a list of texts"),
            (&statement(r#"{"Effect":"Allow","Resource":"*"}"#), "statement 1: Action is expected"),
            (&statement(r#"{"Effect":"Allow","Action":[],"Resource":"*"}"#), "statement 1: Action is expected"),
            (&statement(r#"{"Effect":"Deny","Action":"*","Resource":"a.com"}"#), "Resource `a.com`"),
            (&statement(r#"{"Effect":"Deny","Action":"Push*","Resource":"*"}"#), "Action `Push*`"),
            (
                &statement(r#"{"Effect":"Allow","NotAction":"*","Resource":"*"}"#),
                "statement 1: NotAction is not supported",
            ),
            (&statement(r#"{"Effect":"Allow","Action":"*","NotResource":"*"}"#), "NotResource is not supported"),
            (
                &statement(
                    r#"[{"Effect":"Allow","Action":"*","Resource":"*"},
                        {"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"10.0.0.0/8"}}}]"#,
                ),
                "statement 2: Condition is not supported",
            ),
            (&statement(r#"{"Effect":"Allow","Action":"*","Resource":"*","Sid":"x"}"#), "`Sid`"),
            (&" ".repeat(DOCUMENT_BYTES_MAX + 1), "6144 bytes"),
        ];
        for (text, named) in cases {
            let refused = Policy::parse(text).expect_err(text);
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }

    #[test]
    fn one_statement_needs_no_list_and_what_is_kept_reads_the_same() {
        let text = statement(r#"{"Effect":"Allow","Action":"cdn:*","Resource":["acs:cdn:*:*:domain/a.com","*"]}"#);
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(Policy::parse(&policy.document()), Ok(policy.clone()));
        assert_eq!(serde_json::from_str::<Policy>(&policy.document()).unwrap(), policy);
        // As earlier versions stored it.
        let earlier = r#"{"Version":"of then","Statement":[{"Effect":"Allow","Action":"cdn:*","Resource":["*"]}]}"#;
        assert!(serde_json::from_str::<Policy>(earlier).unwrap().allows("cdn:X", "y"));
    }

    #[test]
    fn system_policies_are_what_their_names_say() {
        let cases = [
            ("AliyunCDNFullAccess", [true, true, false]),
            ("AliyunCDNReadOnlyAccess", [true, false, false]),
            ("AliyunVODFullAccess", [false, false, true]),
        ];
        for (name, allowed) in cases {
            let actions = ["cdn:DescribeUserDomains", "cdn:PushObjectCache", "vod:AddVodDomain"];
            assert_eq!(actions.map(|action| system(name).unwrap().allows(action, "x")), allowed, "{name}");
        }
        assert_eq!(system_names().count(), cases.len());
        assert!(system("AliyunECSFullAccess").is_none());
    }
}
