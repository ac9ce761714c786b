//! The operator's verbs about who may do what, as an operator types them: on a state database that no control plane runs on.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
}

impl Rig {
    /// Whether it went well, what it wrote, and what it said.
    fn run(&self, args: &[&str]) -> (bool, String, String) {
        let state = format!("sqlite:{}", self.dir.path().join("c.db").display());
        let output = Command::new(env!("CARGO_BIN_EXE_warmfront"))
            .args(["--output", "json"])
            .args(args)
            .args(["--state", &state])
            .output()
            .expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn json(&self, args: &[&str]) -> Value {
        let (good, out, said) = self.run(args);
        assert!(good, "{args:?}: {said}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    fn refused(&self, args: &[&str], with: &str) {
        let (good, out, said) = self.run(args);
        assert!(!good && said.contains(with), "{args:?}: {out}{said}");
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

#[test]
fn users_policies_and_keys_are_made_shown_used_and_taken_back() {
    let rig = Rig { dir: TempDir::new().expect("a folder") };
    let policy =
        rig.file("p.json", r#"{"Version":"1","Statement":{"Effect":"Allow","Action":"cdn:Push*","Resource":"*"}}"#);
    let bad = rig.file("bad.json", r#"{"Version":"1","Statement":{"Effect":"Allow","NotAction":"*","Resource":"*"}}"#);
    let made = rig.json(&["account", "create", "shop", "--status", "not-opened"]);
    assert_eq!(made["status"], "not-opened");
    rig.json(&["account", "set", "shop", "--status", "active"]);
    rig.refused(&["account", "set", "shop", "--status", "closed"], "expected active, not-opened, suspended or overdue");

    rig.refused(&["user", "create", "none", "bob"], "no account `none`");
    rig.json(&["user", "create", "shop", "bob"]);
    rig.refused(&["user", "create", "shop", "bob"], "`bob` exists already");
    rig.refused(&["policy", "put", "shop", "pusher", &bad], "NotAction is not supported");
    rig.refused(&["policy", "put", "shop", "AliyunCDNFullAccess", &policy], "system policy");
    rig.json(&["policy", "put", "shop", "pusher", &policy]);
    assert_eq!(rig.json(&["policy", "show", "shop", "pusher"])["Statement"][0]["Action"][0], "cdn:Push*");
    assert_eq!(rig.json(&["policy", "show", "shop", "AliyunVODFullAccess"])["Statement"][0]["Action"][0], "vod:*");
    rig.refused(&["user", "attach", "shop", "bob", "none"], "no policy `none`");
    rig.json(&["user", "attach", "shop", "bob", "pusher"]);
    rig.json(&["user", "attach", "shop", "bob", "AliyunCDNReadOnlyAccess"]);
    let policies = rig.json(&["policy", "list", "shop"]);
    let users = |name: &str| {
        let rows = policies.as_array().expect("a list");
        rows.iter().find(|row| row["policy"] == name).expect("a row")["users"].clone()
    };
    assert_eq!(policies.as_array().map(Vec::len), Some(4));
    assert_eq!((users("pusher")[0].as_str(), users("AliyunCDNReadOnlyAccess")[0].as_str()), (Some("bob"), Some("bob")));

    let key = rig.json(&["key", "create", "shop", "--user", "bob", "--policy", &policy]);
    let (id, secret) = (key["access_key_id"].as_str().expect("an id"), key["access_key_secret"].as_str().expect("one"));
    rig.refused(&["key", "create", "shop", "--user", "eve"], "no user `eve`");
    rig.json(&["key", "create", "shop"]);
    assert_eq!(rig.json(&["key", "list", "shop"]).as_array().map(Vec::len), Some(2));
    assert_eq!(rig.json(&["key", "disable", id])["status"], "disabled");
    let listed = rig.json(&["key", "list", "shop", "--user", "bob"]);
    assert_eq!((&listed[0]["status"], &listed[0]["user"]), (&"disabled".into(), &"bob".into()));
    assert!(!listed.to_string().contains(secret), "it was shown once");
    assert_eq!(rig.json(&["key", "enable", id])["status"], "active");

    rig.refused(&["policy", "delete", "shop", "pusher"], "`pusher` is in use by user bob");
    rig.refused(&["user", "delete", "shop", "bob"], &format!("`bob` is in use by key {id}"));
    rig.json(&["key", "delete", id]);
    rig.refused(&["key", "delete", id], "no access key");
    rig.json(&["user", "detach", "shop", "bob", "AliyunCDNReadOnlyAccess"]);
    rig.refused(&["user", "detach", "shop", "bob", "AliyunCDNReadOnlyAccess"], "is not attached");
    rig.json(&["user", "delete", "shop", "bob"]);
    rig.json(&["policy", "delete", "shop", "pusher"]);

    // All of it is in the log, and no secret is.
    let (good, log, said) = rig.run(&["audit", "--account", "shop", "--limit", "1000"]);
    assert!(good && !log.contains(secret), "{said}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let of = |action: &str, outcome: &str| {
        lines
            .iter()
            .filter(|line| {
                line["action"] == action && line["outcome"].as_str().is_some_and(|text| text.contains(outcome))
            })
            .count()
    };
    assert_eq!([of("user create", "OK"), of("user create", "exists already"), of("user delete", "in use")], [1, 1, 1]);
    assert_eq!([of("key create", "OK"), of("key delete", "OK"), of("policy put", "OK")], [2, 1, 1]);
    let (_, one, _) = rig.run(&["audit", "--action", "key disable"]);
    assert_eq!(one.lines().count(), 1);
    rig.refused(&["audit", "--from", "yesterday"], "`--from yesterday`: expected a time");
}

#[test]
fn parent_that_is_no_pop_is_named_and_a_name_that_was_let_go_is() {
    let rig = Rig { dir: TempDir::new().expect("a folder") };
    let set = |name: &str, parents: &[&str]| {
        let parents = parents.iter().flat_map(|parent| ["--parent", parent]);
        let (good, _, said) =
            rig.run(&["pop", "set", name, "--region", "global"].into_iter().chain(parents).collect::<Vec<_>>());
        assert!(good, "{said}");
        said
    };
    assert!(set("eu-1", &["L1=nope/L2"]).contains("no POP `nope`"));
    assert!(!set("eu-1", &["L1=eu-1/L2"]).contains("no POP"));
    assert!(!set("eu-2", &["L1=eu-1/L2"]).contains("no POP"));
    rig.json(&["name", "block", "a.com", "--reason", "because"]);
    assert_eq!(rig.json(&["name", "unblock", "a.com"]), serde_json::json!({ "unblocked": "a.com" }));
}
