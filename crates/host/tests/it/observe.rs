//! What is seen from outside: spans in their order, log lines with their call's trace, the flood's one line, inspect.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mortise_host::{CallOptions, LoadRequest, State};
use mortise_manifest::{LimitsOverride, Permissions};
use tracing::{Event, Id, Subscriber, field::Visit, span::Attributes};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, registry::LookupSpan};

use crate::closures::{METHODS, World, call, grant, request};

/// Notes the names of spans and the texts of events under `mortise`.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if ["message", "trace", "plugin"].contains(&field.name()) {
            self.0.push_str(&format!("{}={value:?} ", field.name()));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().target().starts_with("mortise::") {
            self.0
                .lock()
                .unwrap()
                .push(attributes.metadata().name().to_owned());
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "mortise::plugin" {
            let mut text = String::new();
            event.record(&mut Text(&mut text));
            self.0.lock().unwrap().push(text.trim_end().to_owned());
        }
    }
}

#[tokio::test]
async fn a_load_and_a_call_leave_their_spans_in_order() {
    let notes = Notes::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(notes.clone()));
    let world = World::new();
    let host = world.host().await;
    world.load(&host, "echo", "1.0.0").await;
    assert_eq!(notes.take(), ["fetch", "verify", "prepare", "start", "cutover"]);
    call(&host, "plugin.echo.Call", "").await.unwrap();
    assert_eq!(notes.take(), ["resolve", "admit", "pick", "guest", "account"]);
    host.unload("echo").await.unwrap();
    assert_eq!(notes.take(), ["drain", "stop"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_log_lines_is_cut_and_told_in_one_line() {
    let notes = Notes::default();
    let world = World::new();
    let host = world.host().await;
    let (folder, _) = world.package("echo", "1.0.0", "");
    let limits = LimitsOverride {
        log_lines_per_second: Some(3),
        ..LimitsOverride::default()
    };
    host.load(LoadRequest {
        limits,
        ..request(&folder)
    })
    .await
    .unwrap();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(notes.clone()));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let options = CallOptions {
        traceparent: Some(format!("00-{trace}-00f067aa0ba902b7-01")),
        ..CallOptions::default()
    };
    host.call("plugin.echo.Log", Bytes::from_static(b"5000"), options)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lines: Vec<_> = notes
        .take()
        .into_iter()
        .filter(|it| it.contains("message="))
        .collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (number, line) in lines[..3].iter().enumerate() {
        for part in [
            format!("message=line {number}"),
            "plugin=echo".to_owned(),
            format!("trace={trace:?}"),
        ] {
            assert!(line.contains(&part), "{line}");
        }
    }
    assert!(
        lines[3].contains("4997 log lines dropped: more than 3 a second"),
        "{}",
        lines[3]
    );
    assert_eq!(host.inspect("echo").unwrap().counters.log_lines_dropped, 4997);
}

#[tokio::test]
async fn inspect_tells_everything_and_serializes() {
    let world = World::new();
    let host = world.host().await;
    let more = "[permissions]\nkv = true\nnet.connect = [\"*.example.com:443\"]\n[limits]\nconcurrency = 9\n";
    let (folder, _) = world.package("echo", "1.0.0", more);
    let allowed = Permissions {
        kv: true,
        net_connect: vec!["*.example.com:443".to_owned(), "other.org:80".to_owned()],
        ..Permissions::default()
    };
    host.load(LoadRequest {
        grant: grant(allowed),
        ..request(&folder)
    })
    .await
    .unwrap();
    for _ in 0..5 {
        call(&host, "plugin.echo.Call", "").await.unwrap();
    }
    call(&host, "plugin.echo.Panic", "").await.unwrap_err();
    let detail = host.inspect("echo").unwrap();
    assert!(matches!(detail.info.state, State::Probation | State::Active));
    assert_eq!(
        (
            detail.counters.calls,
            detail.counters.errors,
            detail.counters.faults
        ),
        (6, 1, 1)
    );
    assert_eq!(detail.counters.latency_samples, 6, "all are sampled on probation");
    assert_eq!(
        detail.granted.net_connect,
        ["*.example.com:443"],
        "a wide grant gives only what was asked for"
    );
    assert_eq!(detail.limits.concurrency, 9);
    assert_eq!(
        detail
            .methods
            .iter()
            .map(|it| it.name.as_str())
            .collect::<Vec<_>>(),
        METHODS
    );
    let json = serde_json::to_value(&detail).unwrap();
    assert_eq!(json["name"], "echo");
    assert_eq!(json["plugin"], "echo 1.0.0");
    assert_eq!(json["runtime"], "wasm");
    assert_eq!(json["methods"][0]["full_hash"].as_str().unwrap().len(), 64);
    assert_eq!(json["declared"]["kv"], true);
    assert_eq!(json["limits"]["concurrency"], 9);
    assert_eq!(json["usage"]["pid"], 7);
    assert_eq!(json["support"]["isolation"], "none");
    assert_eq!(json["history"][0]["event"], "load");
    assert_eq!(json["instance"], "echo@1.0.0#1");
    assert!(
        host.inspect("nobody")
            .unwrap_err()
            .to_string()
            .contains("there is no plugin `nobody`")
    );
    assert!(host.health("echo").await.unwrap().serving);
}
