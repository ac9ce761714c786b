//! 1,000 simulated members on one real control plane: fan-out, Complete, and recovery after it is killed.

use std::time::Duration;

use anyhow::{Context, ensure};
use bench::api::Api;
use bench::members::{Event, Members};
use bench::{Spread, processor_time};
use e2e::stage::{DOMAIN, Stage};
use tokio::time::Instant;

/// Members.
const MEMBERS: usize = 1000;

/// Number of refreshes measured, and the pause between them.
const REFRESHES: usize = 300;
const PAUSE: Duration = Duration::from_millis(50);

/// Pause between two polls of a task.
const TASK_STEP: Duration = Duration::from_millis(10);

/// How often the control plane is killed.
const KILLS: usize = 3;

pub(crate) async fn run() -> anyhow::Result<()> {
    let mut stage = Stage::without_nodes("open", &[]).await?;
    stage.add_domain("127.0.0.1:9").await?;
    let invitation = e2e::warmfront(&["node", "token", "create", "--state", &stage.state], &[])?;
    let invitation = invitation["token"].as_str().context("an invitation")?;
    let begun = Instant::now();
    let mut members = Members::join(stage.link_port, "cn-1", invitation, MEMBERS).await?;
    println!("{MEMBERS} members joined in {:.1} s", begun.elapsed().as_secs_f64());

    let mut api = Api::connect(&stage, "first").await?;
    let mut settled = api.http().metric("warmfront_log_head").await?;
    while members.lowest() < settled {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let control = stage.control().context("it runs")?.id();
    let (used, measured) = (processor_time(control)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = (processor_time(control)? - used).as_secs_f64() / measured.elapsed().as_secs_f64();

    let (mut calls, mut effects, mut completes) = (Vec::new(), Vec::new(), Vec::new());
    let used = processor_time(control)?;
    for number in 0..REFRESHES {
        members.drain();
        settled += 1;
        let url = format!("http://{DOMAIN}/s/{number}");
        let begun = Instant::now();
        let (task, acknowledged) = api.refresh("File", std::slice::from_ref(&url)).await?;
        calls.push(acknowledged - begun);
        let (complete, received) = tokio::join!(api.complete(&task, &url, TASK_STEP), members.all_received(settled));
        completes.push(complete? - acknowledged);
        effects.push(received?.saturating_duration_since(acknowledged));
        tokio::time::sleep(PAUSE).await;
    }
    let each = (processor_time(control)? - used).as_secs_f64() / REFRESHES as f64 * 1e3;
    println!(
        "{REFRESHES} refreshes of one URL, {} ms apart; heartbeats every 2 s a member (lease 10 s)",
        PAUSE.as_millis()
    );
    println!("call                       {}", Spread::of(calls));
    println!("acknowledged to received by all {MEMBERS}");
    println!("                           {}   aim p99 < 50 ms", Spread::of(effects));
    println!("acknowledged to Complete   {}   aim p99 < 1000 ms", Spread::of(completes));
    println!("  (the task is asked for every {} ms)", TASK_STEP.as_millis());
    println!(
        "processor of the control plane: {:.1} % of one with heartbeats alone, {each:.1} ms a refresh",
        idle * 100.0
    );
    println!("  (the members, in this process, share the machine's processors with it)");

    let mut back = Vec::new();
    for _ in 0..KILLS {
        members.drain();
        stage.kill_control();
        stage.start_control().await?;
        let ready = Instant::now();
        let mut welcomed = 0;
        let mut last = ready;
        while welcomed < MEMBERS {
            let event =
                tokio::time::timeout(e2e::PATIENCE, members.events.recv()).await?.context("members are there")?;
            match event {
                Event::Welcomed(at) => {
                    welcomed += 1;
                    last = at;
                }
                Event::Skipped(_) => ensure!(false, "a member was sent a snapshot after a restart"),
                Event::Received(..) => {}
            }
        }
        back.push(last - ready);
    }
    println!("control plane killed and restarted: ready to all {MEMBERS} welcomed again {}", Spread::of(back));
    println!("  (their pauses have grown while it was away, to 5 s at most, and are jittered)");
    Ok(())
}
