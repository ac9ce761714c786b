//! The public test suite for HTTP caches (cache-tests.fyi), through both tiers. All failures are known ones.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{Process, eventually, free_port, workspace};
use serde_json::Value;

/// Minimum number of tests: a run with fewer proves nothing.
const TESTS_MIN: usize = 200;

/// Retries of unexpected failures: tests make origins fail, and an origin that fails often is left alone for a while.
const TRIES: usize = 3;

/// Known failures, and why each is right or accepted.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "RFC 9111 §5.1 came after them: of several the first counts, and what is no number is ignored",
        &[
            "age-parse-dup-0",
            "age-parse-dup-0-twoline",
            "age-parse-dup-old",
            "age-parse-float",
            "age-parse-negative",
            "age-parse-nonnumeric",
            "age-parse-numeric-parameter",
            "age-parse-parameter",
            "age-parse-prefix-twoline",
        ],
    ),
    (
        "they take every answer that the origin did not give for a stored one; it is a 502",
        &[
            "stale-close-must-revalidate",
            "stale-close-no-cache",
            "stale-close-proxy-revalidate",
            "stale-close-s-maxage=2",
        ],
    ),
    (
        "it is kept only where the origin says that it is for everybody",
        &["304-etag-update-response-Set-Cookie", "headers-store-Set-Cookie"],
    ),
    ("their message has a transfer coding that nobody knows, and is refused", &["headers-store-Transfer-Encoding"]),
    (
        "a 304 with another strong tag confirms nothing (RFC 9111 §4.3.4): the whole is fetched",
        &["304-etag-update-response-ETag"],
    ),
    (
        "they ask with a date before that of the answer, and that is a 200 (RFC 9111 §4.3.2)",
        &["conditional-lm-fresh-no-lm"],
    ),
    (
        "their origin sends a 206 whatever it is asked, of other bytes than were asked for or than it says",
        &[
            "partial-store-partial-complete",
            "partial-store-partial-reuse-partial",
            "partial-store-partial-reuse-partial-absent",
            "partial-store-partial-reuse-partial-byterange",
            "partial-store-partial-reuse-partial-suffix",
        ],
    ),
    ("answers to POST are not kept", &["method-POST"]),
    (
        "languages are told apart by their bytes",
        &["vary-normalise-lang-case", "vary-normalise-lang-order", "vary-normalise-lang-select"],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_tests_of_caches_find_what_is_known() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let sdk = workspace().join("crates/e2e/sdk/node");
    let server = sdk.join("node_modules/http-cache-tests/server/server.mjs");
    ensure!(server.exists(), "{} is missing; ./test installs it", server.display());
    let (origin, folder) = (free_port(), stage.folder("cache-tests")?);
    let mut command = Command::new("node");
    command
        .arg(server)
        .env("npm_config_protocol", "http")
        .env("npm_config_port", origin.to_string())
        .env("npm_config_pidfile", folder.join("pid"));
    let _server = Process::start(&mut command, &folder.join("server.log"))?;
    let listens = || async { Ok(tokio::net::TcpStream::connect(("127.0.0.1", origin)).await?) };
    eventually("the origin listens", listens).await;
    stage.add_domain(&format!("127.0.0.1:{origin}")).await?;

    let edge = stage.edges()[0].to_string();
    let run = |chosen: &[String]| {
        let output = Command::new("node")
            .arg(sdk.join("cache_tests.mjs"))
            .args([DOMAIN, &edge])
            .args(chosen)
            .stderr(Stdio::inherit())
            .output()
            .context("node runs")?;
        ensure!(output.status.success(), "cache_tests.mjs: {}", output.status);
        serde_json::from_slice::<Value>(&output.stdout).context("cache_tests.mjs prints JSON")
    };
    let result = run(&[])?;
    ensure!(result["ran"].as_u64() >= Some(TESTS_MIN as u64), "{}", result["ran"]);
    let mut wrong = result["wrong"].as_object().context("what is wrong is an object")?.clone();

    let known: BTreeSet<&str> = KNOWN.iter().flat_map(|(_, tests)| tests.iter().copied()).collect();
    let fixed: Vec<&&str> = known.iter().filter(|test| !wrong.contains_key(**test)).collect();
    ensure!(fixed.is_empty(), "known to fail, and passed: {fixed:?}");
    wrong.retain(|test, _| !known.contains(test.as_str()));
    for _ in 1..TRIES {
        for test in wrong.keys().cloned().collect::<Vec<_>>() {
            if run(std::slice::from_ref(&test))?["wrong"].get(&test).is_none() {
                wrong.remove(&test);
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
