//! Nodes of two control planes, and their shares of one resource.

use model::link::{SHARE_LEASE, Share, Shared, Shares, Want, Wants};

use super::*;

/// A node's own view of its share.
#[derive(Default)]
struct Has {
    sequence: u64,
    number: u64,
    granted: u64,
}

impl Node {
    /// Sends its wants for the places of a domain, of which there are seven; returns its share.
    async fn want(&mut self, has: &mut Has, wanted: u64) -> Share {
        has.sequence += 1;
        let want = Want {
            shared: Shared::Places.into(),
            name: "a.test".into(),
            wanted,
            heard: has.number,
            granted: has.granted,
            limit: 7.0,
            ..Want::default()
        };
        self.say(from_node::Is::Wants(Wants { sequence: has.sequence, wants: vec![want] })).await;
        let share = self.shares(has.sequence).await;
        (has.number, has.granted) = (share.number, share.granted);
        share
    }

    async fn shares(&mut self, sequence: u64) -> Share {
        loop {
            match self.next().await {
                Some(from_control::Is::Shares(Shares { sequence: of, mut shares })) => {
                    assert_eq!((of, shares.len()), (sequence, 1));
                    return shares.remove(0);
                }
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    }
}

#[tokio::test]
async fn what_an_origin_said_to_one_node_others_are_told_though_they_say_nothing() {
    let mut rig = Rig::start().await;
    let (mut first, _) = rig.join("p-1").await;
    let (mut second, _) = rig.join("p-2").await;
    second.want(&mut Has::default(), 1).await;
    let closed =
        Want { shared: Shared::Origin.into(), name: "o:80".into(), wanted: 9, closed_ms: 7_000, ..Want::default() };
    first.say(from_node::Is::Wants(Wants { sequence: 1, wants: vec![closed] })).await;
    let told = loop {
        if let from_control::Is::Closed(told) = second.next().await.expect("the session goes on") {
            break told;
        }
    };
    assert_eq!((told.name.as_str(), told.closed_ms), ("o:80", 7_000));
    let share = first.shares(1).await;
    assert!(share.closed_ms > 6_000, "it knows already, and is answered as ever: {share:?}");
    rig.stop().await;
}

#[tokio::test]
async fn shares_add_up_over_replicas_and_restarts_and_are_given_on_only_when_a_lease_is_over() {
    let mut rig = Rig::start().await;
    let (mut first, welcome) = rig.join("p-1").await;
    assert!(welcome.gives_shares);
    let other = Control::start(rig.config.clone(), clock()).await.unwrap();
    let hello = Hello { join_token: rig.token.clone(), ..hello("p-2") };
    let mut second = rig.connect_to(&other, hello).await;
    second.welcome().await;

    let (mut one, mut two) = (Has::default(), Has::default());
    assert_eq!(first.want(&mut one, 50).await.granted, 7, "nobody else wants any");
    assert_eq!(second.want(&mut two, 50).await.granted, 0, "they are not free yet");
    assert_eq!(first.want(&mut one, 50).await.granted, 4);
    assert_eq!(second.want(&mut two, 50).await.granted, 0, "it may not have heard");
    assert_eq!(first.want(&mut one, 50).await.granted, 4);
    assert_eq!(second.want(&mut two, 50).await.granted, 3);

    rig.restart().await;
    let mut first = rig.connect(again("p-1", &welcome)).await;
    first.welcome().await;
    assert_eq!(first.want(&mut one, 50).await.granted, 4, "shares outlive the process");
    drop(first);
    let silent = tokio::time::Instant::now();
    loop {
        let granted = second.want(&mut two, 50).await.granted;
        if granted == 7 {
            break;
        }
        assert!(granted <= 4 && silent.elapsed() < SHARE_LEASE * 3, "{granted}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(silent.elapsed() >= SHARE_LEASE, "what a silent node has is its own until its lease is over");
    assert_eq!(second.want(&mut two, 0).await.granted, 0, "given back");
    let nameless = Wants { sequence: 99, wants: vec![Want::default()] };
    second.say(from_node::Is::Wants(nameless)).await;
    assert!(second.refusal().await.reason.contains("name"));
    for (bad, at) in [f64::NAN, f64::INFINITY, -1.0].into_iter().zip(1..) {
        let (mut third, _) = rig.join(&format!("p-3{at}")).await;
        let want =
            Want { shared: Shared::Origin.into(), name: "o:80".into(), wanted: 1, limit: bad, ..Want::default() };
        third.say(from_node::Is::Wants(Wants { sequence: 1, wants: vec![want] })).await;
        assert!(third.refusal().await.reason.contains("limit"), "{bad}");
    }
    soon("stop", other.stop()).await;
    rig.stop().await;
}
