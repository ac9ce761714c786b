//! Checks that no compiler makes: crates use lower floors only, files stay readable, nothing is left unfinished.

use std::process::Command;

use anyhow::ensure;

use crate::metadata;

/// The floor of each of our crates, which may use lower floors only (ARCHITECTURE.md). Tests, benchmarks and checks are
/// outside this order.
const FLOORS: &[(&str, u8)] = &[
    ("model", 0),
    ("httpcache", 0),
    ("aliyun", 1),
    ("store", 1),
    ("control", 2),
    ("node", 2),
    ("warmfront", 3),
    ("sim", 4),
    ("e2e", 4),
    ("bench", 5),
    ("xtask", 0),
];

/// The number of lines from which a file gives a warning, and the maximum.
const LINES_ASK: usize = 700;
const LINES_MAX: usize = 900;

/// Words that mark unfinished code, split so that this file does not contain them.
const UNFINISHED: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("XX", "X "), ("to", "do!("), ("unimple", "mented!(")];

pub(crate) fn check() -> anyhow::Result<()> {
    let mut problems = floors()?;
    let output = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).output()?;
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        let source = [".rs", ".toml", ".sh", ".py", ".proto"].iter().any(|end| path.ends_with(end));
        let Some(text) = source.then(|| std::fs::read_to_string(path).ok()).flatten() else { continue };
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{path}: {lines} lines, at most {LINES_MAX}"));
        } else if lines > LINES_ASK && path.ends_with(".rs") {
            eprintln!("tidy: {path} has {lines} lines: does it have two reasons to change?");
        }
        for (number, line) in text.lines().enumerate() {
            if let Some((a, b)) = UNFINISHED.iter().find(|(a, b)| line.contains(&format!("{a}{b}"))) {
                problems.push(format!("{path}:{}: {a}{b}", number + 1));
            }
        }
        if path.ends_with(".rs") && !text.starts_with("//!") && !text.starts_with("#!") {
            problems.push(format!("{path}: does not begin with what it is for (`//!`)"));
        }
    }
    ensure!(problems.is_empty(), "\n  {}", problems.join("\n  "));
    Ok(())
}

fn floors() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    let metadata = metadata(&["--no-deps"])?;
    let floor = |name: &str| FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor);
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = floor(name) else {
            problems.push(format!("crate `{name}` has no floor: give it one in xtask/src/tidy.rs and ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            if floor(used).is_some_and(|used| used >= own) {
                problems.push(format!("crate `{name}` uses `{used}`, which is not on a lower floor"));
            }
        }
    }
    Ok(problems)
}
