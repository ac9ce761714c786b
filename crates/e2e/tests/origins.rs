//! Origins with real processes: one of two is killed under load and comes back, and one uses TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use e2e::authority::Authority;
use e2e::nginx::Nginx;
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http};
use tokio::net::UdpSocket;

/// Concurrent users.
const USERS: usize = 6;

/// Sizes of objects in bytes; the slow one is larger.
const SMALL: usize = 50_000;
const SLOW: usize = 2 << 20;

/// A stage where only the domestic POP runs.
async fn two_tiers() -> anyhow::Result<Stage> {
    let mut stage = Stage::without_nodes("open", &[]).await?;
    for name in ["cn-1-l2", "cn-1-l1"] {
        stage.node(name).start()?;
        stage.node(name).ready().await;
    }
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_that_is_killed_under_load_costs_no_user_an_error_and_comes_back() -> anyhow::Result<()> {
    let stage = two_tiers().await?;
    let mut primary = Nginx::start(&stage.folder("primary")?)?;
    // The same files, and so the same validators.
    let folder = stage.folder("backup")?;
    std::os::unix::fs::symlink(&primary.files, folder.join("files"))?;
    let backup = Nginx::start(&folder)?;
    let body = primary.write("/file.bin", SMALL)?;
    let slow = primary.write("/slow/film.bin", SLOW)?;
    let address = |origin: &Nginx| format!("127.0.0.1:{}", origin.port);
    let add = ["domain", "add", DOMAIN, "--origin", &address(&primary), "--backup", &address(&backup)];
    stage.cli(&[&add[..], &["--coverage", "global"]].concat()).await?;
    stage.online().await;
    let edge = stage.edges()[0];

    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Each requests an object that no node has, so that each answer is an origin's.
    let user = async || {
        let mut errors = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let n = next.fetch_add(1, Ordering::SeqCst);
            match http::get(edge, DOMAIN, &format!("/file.bin?n={n}"), &[]).await {
                Ok(answer) if answer.status == 200 && answer.body == body => {}
                Ok(answer) => errors.push(format!("{n}: {} of {} bytes", answer.status, answer.body.len())),
                Err(error) => errors.push(format!("{n}: {error:#}")),
            }
        }
        errors
    };
    let answers = async |n: usize| {
        let least = next.load(Ordering::SeqCst) + n;
        eventually("users are answered", || async {
            let asked = next.load(Ordering::SeqCst);
            ensure!(asked >= least, "{asked} of {least}");
            Ok(())
        })
        .await;
    };
    let story = async {
        answers(100).await;
        let (before, backup_before) = (primary.log()?.len(), backup.log()?.len());
        ensure!(before >= 50 && backup_before == 0, "the backup waits: {before}, {backup_before}");
        // In progress when the origin dies.
        let watching = tokio::spawn(http::get(edge, DOMAIN, "/slow/film.bin", &[]));
        tokio::time::sleep(Duration::from_millis(500)).await;
        primary.kill9();
        answers(200).await;
        ensure!(backup.log()?.len() >= 100, "the backup is asked");
        let watched = watching.await??;
        ensure!(watched.status == 200 && watched.body == slow, "the film goes on from the backup");

        let before = primary.log()?.len();
        primary.start_again()?;
        eventually("the primary is asked again", || async {
            let now = primary.log()?.len();
            ensure!(now > before + 20, "{now}, it was {before}");
            Ok(())
        })
        .await;
        let backup_before = backup.log()?.len();
        answers(100).await;
        let backup_now = backup.log()?.len();
        ensure!(backup_now <= backup_before + USERS, "the backup waits again: {backup_before}, {backup_now}");
        over.store(true, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let story = async {
        let told = story.await;
        over.store(true, Ordering::SeqCst);
        told
    };
    let (a, b, c, d, e, f, told) = tokio::join!(user(), user(), user(), user(), user(), user(), story);
    told?;
    let errors: Vec<String> = [a, b, c, d, e, f].concat();
    ensure!(errors.is_empty(), "{} of {}: {errors:?}", errors.len(), next.load(Ordering::SeqCst));
    Ok(())
}

/// A name server that resolves every name to 127.0.0.1 (RFC 1035 §4.1), until the test ends.
async fn name_server() -> anyhow::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        let mut query = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let query = &query[..length];
            let Some(end) = query.get(12..).and_then(|name| name.iter().position(|byte| *byte == 0)) else { continue };
            let (id, question) = (&query[..2], &query[12..(12 + end + 5).min(length)]);
            let asks_for_a = question.ends_with(&[0, 1, 0, 1]);
            let mut answer = [id, &[0x81, 0x80, 0, 1, 0, u8::from(asks_for_a), 0, 0, 0, 0], question].concat();
            if asks_for_a {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(Ipv4Addr::LOCALHOST.octets());
            }
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_by_tls_is_believed_by_its_name_and_authority_alone() -> anyhow::Result<()> {
    const NAME: &str = "origin.example.net";
    let mut stage = two_tiers().await?;
    let authority = Authority::new(stage.folder("authority")?)?;
    let names = name_server().await?;
    let good = Nginx::start_tls(&stage.folder("good")?, &authority.make("good", NAME)?)?;
    let other = Nginx::start_tls(&stage.folder("other")?, &authority.make("other", "other.example.net")?)?;
    let direct = Nginx::start_tls(&stage.folder("direct")?, &authority.make("direct", "direct.example.com")?)?;
    let bodies = [&good, &other, &direct].map(|origin| origin.write("/a.bin", 30_000));
    let wanted = bodies.into_iter().next().expect("three")?;
    for (domain, origin) in [
        (DOMAIN, format!("https://{NAME}:{}", good.port)),
        ("other.example.com", format!("https://{NAME}:{}", other.port)),
        // An origin given by address: it presents the certificate of the site.
        ("direct.example.com", format!("https://127.0.0.1:{}", direct.port)),
    ] {
        stage.cli(&["domain", "add", domain, "--origin", &origin, "--coverage", "global"]).await?;
    }
    let configure = |stage: &mut Stage, lines: String| -> anyhow::Result<()> {
        let node = stage.node("cn-1-l2");
        node.kill9();
        node.reconfigure(|text| format!("{}[origin]\n{lines}\n", text.split("[origin]").next().unwrap_or_default()))?;
        node.start()
    };
    let resolvers = format!("resolvers = [\"{names}\"]");

    // An authority that is not trusted.
    configure(&mut stage, resolvers.clone())?;
    stage.node("cn-1-l2").ready().await;
    stage.online().await;
    let edge = stage.edges()[0];
    let refused = http::get(edge, DOMAIN, "/a.bin", &[]).await?;
    ensure!(refused.status == 502 && good.log()?.is_empty(), "{}: {}", refused.status, refused.text());

    configure(&mut stage, format!("ca_file = \"{}\"\n{resolvers}", authority.file().display()))?;
    stage.node("cn-1-l2").ready().await;
    let answer = http::get(edge, DOMAIN, "/a.bin?1", &[]).await?;
    ensure!(answer.status == 200 && answer.body == wanted, "{}: {}", answer.status, answer.text());
    let log = good.log()?;
    ensure!(log.len() == 1 && log[0].host == DOMAIN && log[0].sni == NAME, "{log:?}");

    let answer = http::get(edge, "direct.example.com", "/a.bin", &[]).await?;
    ensure!(answer.status == 200 && answer.body == wanted, "{}: {}", answer.status, answer.text());
    let log = direct.log()?;
    ensure!(log.len() == 1 && log[0].sni == "direct.example.com", "{log:?}");

    // A certificate for another name.
    let refused = http::get(edge, "other.example.com", "/a.bin", &[]).await?;
    ensure!(refused.status == 502 && other.log()?.is_empty(), "{}: {}", refused.status, refused.text());
    Ok(())
}
