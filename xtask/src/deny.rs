//! Checks of dependencies: banned crates, licences compatible with Apache-2.0, a single source.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::ensure;

/// Banned crates, with reasons.
const BANNED: &[(&str, &str)] = &[
    ("ring", "aws-lc-rs is the only TLS provider"),
    ("openssl-sys", "TLS is rustls"),
    ("native-tls", "TLS is rustls"),
];

/// Licences that are compatible with ours. An expression is accepted if one side of each `OR` is.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(crate) fn check() -> anyhow::Result<()> {
    // The lock file and `cargo metadata` also list unused optional crates; the tree lists those that are built.
    let output = Command::new("cargo")
        .args(["tree", "--locked", "--workspace", "--target", "all", "--prefix", "none", "--format", "{p}\t{l}"])
        .output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout)?;
    let lines: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let mut problems = Vec::new();
    for (package, licence) in lines.iter().filter_map(|line| line.split_once('\t')) {
        let name = package.split(' ').next().unwrap_or_default();
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            problems.push(format!("`{name}` is banned: {why}"));
        }
        if !fits(licence) {
            problems.push(format!("`{name}` has the licence `{licence}`, which is not on the list"));
        }
        // Our own crates are shown with their folder, crates from the registry without a source, any other with its
        // URL.
        if package.contains("://") {
            problems.push(format!("{package} does not come from the registry"));
        }
    }
    ensure!(problems.is_empty(), "\n  {}", problems.join("\n  "));
    Ok(())
}

/// Whether an SPDX expression can be satisfied by the list. `/` is an old notation for `OR`.
fn fits(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.replace(['(', ')'], "");
    // Every expression in use is a conjunction of choices, or a choice of single licences.
    expression.split(" AND ").all(|choice| choice.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn expressions_are_read() {
        let cases = [
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT AND GPL-3.0-only", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(fits(expression), expected, "{expression}");
        }
    }
}
