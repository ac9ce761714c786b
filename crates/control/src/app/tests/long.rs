//! Accounts with a long history.

use super::*;
use crate::app::lines::CHUNKS_SEARCHED_MAX;
use crate::state::steering::Steer;

#[tokio::test]
async fn what_goes_on_is_found_behind_a_long_history() {
    let rig = Rig::start().await;
    rig.push(&me(), "p", &["a.com/1"]).await.unwrap();
    rig.clock.advance(Duration::from_secs(1));
    let (count, unlimited) = (CHUNKS_SEARCHED_MAX + 1, Limits { day: None, ..limits() });
    let directories = (0..count).map(|n| object(&format!("b.com/{n}/"))).collect();
    rig.app.refresh(&me(), PUSH, spending("r"), &unlimited, directories, DIRECTORIES).await.unwrap();
    let of = |status, kinds: &[Kind]| {
        let chunks = Filter { kinds: kinds.to_vec(), ..all().chunks };
        LineFilter { chunks, status: Some(status), ..all() }
    };
    let total = async |filter| rig.lines(&me(), &filter, 0, 1).await.unwrap().total;
    until("all but the prefetch is complete", || async {
        (total(of(Status::Refreshing, &[])).await == 1).then_some(())
    })
    .await;
    assert_eq!(total(of(Status::Refreshing, &[Kind::RefreshDirectory])).await, 0);
    let tasks = rig.app.state.open_prefetches("me", 0, 1).await.unwrap();
    let chunk = rig.app.state.chunks(&[tasks[0].id]).await.unwrap().remove(0);
    rig.app.state.steer("me", &[chunk.task], Steer::Cancel, 1).await.unwrap().unwrap();
    assert_eq!(total(of(Status::Failed, &[])).await, 1);
    assert_eq!(total(of(Status::Failed, &[Kind::RefreshDirectory])).await, 0);
    assert_eq!(total(of(Status::Refreshing, &[])).await, 0);
}
