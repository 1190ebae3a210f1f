//! Five versions of one service, every pair of them, in every runtime: each call does what `tests/data/evolution.toml` says.
//!
//! The plugins give back the very bytes that they get, and tell them (`plugins/parcel-1`), so what is found in them is the host's work alone.

use mortise::{
    CallErrorKind, CallOptions, CallerContract, Code, Host, LoadRequest, Package, PluginCaller, RuntimeName,
    Source, Status, contract::Contract,
};
use mortise_e2e::{Daemon, package};
use prost_reflect::{DynamicMessage, MessageDescriptor, prost::Message as _};
use serde_json::{Value, json};

const SERVICE: &str = "mortise.test.parcel.v1.Parcels";
const VERSIONS: std::ops::RangeInclusive<usize> = 1..=5;

/// `[field 900, "outside"]`
const UNKNOWN: &[u8] = b"\xa2\x38\x07outside";
/// An addressee, field 5, with `[field 900, "inside"]` and nothing else: one more piece of the one that is there.
const UNKNOWN_INSIDE: &[u8] = b"\x2a\x09\xa2\x38\x06inside";

/// One version.
struct Version {
    contract: Contract,
    caller: CallerContract,
}

fn expected() -> toml::Table {
    include_str!("../data/evolution.toml").parse().unwrap()
}

fn versions() -> Vec<Version> {
    VERSIONS
        .map(|number| {
            let package = Package::open(package(&format!("parcel-{number}")).unwrap()).unwrap();
            Version {
                contract: (**package.contract()).clone(),
                caller: CallerContract::of_package(&package),
            }
        })
        .collect()
}

fn parcel(version: &Version) -> MessageDescriptor {
    version.contract.method(SERVICE, "Send").unwrap().input()
}

fn written(version: &Version, json: &str) -> Vec<u8> {
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(parcel(version), &mut json)
        .unwrap()
        .encode_to_vec()
}

fn read(version: &Version, bytes: &[u8]) -> Value {
    serde_json::to_value(DynamicMessage::decode(parcel(version), bytes).unwrap()).unwrap()
}

fn seen_bytes(version: &Version, reply: &[u8]) -> Vec<u8> {
    let reply =
        DynamicMessage::decode(version.contract.method(SERVICE, "Seen").unwrap().output(), reply).unwrap();
    reply
        .get_field_by_name("parcel")
        .unwrap()
        .as_bytes()
        .unwrap()
        .to_vec()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

async fn host_with_all(runtime: RuntimeName, adapter: RuntimeName) -> Host {
    let host = mortise::host().start().await.unwrap();
    let load = |folder: String, name: String, runtime| {
        let source = Source::folder(package(&folder).unwrap());
        host.load(
            LoadRequest::new(source)
                .name(name)
                .runtime(runtime)
                .trust_adapter(),
        )
    };
    load("parcel-adapter".to_owned(), "parcel-adapter".to_owned(), adapter)
        .await
        .unwrap();
    for number in VERSIONS {
        load(format!("parcel-{number}"), format!("parcel-{number}"), runtime)
            .await
            .unwrap_or_else(|it| panic!("{it} {:?}", it.reasons()));
    }
    host
}

async fn every_pair(runtime: RuntimeName, adapter: RuntimeName) {
    let (expected, versions) = (expected(), versions());
    let host = host_with_all(runtime, adapter).await;
    let mut cells = 0;
    for caller in VERSIONS {
        let name = format!("caller-{caller}");
        let version = &versions[caller - 1];
        let sent = expected["sent"][&name].as_str().unwrap();
        let mut bytes = written(version, sent);
        bytes.extend(UNKNOWN);
        if caller < 5 {
            bytes.extend(UNKNOWN_INSIDE);
        }
        for plugin in VERSIONS {
            let cell = format!("{runtime}: caller {caller}, plugin {plugin}");
            let verdict = expected["verdict"][&name][plugin - 1].as_str().unwrap();
            let call = |method: &str| {
                let options = CallOptions {
                    contract: Some(version.caller.clone()),
                    ..CallOptions::default()
                };
                let (host, payload) = (host.clone(), bytes.clone());
                let target = format!("plugin.parcel-{plugin}.{method}");
                async move { host.call(&target, payload.into(), options).await }
            };
            let (seen, back) = (call("Seen").await, call("Send").await);
            let detail = host.inspect(&format!("parcel-{plugin}")).unwrap();
            let own = version_name(caller);
            let planned = detail
                .adapted
                .iter()
                .find(|it| it.caller == own && it.method.ends_with("/Send"));
            let planned =
                planned.unwrap_or_else(|| panic!("{cell}: nothing planned in {:?}", detail.adapted));
            assert_eq!(planned.way, verdict, "{cell}: {planned:?}");
            cells += 1;
            if verdict == "refused" {
                for refused in [seen, back] {
                    let error = refused.unwrap_err();
                    assert_eq!(error.kind(), CallErrorKind::Incompatible, "{cell}: {error}");
                    let text = error.to_string();
                    assert!(
                        text.contains("`mortise.test.parcel.v1.Parcel.") && text.contains("FIELD_"),
                        "{cell}: {text}"
                    );
                    assert!(error.hint().unwrap().contains("[[adapt]]"), "{cell}");
                }
                continue;
            }
            let other = &versions[plugin - 1];
            let seen = seen_bytes(version, &seen.unwrap_or_else(|it| panic!("{cell}: {it}")));
            let back = back.unwrap_or_else(|it| panic!("{cell}: {it}"));
            let table = &expected["seen"][&name][&format!("plugin-{plugin}")];
            let expected_seen: Value = serde_json::from_str(table.as_str().unwrap()).unwrap();
            assert_eq!(read(other, &seen), expected_seen, "{cell}: what the plugin reads");
            let expected_back: Value = serde_json::from_str(sent).unwrap();
            assert_eq!(
                read(version, &back),
                expected_back,
                "{cell}: what the caller gets back"
            );
            if verdict == "same" || verdict == "passes" {
                assert_eq!(
                    (&seen, &back[..]),
                    (&bytes, &bytes[..]),
                    "{cell}: not a byte is touched"
                );
            }
            let kept = expected["unknown"][&name][plugin - 1].as_str().unwrap() == "kept";
            for part in [UNKNOWN, b"\xa2\x38\x06inside"]
                .iter()
                .take(if caller < 5 { 2 } else { 1 })
            {
                assert_eq!(contains(&seen, part), kept, "{cell}: unknown fields, there");
                assert_eq!(contains(&back, part), kept, "{cell}: unknown fields, back");
            }
        }
    }
    assert_eq!(cells, 25);
    host.shutdown().await;
}

fn version_name(number: usize) -> String {
    format!("parcel {number}.0.0")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_native() {
    every_pair(RuntimeName::Native, RuntimeName::Native).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_wasm() {
    every_pair(RuntimeName::Wasm, RuntimeName::Wasm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_process() {
    every_pair(RuntimeName::Process, RuntimeName::Process).await;
}

/// The clients that were generated of each version: messages in, messages out, and nothing said of contracts.
macro_rules! clients {
    ($($number:literal $name:ident),*) => {
        $(
            #[allow(clippy::pedantic, dead_code, unreachable_pub, reason = "generated")]
            mod $name {
                include!(concat!(env!("OUT_DIR"), "/parcel-", $number, "/mortise.rs"));
            }
        )*

        /// What the plugin got, and what it gave back.
        async fn typed(caller: usize, host: PluginCaller, sent: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Status> {
            match caller {
                $($number => {
                    let client = $name::ParcelsClient::new(host);
                    let parcel = $name::Parcel::decode(sent).unwrap();
                    let back = client.send(&parcel).await?.encode_to_vec();
                    Ok((client.seen(&parcel).await?.parcel, back))
                })*
                _ => unreachable!(),
            }
        }
    };
}

clients!(1 parcel_1, 2 parcel_2, 3 parcel_3, 4 parcel_4, 5 parcel_5);

#[tokio::test(flavor = "multi_thread")]
async fn generated_clients_know_what_they_were_built_against() {
    let (expected, versions) = (expected(), versions());
    let host = host_with_all(RuntimeName::Wasm, RuntimeName::Wasm).await;
    for caller in VERSIONS {
        let name = format!("caller-{caller}");
        let version = &versions[caller - 1];
        let sent = expected["sent"][&name].as_str().unwrap();
        let bytes = written(version, sent);
        for plugin in VERSIONS {
            let cell = format!("client {caller}, plugin {plugin}");
            let answered = typed(caller, host.plugin(&format!("parcel-{plugin}")), &bytes).await;
            let detail = host.inspect(&format!("parcel-{plugin}")).unwrap();
            // Callers of other cells are there too: of one contract each, and this is the newest.
            let ways: Vec<&str> = detail
                .adapted
                .iter()
                .filter(|it| it.caller == format!("a client of {SERVICE}") && it.method.ends_with("/Send"))
                .map(|it| it.way.as_str())
                .collect();
            let verdicts = VERSIONS.take(caller).map(|it| {
                expected["verdict"][format!("caller-{it}")][plugin - 1]
                    .as_str()
                    .unwrap()
            });
            assert_eq!(sorted(ways), sorted(verdicts.collect()), "{cell}");
            if expected["verdict"][&name][plugin - 1].as_str() == Some("refused") {
                let status = answered.unwrap_err();
                assert_eq!(status.kind(), Code::FailedPrecondition, "{cell}: {status}");
                assert!(
                    status.message.contains("mortise.test.parcel.v1.Parcel."),
                    "{cell}: {status}"
                );
                continue;
            }
            let (seen, back) = answered.unwrap_or_else(|it| panic!("{cell}: {it}"));
            let table = &expected["seen"][&name][&format!("plugin-{plugin}")];
            let expected_seen: Value = serde_json::from_str(table.as_str().unwrap()).unwrap();
            assert_eq!(read(&versions[plugin - 1], &seen), expected_seen, "{cell}");
            let expected_back: Value = serde_json::from_str(sent).unwrap();
            assert_eq!(read(version, &back), expected_back, "{cell}");
        }
    }
    host.shutdown().await;
}

fn sorted(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_caller_lives_through_swaps_of_the_contract() {
    let (expected, versions) = (expected(), versions());
    let host = mortise::host().start().await.unwrap();
    let load = |number: usize| {
        let source = Source::folder(package(&format!("parcel-{number}")).unwrap());
        host.load(LoadRequest::new(source).runtime(RuntimeName::Native))
    };
    load(1).await.unwrap();
    let bound = host.bind_with("plugin.parcel.Send", &versions[0].caller).unwrap();
    let sent = expected["sent"]["caller-1"].as_str().unwrap();
    let bytes = written(&versions[0], sent);
    let sent: Value = serde_json::from_str(sent).unwrap();
    for number in [1, 2, 3, 2] {
        load(number).await.unwrap();
        let mut reply = Vec::new();
        bound
            .call(&bytes, &mut reply)
            .unwrap_or_else(|it| panic!("{number}: {it}"));
        assert_eq!(read(&versions[0], &reply), sent, "version {number}");
    }
    load(5).await.unwrap();
    let mut reply = b"as it was".to_vec();
    let error = bound.call(&bytes, &mut reply).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Incompatible);
    assert_eq!(reply, b"as it was");
    let error = host
        .bind_with("plugin.parcel.Send", &versions[0].caller)
        .unwrap_err();
    assert_eq!(
        error.kind(),
        CallErrorKind::Incompatible,
        "refused when it is bound"
    );
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_does_not_fit_is_refused_by_its_name() {
    let versions = versions();
    let host = host_with_all(RuntimeName::Native, RuntimeName::Native).await;
    let heavy = written(&versions[2], r#"{"grams":"5000000000"}"#);
    let options = CallOptions {
        contract: Some(versions[2].caller.clone()),
        ..CallOptions::default()
    };
    let error = host
        .call("plugin.parcel-2.Send", heavy.into(), options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Incompatible);
    assert!(
        error
            .to_string()
            .contains("`mortise.test.parcel.v1.Parcel.grams` is 5000000000"),
        "{error}"
    );
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_missing_or_may_do_things_is_refused() {
    let versions = versions();
    let host = mortise::host().start().await.unwrap();
    let source = |folder: &str| Source::folder(package(folder).unwrap());
    host.load(LoadRequest::new(source("parcel-4")).runtime(RuntimeName::Native))
        .await
        .unwrap();
    let call = || {
        let options = CallOptions {
            contract: Some(versions[2].caller.clone()),
            ..CallOptions::default()
        };
        host.call("plugin.parcel.Send", Vec::new().into(), options)
    };
    let error = call().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert!(error.to_string().contains("Split/Up"), "{error}");
    assert!(error.hint().unwrap().contains("load the adapter plugin"));
    // The same functions in a plugin that does not say it is pure.
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(package("parcel-adapter").unwrap()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let manifest = folder.path().join("plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("pure = true"), "{text}");
    std::fs::write(&manifest, text.replace("pure = true", "")).unwrap();
    let load = |source, runtime| host.load(LoadRequest::new(source).runtime(runtime));
    load(Source::folder(folder.path()), RuntimeName::Wasm)
        .await
        .unwrap();
    let error = call().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Incompatible);
    assert!(
        error.to_string().contains("does not say `pure = true`"),
        "{error}"
    );
    // It says so, and there is only its author's word for it.
    for runtime in [RuntimeName::Native, RuntimeName::Process] {
        load(source("parcel-adapter"), runtime).await.unwrap();
        let error = call().await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Incompatible, "{runtime}");
        assert!(
            error.hint().unwrap().contains("trust_adapter"),
            "{runtime}: {error}"
        );
        host.load(
            LoadRequest::new(source("parcel-adapter"))
                .runtime(runtime)
                .trust_adapter(),
        )
        .await
        .unwrap();
        call().await.unwrap();
    }
    load(source("parcel-adapter"), RuntimeName::Wasm).await.unwrap();
    call().await.unwrap();
    host.shutdown().await;
}

#[test]
fn json_callers_name_their_version() {
    let source = package("parcel-3").unwrap();
    let daemon = Daemon::start(&format!("[[plugin]]\nsource = {source:?}\nruntime = \"wasm\"\n")).unwrap();
    let parcel = json!({"id": "a", "grams": 7, "zip": "8000"}).to_string();
    let send = |version: &str| {
        let header = format!("x-mortise-contract={version}");
        let arguments = [
            "call", "parcel", "Send", "--json", &parcel, "--header", &header, "--output", "json",
        ];
        daemon.run(&arguments).unwrap()
    };
    let output = send("2.0.0");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reply, json!({"id": "a", "grams": 7, "zip": "8000"}));
    let output = daemon
        .run(&["call", "parcel", "Send", "--json", &parcel, "--output", "json"])
        .unwrap();
    assert!(!output.status.success(), "version 3 has no `zip`");
    let output = send("1.5.0");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        told.contains("does not know the contract of version `1.5.0`; it knows `2.0.0`, `3.0.0`"),
        "{told}"
    );
    let shown = daemon.run(&["inspect", "parcel", "--output", "json"]).unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["adapts"], json!(["2.0.0 -> 3.0.0"]));
    assert_eq!(shown["adapted"][0]["way"], "adapted", "{shown}");
}

#[test]
fn the_difference_of_two_packages_is_told() {
    let [two, three, five] = [2, 3, 5].map(|it| package(&format!("parcel-{it}")).unwrap());
    let diff = |old: &std::path::Path, new: &std::path::Path, form: &str| {
        let mut command = std::process::Command::new(mortise_e2e::mortise().unwrap());
        command
            .args(["contract", "diff"])
            .arg(old)
            .arg(new)
            .args(["--output", form]);
        command.output().unwrap()
    };
    let output = diff(&two, &three, "json");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &report["methods"][2];
    assert_eq!(
        (&row["method"], &row["caller"]),
        (&json!(format!("{SERVICE}/Send")), &json!("old"))
    );
    assert_eq!(
        (&row["way"], &row["via"]),
        (&json!("adapted"), &json!(["2.0.0", "3.0.0"])),
        "{report}"
    );
    assert!(
        row["changes"]
            .to_string()
            .contains("`mortise.test.parcel.v1.Parcel.zip` becomes `mortise.test.parcel.v1.Parcel.postcode`"),
        "{row}"
    );
    let output = diff(&two, &five, "text");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("FIELD_WIRE_COMPATIBLE_TYPE") && text.contains("docs/evolution.md"),
        "{text}"
    );
}

#[test]
fn a_check_against_an_older_version_tells_every_rule_and_what_becomes_of_it() {
    let check = |path: &std::path::Path, old: &std::path::Path, form: &str| {
        let mut command = std::process::Command::new(mortise_e2e::mortise().unwrap());
        command
            .arg("check")
            .arg(path)
            .arg("--against")
            .arg(old)
            .args(["--output", form]);
        command.output().unwrap()
    };
    let plugins = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let rules = |output: &std::process::Output| -> Vec<Value> {
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|it| panic!("{it}: {}", String::from_utf8_lossy(&output.stderr)));
        report["against"]["rules"].as_array().unwrap().clone()
    };
    let at = |rules: &[Value], path: &str, rule: &str| -> Value {
        let found = rules.iter().find(|it| it["path"] == path && it["rule"] == rule);
        found
            .unwrap_or_else(|| panic!("no {rule} at {path} in {rules:?}"))
            .clone()
    };
    // A package against a package, a source folder against a descriptor set and against a .proto file: the same rules.
    let [two, three] = [2, 3].map(|it| package(&format!("parcel-{it}")).unwrap());
    for (new, old) in [
        (three.clone(), two.clone()),
        (plugins.join("parcel-3"), two.join("contract.binpb")),
        (
            plugins.join("parcel-3"),
            plugins.join("parcel-2/contract/parcel.proto"),
        ),
    ] {
        let output = check(&new, &old, "json");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let rules = rules(&output);
        let wider = at(
            &rules,
            "mortise.test.parcel.v1.Parcel.grams",
            "FIELD_WIRE_JSON_COMPATIBLE_TYPE",
        );
        assert_eq!(wider["verdict"], "adapted", "{wider}");
        assert!(wider["how"].to_string().contains("is converted"), "{wider}");
        assert!(rules.iter().all(|it| it["verdict"] != "refused"), "{rules:?}");
    }
    let text = String::from_utf8_lossy(&check(&three, &two, "text").stdout).into_owned();
    assert!(
        text.contains("FIELD_WIRE_JSON_COMPATIBLE_TYPE") && text.contains("adapted via 2.0.0 -> 3.0.0"),
        "{text}"
    );
    let output = check(&plugins.join("parcel-5"), &two, "json");
    assert_eq!(output.status.code(), Some(1));
    let rules = rules(&output);
    let refused = at(
        &rules,
        "mortise.test.parcel.v1.Parcel.id",
        "FIELD_WIRE_JSON_COMPATIBLE_TYPE",
    );
    assert_eq!(refused["verdict"], "refused", "{refused}");
    // What does not fit is a fault of the source folder, before anything is built.
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str| {
        let to = folder.path().join(from);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(plugins.join("parcel-3").join(from), to).unwrap();
    };
    for file in [
        "Cargo.toml",
        "build.rs",
        "contract/parcel.proto",
        "contract-2.0.0.binpb",
    ] {
        copy(file);
    }
    let manifest = std::fs::read_to_string(plugins.join("parcel-3/plugin.toml")).unwrap();
    std::fs::write(
        folder.path().join("plugin.toml"),
        manifest.replace("zip = \"postcode\"", "zip = \"postbox\""),
    )
    .unwrap();
    let output = check(folder.path(), &two, "text");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("has no field `postbox`"), "{text}");
}
