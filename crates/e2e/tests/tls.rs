//! Users over TLS, with real processes: curl and openssl as clients, certificates set through the CLI and the vendor's
//! SDK.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use e2e::authority::Authority;
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, free_port, sdk};
use serde_json::json;

/// curl's report on `https://HOST/a.bin`: status, HTTP version, `X-Cache`.
fn curl(authority: &Authority, port: u16, host: &str, more: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--output", "/dev/null"])
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(["--write-out", "%{http_code} %{http_version} %header{x-cache}"])
        .arg("--cacert")
        .arg(authority.file())
        .args(more)
        .arg(format!("https://{host}:{port}/a.bin"))
        .output()
        .context("run curl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The whole output of `openssl s_client` for a handshake.
fn openssl(port: u16, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("run openssl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Files below `folder` that contain one of `secrets`, as bytes or in base64.
fn holding(folder: &Path, secrets: &[&[u8]], found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            holding(&path, secrets, found)?;
            continue;
        }
        let bytes = std::fs::read(&path)?;
        if secrets.iter().any(|secret| bytes.windows(secret.len()).any(|part| part == *secret)) {
            found.push(path);
        }
    }
    Ok(())
}

#[tokio::test]
async fn certificates_are_set_shown_replaced_and_taken() -> anyhow::Result<()> {
    let mut stage = Stage::without_nodes("cdn-2024", &[]).await?;
    let tls = free_port();
    stage.node("cn-1-l1").configure(&format!("listen_tls = \"127.0.0.1:{tls}\"\n"))?;
    for name in ["cn-1-l2", "cn-1-l1"] {
        stage.node(name).start()?;
        stage.node(name).ready().await;
    }
    let origin = stage.origin().await?;
    origin.write("a.bin", 100_000)?;
    let authority = Authority::new(stage.folder("certificates")?)?;
    let (first, second) = (authority.make("first", DOMAIN)?, authority.make("second", DOMAIN)?);
    let elsewhere = authority.make("elsewhere", "elsewhere.example")?;

    // A domain without a certificate, and unknown names.
    for args in [&["-servername", DOMAIN][..], &["-servername", "unknown.example"], &["-noservername"]] {
        let said = openssl(tls, args)?;
        ensure!(said.contains("unrecognized name") && said.contains("no peer certificate"), "{args:?}: {said}");
    }

    // An invalid certificate is refused in the vendor's words, and changes nothing.
    let set = |cert: &str, key: &str| {
        let args = ["domain", "certificate", "set", DOMAIN, "--cert", cert, "--key", key, "--name", "mine"];
        args.map(str::to_owned)
    };
    let run = async |args: &[String]| stage.cli(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (pair, code) in [
        (set(&first.cert, &second.key), "Certificate.MissMatch"),
        (set(&first.cert, &first.cert), "InvalidSSLPri"),
        (set(&first.key, &first.key), "InvalidCertificate"),
        (set(&elsewhere.cert, &elsewhere.key), "InvalidCertificate"),
    ] {
        let refused = run(&pair).await.err().context(code)?.to_string();
        ensure!(refused.contains(code), "{code}: {refused}");
    }
    let shown = stage.cli(&["domain", "certificate", "show", DOMAIN]).await?;
    ensure!(shown["tls"] == "off", "{shown}");

    let shown = run(&set(&first.cert, &first.key)).await?;
    ensure!(
        (&shown["tls"], &shown["name"], &shown["subject"]) == (&json!("on"), &json!("mine"), &json!("first")),
        "{shown}"
    );
    stage.online().await;
    for (more, version) in [(&["--http2"][..], "2"), (&["--http1.1"], "1.1"), (&["--tls-max", "1.2"], "2")] {
        let said = curl(&authority, tls, DOMAIN, more)?;
        ensure!(said.starts_with(&format!("200 {version} ")), "{more:?}: {said}");
    }
    ensure!(curl(&authority, tls, DOMAIN, &[])?.contains("HIT"), "stored under one key, however it is asked for");
    for (args, expected) in [
        (&["-tls1_3", "-alpn", "h2,http/1.1"][..], &["TLSv1.3", "ALPN protocol: h2", "subject=CN = first"][..]),
        (&["-tls1_2", "-alpn", "http/1.1"], &["TLSv1.2", "ALPN protocol: http/1.1", "subject=CN = first"]),
    ] {
        let said = openssl(tls, &[&["-servername", DOMAIN], args].concat())?;
        // Newer versions print it without spaces.
        let said = said.replace("CN=", "CN = ");
        ensure!(expected.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
    let said = openssl(tls, &["-servername", "unknown.example"])?;
    ensure!(said.contains("unrecognized name") && said.contains("no peer certificate"), "{said}");
    if let Ok(shown) = curl(&authority, tls, "elsewhere.example", &[]) {
        bail!("an unknown name was served: {shown}");
    }

    // Another certificate, set by the vendor's SDK.
    let read = std::fs::read_to_string;
    let parameters = json!({ "DomainName": DOMAIN, "SSLProtocol": "on", "SSLPub": read(&second.cert)?, "SSLPri": read(&second.key)? });
    let answers = sdk::calls(
        &stage,
        &[
            ("cdn", "SetCdnDomainSSLCertificate", parameters),
            ("cdn", "DescribeDomainCertificateInfo", json!({ "DomainName": DOMAIN })),
        ],
    )
    .await?;
    let info = &answers[1]["ok"]["CertInfos"]["CertInfo"][0];
    ensure!(info["ServerCertificateStatus"] == "on" && info["CertDomainName"] == "second", "{answers:?}");
    let shows = |name: &'static str| async move {
        let said = openssl(tls, &["-servername", DOMAIN])?.replace("CN=", "CN = ");
        ensure!(said.contains(&format!("subject=CN = {name}")), "{said}");
        anyhow::Ok(())
    };
    eventually("the second certificate is shown", || shows("second")).await;
    stage.online().await;

    // Nothing that a node needs for it is only in the control plane.
    stage.kill_control();
    stage.node("cn-1-l1").kill9();
    stage.node("cn-1-l1").start()?;
    eventually("the restarted node shows it", || shows("second")).await;

    // The files of both processes, including the write-ahead log of the database: no key is anywhere but where we put
    // it.
    let root = authority.folder.parent().context("the stage's folder")?;
    let mut found = Vec::new();
    for pair in [&first, &second] {
        let text = std::fs::read_to_string(&pair.key)?;
        let line = text.lines().nth(1).context("a key in PEM")?.as_bytes();
        holding(root, &[&pair.secret, line], &mut found)?;
    }
    let mut ours = vec![PathBuf::from(&first.key), PathBuf::from(&second.key)];
    found.sort();
    ours.sort();
    ensure!(found == ours, "in the clear: {found:?}");

    stage.start_control().await?;
    stage.node("cn-1-l1").ready().await;
    stage.online().await;
    let shown = stage.cli(&["domain", "certificate", "set", DOMAIN, "--off"]).await?;
    ensure!(shown["tls"] == "off", "{shown}");
    eventually("no certificate is shown", || async {
        let said = openssl(tls, &["-servername", DOMAIN])?;
        ensure!(said.contains("unrecognized name"), "{said}");
        Ok(())
    })
    .await;
    Ok(())
}
