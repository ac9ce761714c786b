//! Four real nodes: the time from the acknowledgement of a refresh to its effect on all of them, and to Complete.
//!
//! *Effect* is measured as users see it: each node is requested repeatedly, and what counts is when the last node's
//! first response with the new bytes has arrived completely, including the time to fetch it from parent and origin.

use std::time::Duration;

use bench::Spread;
use bench::api::{Api, Http};
use e2e::stage::{DOMAIN, Stage};
use tokio::time::Instant;

use crate::origin::Origin;

/// Number of refreshes measured.
const REFRESHES: usize = 300;

/// Pause between two requests to a node, and between two polls of a task.
const GET_STEP: Duration = Duration::from_millis(1);
const TASK_STEP: Duration = Duration::from_millis(2);

pub(crate) async fn run() -> anyhow::Result<()> {
    let origin = Origin::start(0).await?;
    let stage = Stage::set("open").await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    let mut api = Api::connect(&stage, "refresh").await?;
    let (mut calls, mut effects, mut completes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..REFRESHES {
        let path = format!("/e/{number}");
        let mut pollers = Vec::new();
        for node in &stage.nodes {
            let mut http = Http::connect(node.port).await?;
            let (_, _, old) = http.get(DOMAIN, &path).await?;
            pollers.push((http, old));
        }
        origin.change();
        let polling: Vec<_> = pollers
            .into_iter()
            .map(|(mut http, old)| {
                let path = path.clone();
                tokio::spawn(async move {
                    loop {
                        let (status, _, body) = http.get(DOMAIN, &path).await?;
                        anyhow::ensure!(status.is_success(), "{status}");
                        if body != old {
                            return anyhow::Ok(Instant::now());
                        }
                        tokio::time::sleep(GET_STEP).await;
                    }
                })
            })
            .collect();
        let url = format!("http://{DOMAIN}{path}");
        let begun = Instant::now();
        let (task, acknowledged) = api.refresh("File", std::slice::from_ref(&url)).await?;
        calls.push(acknowledged - begun);
        completes.push(api.complete(&task, &url, TASK_STEP).await? - acknowledged);
        let mut last = acknowledged;
        for polling in polling {
            last = last.max(polling.await??);
        }
        effects.push(last - acknowledged);
    }
    let (effects, completes) = (Spread::of(effects), Spread::of(completes));
    println!("{REFRESHES} refreshes of one URL, one after the other; 4 node processes, one control plane, one disk");
    println!("call                       {}", Spread::of(calls));
    println!("acknowledged to effect     {effects}   aim p99 < 50 ms");
    println!("  (GETs every {} ms a node, until the new bytes have arrived from the last one)", GET_STEP.as_millis());
    println!("acknowledged to Complete   {completes}   aim p99 < 1000 ms");
    println!("  (the task is asked for every {} ms)", TASK_STEP.as_millis());
    Ok(())
}
