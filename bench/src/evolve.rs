//! Rows of calls between versions of a contract, beside a bound call that brings no contract.
//!
//! The plugins give back the bytes that they get (`plugins/parcel-1`), so what is left after the anchor is the host's work on the bytes: looking the plan up,
//! and following it for a request and for a reply.

use std::{hint::black_box, path::Path};

use anyhow::{Context as _, Result};
use mortise::{BoundMethod, CallerContract, LoadRequest, Package, Source, manifest::RuntimeName};

use crate::{
    subject::{self, Reuse},
    table::{Row, best_ns},
};

/// `{"id": "a", "grams": 1200, "zip": "8000", "speed": 1, "to": {"name": "Ada King"}}`, as versions 1 and 2 write it: 27 bytes.
const OLD: &[u8] = b"\x0a\x01a\x10\xb0\x09\x1a\x048000\x20\x01\x2a\x0a\x0a\x08Ada King";
/// The same as version 3 writes it.
const NEW: &[u8] = b"\x0a\x01a\x10\xb0\x09\x20\x01\x2a\x0a\x0a\x08Ada King\x3a\x048000";

/// The rows.
///
/// # Errors
/// If the packages are not there or do not load.
pub async fn rows(data: &Path) -> Result<Vec<Row>> {
    let host = subject::host(&[RuntimeName::Native], data, Reuse::Ephemeral).await?;
    let load = |folder: &'static str, name: String| {
        let host = &host;
        async move {
            let source = Source::Folder(subject::package(folder)?);
            let request = LoadRequest::new(source)
                .name(name)
                .runtime(RuntimeName::Native)
                .trust_adapter();
            host.load(request).await.context(folder)
        }
    };
    let folders = ["parcel-1", "parcel-2", "parcel-3", "parcel-4"];
    for folder in folders {
        load(folder, folder.to_owned()).await?;
    }
    load("parcel-adapter", "parcel-adapter".to_owned()).await?;
    let caller = |number: usize| -> Result<CallerContract> {
        let package = Package::open(subject::package(folders[number - 1])?)?;
        Ok(CallerContract::of_package(&package))
    };
    let bind = |caller: &CallerContract, plugin: usize| {
        host.bind_with(&format!("plugin.parcel-{plugin}.Send"), caller)
    };
    let cases = [
        ("the same contract", 2, 2, OLD),
        ("defaults, outside and inside", 1, 2, OLD),
        ("a field map", 2, 3, OLD),
        ("a field map, backwards", 3, 2, NEW),
        ("defaults, then a field map", 1, 3, OLD),
        ("functions in a native plugin", 3, 4, NEW),
    ];
    let mut rows = Vec::new();
    for (what, from, to, message) in cases {
        let plain = host.bind(&format!("plugin.parcel-{to}.Send"))?;
        let ours = bind(&caller(from)?, to)?;
        let (mut best, mut anchor) = (f64::MAX, f64::MAX);
        // In turns, so that a busy neighbour meets both.
        for _ in 0..10 {
            anchor = anchor.min(call(&plain, message));
            best = best.min(call(&ours, message));
        }
        rows.push(Row::new(
            format!("bound, {what}"),
            best,
            "bound call, no contract",
            anchor,
            "ns",
        ));
    }
    host.shutdown().await;
    Ok(rows)
}

fn call(bound: &BoundMethod, message: &[u8]) -> f64 {
    let mut out = Vec::with_capacity(64);
    best_ns(1, 20_000, || {
        out.clear();
        bound
            .call(black_box(message), &mut out)
            .expect("the plugin answers");
        black_box(out.len());
    })
}
