//! Routing rows: what it costs to decide where a call goes, beside a bound call, which decided once.

use std::{hint::black_box, path::Path};

use anyhow::Result;
use echo::contract::EchoRequest;
use mortise::{
    CallOptions, Header, Host, LoadRequest, Source,
    manifest::{HeaderTest, HeaderWanted, RouteEntry, RuntimeName},
};
use prost::Message as _;

use crate::{
    subject::{self, Reuse},
    table::{Row, best_ns},
};

const TARGET: &str = "mortise.test.v1.Echo/Echo";

/// A route for one user, whose header is exact or a pattern.
fn route(number: usize, pattern: bool) -> RouteEntry {
    let user = format!("user-{number}");
    let wanted = if pattern {
        HeaderWanted::Test(HeaderTest {
            regex: Some(format!("{user}|{user}-.*")),
            ..HeaderTest::default()
        })
    } else {
        HeaderWanted::Exact(user.clone())
    };
    RouteEntry {
        name: user,
        service: Some("mortise.test.v1.Echo".to_owned()),
        headers: [("x-user".to_owned(), wanted)].into(),
        to: Some("echo@1.1.0".to_owned()),
        ..RouteEntry::default()
    }
}

/// The headers of a call for which the last of so many routes decides.
fn headers(routes: usize) -> Vec<Header> {
    let header = |name: &str, value: String| Header {
        name: name.to_owned(),
        value,
    };
    vec![
        header("x-canary-version", "1.0.0".to_owned()),
        header("x-user", format!("user-{}", routes.max(1) - 1)),
        header("baggage", "k=v".to_owned()),
    ]
}

/// The rows.
///
/// # Errors
/// If the packages are not there or do not load.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    let host = subject::host(&[RuntimeName::Native], data, Reuse::Ephemeral).await?;
    subject::load(&host, "echo", RuntimeName::Native, &subject::package("echo")?).await?;
    let payload = EchoRequest {
        message: vec![7; 14],
        text: String::new(),
    }
    .encode_to_vec();
    let bound = host.bind("plugin.echo.Echo")?;
    let mut out = Vec::with_capacity(64);
    let mut anchor = || {
        best_ns(5, 200_000, || {
            out.clear();
            bound
                .call(black_box(&payload), &mut out)
                .expect("the plugin answers");
        })
    };
    let mut rows = Vec::new();
    let mut row = |what: String, ours: f64, anchor: f64| {
        rows.push(Row::new(what, ours, "bound call, unrouted", anchor, "ns"));
    };
    row(
        "deciding, one provider".to_owned(),
        decide(&host, &headers(0)),
        anchor(),
    );
    row(
        "routed call, one provider".to_owned(),
        whole(&host, &payload, &headers(0)).await?,
        anchor(),
    );
    let mut beside = LoadRequest::new(Source::Folder(subject::package("echo-1.1")?));
    beside.runtime = Some(RuntimeName::Native);
    beside.beside = true;
    host.load(beside).await?;
    for (count, pattern) in [(0, false), (10, false), (100, false), (10, true), (100, true)] {
        let routes = (0..count).map(|it| route(it, pattern)).collect();
        host.set_routes("bench", routes).await?;
        let headers = headers(count);
        let what = match (count, pattern) {
            (0, _) => "two versions, 0 header rules".to_owned(),
            (_, false) => format!("two versions, {count} header rules"),
            (_, true) => format!("two versions, {count} patterns"),
        };
        row(format!("deciding, {what}"), decide(&host, &headers), anchor());
        row(
            format!("routed call, {what}"),
            whole(&host, &payload, &headers).await?,
            anchor(),
        );
    }
    host.shutdown().await;
    Ok(rows)
}

/// One decision, in nanoseconds.
fn decide(host: &Host, headers: &[Header]) -> f64 {
    best_ns(10, 50_000, || {
        black_box(
            host.resolve(black_box(TARGET), black_box(headers))
                .expect("a provider"),
        );
    })
}

/// One call with its decision, in nanoseconds; the least of ten runs.
async fn whole(host: &Host, payload: &[u8], headers: &[Header]) -> Result<f64> {
    const CALLS: u32 = 20_000;
    let mut best = f64::MAX;
    for _ in 0..10 {
        let started = std::time::Instant::now();
        for _ in 0..CALLS {
            let options = CallOptions {
                headers: headers.to_vec(),
                ..CallOptions::default()
            };
            let payload = bytes::Bytes::copy_from_slice(payload);
            black_box(host.call(TARGET, payload, options).await?);
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    Ok(best)
}
