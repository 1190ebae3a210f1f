//! Native rows: a bound call beside a plain function pointer into the same library.

use std::{fs, hint::black_box, path::Path};

use anyhow::{Context as _, Result};
use echo::contract::EchoRequest;
use mortise::{BoundMethod, CallOptions, Host, manifest::RuntimeName};
use prost::Message as _;

use crate::{
    bare::BareMethod,
    subject::{self, Reuse},
    table::{Row, best_ns},
};

/// A loaded native plugin and the same method without a host.
pub struct Subject {
    /// The host.
    pub host: Host,
    /// The way that a service would call it.
    pub bound: BoundMethod,
    /// The way that C would.
    pub bare: BareMethod,
    /// A request of 16 bytes on the wire.
    pub request: Vec<u8>,
}

impl Subject {
    /// Loads `folder` of `plugins/` and binds its method `Echo`.
    ///
    /// # Errors
    /// If the package is not there or does not load.
    pub async fn new(folder: &str, data: &Path) -> Result<Self> {
        let package = subject::package(folder)?;
        let host = subject::host(&[RuntimeName::Native], data, Reuse::Ephemeral).await?;
        subject::load(&host, "echo", RuntimeName::Native, &package).await?;
        let library = fs::read_dir(&package)?
            .flatten()
            .map(|it| it.path())
            .find(|it| {
                it.extension()
                    .is_some_and(|it| it == std::env::consts::DLL_EXTENSION)
            })
            .context("the package has no library")?;
        let request = EchoRequest {
            message: vec![7; 14],
            text: String::new(),
        }
        .encode_to_vec();
        assert_eq!(request.len(), 16, "tag, length, 14 bytes");
        let bound = host.bind("plugin.echo.Echo")?;
        Ok(Self {
            bound,
            bare: BareMethod::open(&library, "Echo")?,
            host,
            request,
        })
    }
}

/// The rows.
///
/// # Errors
/// If the packages are not there or do not load.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (folder, what) in [("echo-c", "C"), ("echo", "Rust SDK")] {
        let mut subject = Subject::new(folder, &data.join(folder)).await?;
        let mut out = Vec::with_capacity(64);
        let request = subject.request.clone();
        // The two are measured in turns, so that a busy neighbour meets both.
        let (mut ours, mut plain) = (f64::MAX, f64::MAX);
        for _ in 0..15 {
            plain = plain.min(best_ns(1, 200_000, || {
                black_box(subject.bare.call(black_box(&request)));
            }));
            ours = ours.min(best_ns(1, 200_000, || {
                out.clear();
                subject
                    .bound
                    .call(black_box(&request), &mut out)
                    .expect("the plugin answers");
                black_box(out.len());
            }));
        }
        let row = Row::new(
            format!("native, bound, 16 B, {what} plugin"),
            ours,
            "plain fn pointer",
            plain,
            "ns",
        );
        rows.push(row.at_most_times(3.0));
        let route = subject.host.resolve("plugin.echo.Echo", &[])?;
        let managed = {
            let started = std::time::Instant::now();
            const CALLS: u32 = 100_000;
            for _ in 0..CALLS {
                let payload = bytes::Bytes::from(request.clone());
                black_box(
                    subject
                        .host
                        .call_route(&route, payload, CallOptions::default())
                        .await?,
                );
            }
            started.elapsed().as_nanos() as f64 / f64::from(CALLS)
        };
        rows.push(Row::new(
            format!("native, managed, 16 B, {what} plugin"),
            managed,
            "plain fn pointer",
            plain,
            "ns",
        ));
        subject.host.shutdown().await;
    }
    Ok(rows)
}
