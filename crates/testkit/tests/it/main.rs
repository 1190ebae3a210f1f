//! The testkit tested with a plugin that is put together by hand: what a build script would generate stands in `guest`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod guest;

use std::time::Duration;

use mortise_runtime::CallErrorKind;
use mortise_sdk::{Code, client::BlockingCaller as _, prost::Message as _};
use mortise_testkit::{Grant, TestHost};

use crate::guest::{Guest, METADATA, Text, WAITED};

fn text(text: &str) -> Vec<u8> {
    Text {
        text: text.to_owned(),
    }
    .encode_to_vec()
}

fn ask(host: &TestHost, method: &str, request: &str) -> String {
    let reply = host
        .call(&format!("testkit.v1.Guest/{method}"), &text(request))
        .unwrap();
    Text::decode(&*reply).unwrap().text
}

#[test]
fn the_metadata_is_current() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let protos = mortise_build::compile_protos(format!("{dir}/contract").as_ref()).unwrap();
    let manifest = std::fs::read_to_string(format!("{dir}/plugin.toml")).unwrap();
    let current = mortise_build::metadata(&manifest, &protos.descriptor_set)
        .unwrap()
        .encode_to_vec();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(format!("{dir}/guest.meta"), &current).unwrap();
    } else {
        assert!(
            METADATA == current,
            "tests/guest.meta is old; run this test with BLESS=1"
        );
    }
}

#[test]
fn data_outlives_the_host_where_the_test_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for expected in ["1", "2", "3"] {
        let host = TestHost::builder::<Guest>().data_dir(dir.path()).load();
        assert_eq!(ask(&host, "Count", "x"), expected);
    }
    assert_eq!(
        ask(&TestHost::load::<Guest>(), "Count", "x"),
        "1",
        "another host has data of its own"
    );
}

#[test]
fn what_is_not_granted_is_refused() {
    let error = TestHost::builder::<Guest>()
        .grant(Grant::default())
        .try_load()
        .unwrap_err();
    assert!(
        error.reasons().iter().any(|it| it.why.contains("`kv`")),
        "{error}"
    );
}

#[test]
fn a_plugin_that_does_not_start_says_why() {
    let error = TestHost::builder::<Guest>()
        .config_json(r#"{"refuse": true}"#)
        .try_load()
        .unwrap_err();
    assert!(error.to_string().contains("refuse is set"), "{error}");
}

#[test]
fn a_panic_fails_its_call_and_the_next_call_is_served() {
    let host = TestHost::load::<Guest>();
    let error = host.call("testkit.v1.Guest/Panic", &text("boom")).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    assert!(error.to_string().contains("boom"), "{error}");
    // A new instance is started; until then the host says that there is none.
    let served = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(20));
        host.call("testkit.v1.Guest/Count", &text("x"))
    });
    assert!(served.take(500).any(|it| it.is_ok()));
}

#[test]
fn a_deadline_answers_the_caller_and_tells_the_method() {
    let host = TestHost::builder::<Guest>()
        .deadline(Duration::from_millis(100))
        .load();
    let error = host.call("testkit.v1.Guest/Wait", &text("x")).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    // Ends because the method heard of it.
    while !WAITED.load(std::sync::atomic::Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

#[test]
fn a_nonblocking_method_may_not_wait_for_the_host() {
    let host = TestHost::load::<Guest>();
    let status = host
        .call_blocking("testkit.v1.Guest/Hurry", text("x"))
        .unwrap_err();
    assert_eq!(status.kind(), Code::FailedPrecondition);
}

#[test]
fn headers_reach_the_plugin() {
    let host = TestHost::builder::<Guest>().header("X-Tenant", "acme").load();
    assert_eq!(ask(&host, "Header", "x-tenant"), "acme");
}

#[test]
fn the_host_itself_is_there() {
    let host = TestHost::load::<Guest>();
    ask(&host, "Count", "x");
    let all = host.host().list();
    assert_eq!((all.len(), &*all[0].name, all[0].calls), (1, host.plugin(), 1));
}
