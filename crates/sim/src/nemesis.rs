//! What goes wrong.

use control::state::memory::{Fault, Faults};
use store::disk::WriteFault;
use tokio::time::Instant;

use crate::random::Random;
use crate::world::{World, lock};

/// Makes things go wrong until `end`; how many did.
pub(crate) async fn disturb(world: World, mut random: Random, end: Instant) -> u64 {
    let mut faults = 0;
    let mut repairs = tokio::task::JoinSet::new();
    while Instant::now() < end {
        tokio::time::sleep(random.millis(50..1_500)).await;
        let at = random.within(0..world.nodes() as u64) as usize;
        repairs.spawn(fault(world.clone(), at, random.fork()));
        faults += 1;
    }
    while repairs.join_next().await.is_some() {}
    faults
}

/// One thing that goes wrong, and is put right again.
async fn fault(world: World, at: usize, mut random: Random) {
    let name = lock(&world.hosts)[at].name.clone();
    match random.next() % 16 {
        0 | 1 => {
            if world.kill_host(at) {
                tokio::time::sleep(random.millis(1..4_000)).await;
                world.start_host(at).await;
            }
        }
        2 | 3 => {
            world.kill_plane();
            tokio::time::sleep(random.millis(1..4_000)).await;
            if random.one_in(3) {
                lock(&world.plane).lease_secs = random.within(2..4);
            }
            world.start_plane().await;
        }
        4 | 5 => link(&world, "control", &name, &mut random).await,
        6 | 7 | 8 => {
            // Somebody above it, or the origin.
            let tier = lock(&world.hosts)[at].tier;
            let above: Vec<String> =
                lock(&world.hosts).iter().filter(|host| host.tier > tier).map(|host| host.name.clone()).collect();
            let other = if above.is_empty() { "origin".to_owned() } else { random.pick(&above).clone() };
            link(&world, &name, &other, &mut random).await;
        }
        9 => {
            for _ in 0..random.within(1..6) {
                let fault = *random.pick(&[Fault::Unavailable, Fault::BeforeCommit, Fault::AfterCommit]);
                lock(&world.plane).faults.push(fault);
            }
            world.history().note("the database fails a few times");
        }
        10 => {
            let faults = lock(&world.plane).faults.clone();
            faults.cut_off(true);
            world.history().note("the database is out of reach");
            tokio::time::sleep(random.millis(1..4_000)).await;
            // Of a process that was killed meanwhile it stays so.
            if lock(&world.plane).running.is_some() {
                lock(&world.plane).faults.cut_off(false);
            }
        }
        11 => {
            if world.kill_host(at) {
                world.wipe_host(at, &mut random);
                tokio::time::sleep(random.millis(1..3_000)).await;
                world.invite_host(at).await;
                world.start_host(at).await;
            }
        }
        12 => remove(&world, at, &name, &mut random).await,
        13 => {
            let state = lock(&world.plane).memory.open(&Faults::default());
            let compacted = state.compact(random.within(0..4)).await;
            world.history().note(&format!("the log is compacted: {}", compacted.is_ok()));
        }
        14 => {
            let disk = lock(&world.hosts)[at].disk.clone();
            if random.one_in(2) {
                disk.fail_syncs(random.within(1..3) as u32);
            } else {
                disk.fail_writes(&[*random.pick(&[WriteFault::Refused, WriteFault::NoSpace])]);
            }
            world.history().note(&format!("{name}'s disk fails"));
        }
        _ => {
            if world.kill_host(at) {
                world.start_host(at).await;
            }
        }
    }
}

/// A link that is cut, stalled or slow for a while.
async fn link(world: &World, a: &str, b: &str, random: &mut Random) {
    let how = random.next() % 3;
    match how {
        0 => world.net.cut(a, b),
        1 => world.net.stall(a, b),
        _ => {
            let longest = random.within(2..3_000);
            world.net.slow(a, b, longest / 2..longest + 1);
        }
    }
    world.history().note(&format!("{a} to {b} is {}", ["cut", "stalled", "slow"][how as usize]));
    tokio::time::sleep(random.millis(1..5_000)).await;
    world.net.heal(a, b);
    world.history().note(&format!("{a} to {b} is healed"));
}

/// A node is removed while it runs on, and after a while invited again with the disk it has.
async fn remove(world: &World, at: usize, name: &str, random: &mut Random) {
    // From here on nothing is promised for it.
    lock(&world.outside).insert(name.to_owned());
    let operator = world.operator().await;
    let _ = operator.remove_node(name).await;
    world.history().note(&format!("{name} is removed"));
    tokio::time::sleep(random.millis(1..4_000)).await;
    world.invite_host(at).await;
    world.stop_host(at).await;
    // What a process says from here on is a member's word, or nothing.
    lock(&world.outside).remove(name);
    world.start_host(at).await;
}
