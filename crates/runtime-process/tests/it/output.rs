//! What the plugin writes and logs.

use std::time::Duration;

use mortise_wire::Level;

use crate::{
    fake::Begin,
    fixture::{Bench, ask},
};

#[tokio::test]
async fn lines_become_log_lines() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    ask(&*instance, "say grüezi").await.unwrap();
    let (out, call) = bench.services.wait_for_log("grüezi to stdout").await;
    assert_eq!(
        (out.target.as_str(), out.level(), call),
        ("stdout", Level::Info, None)
    );
    let (err, _) = bench.services.wait_for_log("grüezi to stderr").await;
    assert_eq!((err.target.as_str(), err.level()), ("stderr", Level::Warn));
    let logged = bench.services.logged.lock().unwrap().clone();
    let (record, call) = logged
        .iter()
        .find(|(it, _)| it.message == "grüezi")
        .expect("the Log frame came with the reply");
    assert_eq!(
        (record.call_id, *call),
        (4711, Some(4711)),
        "the host's id, not the lane's"
    );
    drop(logged);
    assert!(instance.last_output().unwrap().contains("grüezi to stderr"));
}

#[tokio::test]
async fn flood_blocks_neither_side_and_its_tail_is_bounded() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    assert_eq!(ask(&*instance, "flood 50000").await.unwrap(), "flooded");
    ask(&*instance, "say the end").await.unwrap();
    bench.services.wait_for_log("the end to stderr").await;
    let tail = instance.last_output().unwrap();
    assert_eq!(tail.len(), 64 << 10);
    assert!(tail.ends_with("the end to stderr\n"));
    let lines = bench
        .services
        .logged
        .lock()
        .unwrap()
        .iter()
        .filter(|(it, _)| it.target == "stderr")
        .count();
    assert_eq!(lines, 50_001, "rate is the host's business; nothing is lost here");
    instance.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn long_line_is_cut_into_pieces() {
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    ask(&*instance, &format!("say {}", "y".repeat(40_000)))
        .await
        .unwrap();
    bench.services.wait_for_log("yyy to stderr").await;
    let logged = bench.services.logged.lock().unwrap();
    let pieces: Vec<_> = logged
        .iter()
        .filter(|(it, _)| it.target == "stderr")
        .map(|(it, _)| it.message.len())
        .collect();
    assert_eq!(pieces, [16_384, 16_384, 40_000 + " to stderr".len() - 2 * 16_384]);
}
