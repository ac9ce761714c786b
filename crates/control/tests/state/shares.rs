//! What nodes share: changed whole, one after the other, and forgotten.

use std::collections::BTreeMap;

use control::state::State;
use model::NodeName;
use model::share::{Row, Total, Want};

async fn want(state: &State, node: &str, wanted: u64, now_ms: u64) -> u64 {
    let node = NodeName::parse(node).unwrap();
    let names = ["places a.test".to_owned(), "origin o.test:80".to_owned()];
    let change = |rows: &mut BTreeMap<String, Row>| {
        let want = Want { wanted, limit: 4.0, ..Want::default() };
        let granted = rows.values_mut().map(|row| row.step(&node, &want, Total::Set(7), 0, now_ms).granted);
        granted.min().unwrap()
    };
    state.change_shares(names, now_ms, change).await.unwrap()
}

pub(crate) async fn shares_are_changed_by_one_at_a_time_and_forgotten(state: &State) {
    // Those who ask at once are answered as if they came one after the other, whoever is first.
    let (one, two) = tokio::join!(want(state, "n1", 50, 1_000), want(state, "n2", 50, 1_000));
    assert!((one, two) == (7, 0) || (one, two) == (0, 7), "{one} and {two}");
    state.forget_shares(1_000).await.unwrap();
    assert_eq!(want(state, "n3", 50, 2_000).await, 0, "it was looked at in time");
    state.forget_shares(2_001).await.unwrap();
    assert_eq!(want(state, "n3", 50, 3_000).await, 7, "what nobody looks at is forgotten");
    assert_eq!(want(state, "n3", 0, 4_000).await, 0);
    assert_eq!(want(state, "n4", 50, 5_000).await, 7, "what was given back is not kept");
    want(state, "n4", 0, 6_000).await;
}

pub(crate) async fn row_that_cannot_be_read_starts_anew_and_holds_up_no_other(state: &State) {
    let unreadable = |rows: &mut BTreeMap<String, Row>| {
        let node = NodeName::parse("n9").unwrap();
        let want = Want { wanted: 1, limit: f64::NAN, ..Want::default() };
        rows.values_mut().for_each(|row| _ = row.step(&node, &want, Total::Felt, 0, 7_000));
    };
    state.change_shares(["origin o.test:80".to_owned()], 7_000, unreadable).await.unwrap();
    assert_eq!(want(state, "n1", 50, 7_000).await, 7, "together with the places of a domain");
    assert_eq!(want(state, "n2", 50, 7_000).await, 0, "and what is written then is read again");
    want(state, "n1", 0, 8_000).await;
    want(state, "n2", 0, 8_000).await;
}
