//! Fault injection.

use control::state::memory::{Fault, Faults};
use store::disk::WriteFault;
use tokio::time::Instant;

use crate::random::Random;
use crate::world::{World, lock};

/// Injects faults until `end`; returns how many.
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

/// Injects one fault, and repairs it afterwards.
async fn fault(world: World, at: usize, mut random: Random) {
    let name = lock(&world.hosts)[at].name.clone();
    match random.draw() % 17 {
        0 | 1 => {
            if world.kill_host(at) {
                tokio::time::sleep(random.millis(1..4_000)).await;
                world.start_host(at).await;
            }
        }
        2 | 3 => {
            let plane = random.within(0..world.replicas() as u64) as usize;
            world.kill_plane(plane);
            tokio::time::sleep(random.millis(1..4_000)).await;
            if random.one_in(3) {
                lock(&world.planes)[plane].lease_secs = random.within(2..4);
            }
            world.start_plane(plane).await;
        }
        4 | 5 => link(&world, "control", &name, &mut random).await,
        6..=8 => {
            // A node of a higher tier, or the origin.
            let tier = lock(&world.hosts)[at].tier;
            let above: Vec<String> =
                lock(&world.hosts).iter().filter(|host| host.tier > tier).map(|host| host.name.clone()).collect();
            let other = if above.is_empty() { "origin".to_owned() } else { random.pick(&above).clone() };
            link(&world, &name, &other, &mut random).await;
        }
        9 => {
            let faults = lock(&world.planes)[0].faults.clone();
            for _ in 0..random.within(1..6) {
                faults.push(*random.pick(&[Fault::Unavailable, Fault::BeforeCommit, Fault::AfterCommit]));
            }
            world.history().note("the database fails a few times");
        }
        10 => {
            let plane = random.within(0..world.replicas() as u64) as usize;
            let faults = lock(&world.planes)[plane].faults.clone();
            faults.cut_off(true);
            world.history().note(&format!("the database is out of reach of control plane {plane}"));
            tokio::time::sleep(random.millis(1..6_000)).await;
            // If the process was killed meanwhile, it stays so.
            let planes = lock(&world.planes);
            if planes[plane].running.is_some() {
                planes[plane].faults.cut_off(false);
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
            let state = world.memory.open(&Faults::default());
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
        15 => {
            lock(&world.hosts)[at].journal.fail();
            world.history().note(&format!("{name}'s journal fails"));
            tokio::time::sleep(random.millis(1_000..6_000)).await;
            world.stop_host(at).await;
            world.start_host(at).await;
        }
        _ => {
            if world.kill_host(at) {
                world.start_host(at).await;
            }
        }
    }
}

/// Cuts, stalls or slows down a link for a while; or slows it first, and then cuts it with the bytes in flight.
async fn link(world: &World, a: &str, b: &str, random: &mut Random) {
    let how = random.draw() % 4;
    if how >= 2 {
        let longest = random.within(2..3_000);
        world.net.slow(a, b, longest / 2..longest + 1);
        world.history().note(&format!("{a} to {b} is slow"));
        tokio::time::sleep(random.millis(1..4_000)).await;
    }
    if how != 2 {
        if random.one_in(2) {
            world.net.cut(a, b);
        } else {
            world.net.stall(a, b);
        }
        world.history().note(&format!("{a} to {b} is gone"));
        tokio::time::sleep(random.millis(1..5_000)).await;
    }
    world.net.heal(a, b);
    world.history().note(&format!("{a} to {b} is healed"));
}

/// Isolates one, some or all nodes from the control plane for a while.
pub(crate) fn isolate(world: &World, random: &mut Random, end: Instant) {
    let all = random.one_in(3);
    let mut names: Vec<String> = lock(&world.hosts).iter().map(|host| host.name.clone()).collect();
    if !all {
        names.retain(|_| random.one_in(2));
    }
    let cuts = random.one_in(2);
    for name in &names {
        if cuts { world.net.cut("control", name) } else { world.net.stall("control", name) }
    }
    world.history().note(&format!("{names:?} are isolated"));
    let (world, until) = (world.clone(), (Instant::now() + random.millis(1_000..7_000)).min(end));
    tokio::spawn(async move {
        tokio::time::sleep_until(until).await;
        names.iter().for_each(|name| world.net.heal("control", name));
        world.history().note(&format!("{names:?} are not isolated any more"));
    });
}

/// Removes a node while it keeps running, and after a while invites it again with the disk it has.
async fn remove(world: &World, at: usize, name: &str, random: &mut Random) {
    // Sometimes it does not learn of its removal.
    if random.one_in(2) {
        world.net.stall("control", name);
    }
    // From here on nothing is promised for it.
    world.put_outside(name);
    let operator = world.operator().await;
    let _ = operator.remove_node(name).await;
    world.history().note(&format!("{name} is removed"));
    for _ in 0..random.within(0..6) {
        world.refresh(random).await;
    }
    tokio::time::sleep(random.millis(1..4_000)).await;
    world.net.heal("control", name);
    world.invite_host(at).await;
    world.stop_host(at).await;
    // From here on, whatever a process sends it sends as a member.
    world.take_inside(name);
    world.start_host(at).await;
}
