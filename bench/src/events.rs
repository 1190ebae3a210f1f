//! Events: what a publish costs beside a bare insert into SQLite that is as durable, and what a subscriber that never answers costs a publisher.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::try_join_all;
use mortise::{
    Host, Publication,
    event::{Outcome, RetryPolicy, SubscriptionTerms},
    manifest::SubscribeFrom,
};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::table::Row;

/// Publishes of one measurement.
const EVENTS: usize = 400;
/// Publishers at once.
const PUBLISHERS: usize = 16;
/// Bytes of an event.
const BYTES: usize = 256;
const TOPIC: &str = "bench.things";

/// The rows.
///
/// # Errors
/// If a host or a database does not open.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    std::fs::create_dir_all(data)?;
    let mut bare = bare_inserts(&data.join("bare.db"))?;
    let host = Host::builder().data_dir(data.join("host")).start().await?;
    host.publish(thing(0)).await?;
    let mut alone = publishes(&host).await?;
    let (bare_p50, alone_p50) = (quantile(&mut bare, 0.5), quantile(&mut alone, 0.5));
    let alone_p99 = quantile(&mut alone, 0.99);
    let began = Instant::now();
    let publisher = async |from: usize| -> Result<()> {
        for number in 0..EVENTS / PUBLISHERS {
            host.publish(thing(from + number)).await?;
        }
        Ok(())
    };
    try_join_all((0..PUBLISHERS).map(|it| publisher(it * EVENTS))).await?;
    let together = us(began.elapsed()) / EVENTS as f64;
    let mut latency = delivery(&host).await?;
    // Ten that take what they may and never answer.
    let mut stuck = Vec::new();
    for number in 0..10 {
        let mut stream = host.subscribe(terms(&format!("stuck-{number}"))).await?;
        host.publish(thing(number)).await?;
        stuck.push((stream.next().await?, stream));
    }
    let mut beside = publishes(&host).await?;
    let beside_p99 = quantile(&mut beside, 0.99);
    drop(stuck);
    host.shutdown().await;
    let anchor = "bare SQLite insert, one sync each, p50";
    Ok(vec![
        Row::new(
            "publish, 256 B, synced, one publisher, p50",
            alone_p50,
            anchor,
            bare_p50,
            "us",
        ),
        Row::new(
            "the same, 16 publishers, per event",
            together,
            anchor,
            bare_p50,
            "us",
        )
        .at_most_times(1.0),
        Row::new(
            "publish to delivery, p50",
            quantile(&mut latency, 0.5),
            "a publish alone, p50",
            alone_p50,
            "us",
        )
        .at_most_times(3.0),
        Row::new(
            "publish beside ten that never answer, p99",
            beside_p99,
            "without them, p99",
            alone_p99,
            "us",
        )
        .at_most_times(3.0),
    ])
}

/// The anchor: as durable, and nothing else.
fn bare_inserts(path: &Path) -> Result<Vec<f64>> {
    let db = rusqlite::Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE events (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")?;
    let mut times = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let began = Instant::now();
        db.execute("INSERT INTO events (payload) VALUES (?)", [vec![7_u8; BYTES]])?;
        times.push(us(began.elapsed()));
    }
    Ok(times)
}

async fn publishes(host: &Host) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(EVENTS);
    for number in 0..EVENTS {
        let began = Instant::now();
        host.publish(thing(number)).await?;
        times.push(us(began.elapsed()));
    }
    Ok(times)
}

/// From the begin of a publish to the subscriber's hands.
async fn delivery(host: &Host) -> Result<Vec<f64>> {
    let mut stream = host.subscribe(terms("quick")).await?;
    let mut times = Vec::with_capacity(EVENTS);
    for number in 0..EVENTS {
        let began = Instant::now();
        host.publish(thing(number)).await?;
        let delivered = stream.next().await?;
        times.push(us(began.elapsed()));
        delivered
            .receipt
            .settle(Outcome::Done)
            .await
            .context("a delivery is settled")?;
    }
    Ok(times)
}

fn terms(name: &str) -> SubscriptionTerms {
    SubscriptionTerms {
        name: name.to_owned(),
        pattern: TOPIC.parse().expect("a topic is a pattern"),
        from: SubscribeFrom::New,
        retry: RetryPolicy {
            attempts_max: 8,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        },
        concurrency: 4,
        ordered: false,
    }
}

fn thing(number: usize) -> Publication {
    let file = FileDescriptorProto {
        name: Some("bench.proto".to_owned()),
        package: Some("bench".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Thing".to_owned()),
            ..DescriptorProto::default()
        }],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let payload = vec![u8::try_from(number % 251).unwrap_or(0); BYTES];
    Publication {
        topic: TOPIC.to_owned(),
        payload: Bytes::from(payload),
        type_name: Some("bench.Thing".to_owned()),
        descriptor_set: Some(FileDescriptorSet { file: vec![file] }.encode_to_vec().into()),
        ..Publication::default()
    }
}

fn quantile(times: &mut [f64], at: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * at) as usize]
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
