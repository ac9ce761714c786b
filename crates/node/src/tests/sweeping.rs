//! The background sweep: what it removes, what it keeps, what it reports.

use std::collections::BTreeMap;

use super::*;
use crate::sweep::Sweeper;

/// Sweeps the store of `node` until nothing is left to do; returns the reports for the control plane.
async fn sweep(node: &TestNode, sweeper: Sweeper) -> (u64, BTreeMap<u64, (u64, u64)>) {
    let (sweeper, stopping) = (Arc::new(sweeper), CancellationToken::new());
    let applied = node.knowing.applied();
    let folder = tempfile::tempdir().unwrap();
    let journal = crate::Journal::open(folder.path()).unwrap();
    let run = sweeper.clone().run(node.pipeline.store().clone(), node.knowing.clone(), journal, stopping.clone());
    let running = tokio::spawn(run);
    eventually("swept", || sweeper.upto() == applied).await;
    let mut told = BTreeMap::new();
    let upto = loop {
        let message = tokio::time::timeout(PATIENCE, sweeper.report()).await.expect("something to tell");
        for entry in message.entries {
            let amounts: &mut (u64, u64) = told.entry(entry.revision).or_default();
            *amounts = (amounts.0 + entry.objects, amounts.1 + entry.bytes);
        }
        if message.upto == applied.0 {
            break message.upto;
        }
    };
    stopping.cancel();
    running.await.unwrap();
    (upto, told)
}

/// A sweeper with these log entries pending, the first at revision 2.
fn pending(entries: &[Entry]) -> Sweeper {
    Sweeper::new(Revision(1), Revision(1), (2..).map(Revision).zip(entries))
}

async fn fill(stage: &Stage, paths: &[&str], bytes: usize) {
    for path in paths {
        stage.origin.put(path, Page::new(vec![7_u8; bytes]));
        stage.node.get(path).await;
    }
    stage.node.settled().await;
}

#[tokio::test]
async fn bytes_of_deleted_files_are_gone_and_those_of_expired_ones_stay() {
    let stage = Stage::set().await;
    fill(&stage, &["/deleted", "/expired", "/other"], 100_000).await;
    let before = stage.node.pipeline.store().stats();
    let entries =
        [refresh("/deleted", Mode::Delete), refresh("/expired", Mode::Expire), refresh("/absent", Mode::Delete)];
    entries.iter().for_each(|entry| _ = stage.node.apply(entry.clone()));
    let told = sweep(&stage.node, pending(&entries)).await;
    assert_eq!(told, (4, [(2, (1, 100_000))].into()));
    let after = stage.node.pipeline.store().stats();
    assert_eq!(before.objects - after.objects, 1);
    assert!(before.memory_bytes - after.memory_bytes >= 100_000, "{before:?} {after:?}");
    assert_eq!(stage.node.get("/other").await.header("x-cache"), "HIT from edge");
    assert_eq!(stage.node.get("/expired").await.header("x-cache"), "REVALIDATED from edge");
    assert_eq!(stage.node.get("/deleted").await.header("x-cache"), "MISS from edge");
}

#[tokio::test]
async fn every_variant_of_a_deleted_file_goes() {
    for (vary, header, values) in [
        ("accept-encoding", "accept-encoding", ["gzip", "br, zstd", "identity;q=0, gzip"]), // found by key
        ("accept-language", "accept-language", ["en", "de", "zh"]),                         // found by a pass
    ] {
        let stage = Stage::set().await;
        stage.origin.put("/a", Page::new(vec![7_u8; 1_000]).with("vary", vary));
        for value in values {
            stage.node.get_with("/a", &[(header, value)]).await;
            stage.node.settled().await;
        }
        fill(&stage, &["/a/b"], 10).await;
        let entries = [refresh("/a", Mode::Delete)];
        stage.node.apply(entries[0].clone());
        let told = sweep(&stage.node, pending(&entries)).await;
        assert_eq!(told, (2, [(2, (3, 3_000))].into()), "{vary}");
        assert_eq!(stage.node.get("/a/b").await.header("x-cache"), "HIT from edge", "{vary}");
    }
}

#[tokio::test]
async fn one_pass_does_for_all_entries_and_the_newest_that_covers_counts() {
    let stage = Stage::set().await;
    fill(&stage, &["/d/1", "/d/2", "/d/e/3", "/f/4", "/g"], 100).await;
    let entries = [refresh("/d/", Mode::Delete), refresh("/f/", Mode::Expire), refresh("/d/e/", Mode::Delete)];
    entries.iter().for_each(|entry| _ = stage.node.apply(entry.clone()));
    let told = sweep(&stage.node, pending(&entries)).await;
    assert_eq!(told, (4, [(2, (2, 200)), (4, (1, 100))].into()));
    assert_eq!(stage.node.get("/g").await.header("x-cache"), "HIT from edge");
    assert_eq!(stage.node.get("/f/4").await.header("x-cache"), "REVALIDATED from edge");
}

#[tokio::test]
async fn body_that_was_fetched_after_the_refresh_is_kept() {
    let stage = Stage::set().await;
    fill(&stage, &["/a", "/d/b"], 100).await;
    let entries = [refresh("/a", Mode::Delete), refresh("/d/", Mode::Delete)];
    entries.iter().for_each(|entry| _ = stage.node.apply(entry.clone()));
    for path in ["/a", "/d/b"] {
        assert_eq!(stage.node.get(path).await.header("x-cache"), "MISS from edge");
    }
    stage.node.settled().await;
    // The sweep comes late, as after a restart, and finds only new bodies.
    assert_eq!(sweep(&stage.node, pending(&entries)).await, (3, BTreeMap::new()));
    for path in ["/a", "/d/b"] {
        assert_eq!(stage.node.get(path).await.header("x-cache"), "HIT from edge");
    }
}

#[tokio::test]
async fn what_nobody_can_be_sent_goes_with_a_pass() {
    let stage = Stage::set().await;
    fill(&stage, &["/a", "/b"], 100).await;
    let entries = [Entry::DomainRemoved(DomainName::parse(DOMAIN).unwrap())];
    stage.node.apply(entries[0].clone());
    let (upto, told) = sweep(&stage.node, pending(&entries)).await;
    assert_eq!((upto, told.values().map(|(objects, _)| objects).sum::<u64>()), (2, 2));
    assert_eq!(stage.node.pipeline.store().stats().objects, 0);
}

#[tokio::test]
async fn new_log_begins_with_a_pass_that_takes_what_the_old_one_left() {
    let stage = Stage::set().await;
    fill(&stage, &["/a"], 100).await;
    let sweeper = pending(&[refresh("/x", Mode::Delete)]);
    let knowledge = stage.node.knowing.known().knowledge.clone();
    stage.node.knowing.join(LogId("restored".into()), PEERS.into(), Revision(5), knowledge).await;
    stage.node.in_contact();
    fill(&stage, &["/b"], 100).await;
    let guard = sweeper.lock().await;
    sweeper.restart(&guard, Revision(5));
    drop(guard);
    assert_eq!(sweep(&stage.node, sweeper).await, (5, [(0, (1, 100))].into()));
    assert_eq!(stage.node.get("/b").await.header("x-cache"), "HIT from edge");
}

#[tokio::test]
async fn who_joins_again_keeps_nothing_that_another_owner_could_confirm() {
    let stage = Stage::set().await;
    fill(&stage, &["/a"], 100).await;
    // The node was no member while the domain was deleted and became another account's, whose objects may have the same
    // validators.
    let knowledge = stage.node.knowing.known().knowledge.clone();
    let log = stage.node.knowing.known().log.clone();
    stage.node.knowing.join(log, PEERS.into(), Revision(5), knowledge).await;
    stage.node.in_contact();
    let sweeper = pending(&[]);
    let guard = sweeper.lock().await;
    sweeper.restart(&guard, Revision(5));
    drop(guard);
    assert_eq!(sweeper.upto(), Revision(0), "nothing was swept yet");
    assert_eq!(stage.node.get("/a").await.header("x-cache"), "MISS from edge");
    stage.node.settled().await;
    assert_eq!(sweep(&stage.node, sweeper).await.0, 5);
    assert_eq!(stage.node.get("/a").await.header("x-cache"), "HIT from edge", "what was fetched since stays");
}

#[tokio::test]
async fn markers_of_a_deleted_domain_go_too() {
    let stage = Stage::set().await;
    stage.origin.put("/a", Page::new(vec![7_u8; 1_000]).with("vary", "accept-language"));
    for value in ["en", "de"] {
        stage.node.get_with("/a", &[("accept-language", value)]).await;
        stage.node.settled().await;
    }
    assert_eq!(stage.node.pipeline.store().stats().objects, 3, "two variants and what tells them apart");
    let entries = [Entry::DomainRemoved(DomainName::parse(DOMAIN).unwrap())];
    stage.node.apply(entries[0].clone());
    sweep(&stage.node, pending(&entries)).await;
    assert_eq!(stage.node.pipeline.store().stats().objects, 0);
}

#[tokio::test]
async fn files_beyond_the_bound_are_left_to_a_pass() {
    let stage = Stage::set().await;
    fill(&stage, &["/last"], 100).await;
    let file =
        |path: String| Invalidation { scope: Scope::File(UrlKey::new(DOMAIN, &path).unwrap()), mode: Mode::Delete };
    let mut many: Vec<Invalidation> = (0..crate::sweep::FILES_MAX).map(|n| file(format!("/{n}"))).collect();
    many.push(file("/last".into()));
    let entries = [Entry::Invalidate(many)];
    stage.node.apply(entries[0].clone());
    let sweeper = pending(&entries);
    assert_eq!(sweeper.waiting(), crate::sweep::FILES_MAX);
    assert_eq!(sweep(&stage.node, sweeper).await, (2, [(2, (1, 100))].into()));
}
