//! Guests that real compilers made: C and AssemblyScript on the core ABI, Rust through the SDK as a component.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use mortise_contract::Contract;
use mortise_runtime::{CallErrorKind, Instance, Runtime};
use mortise_runtime_wasm::Reuse;
use mortise_wire::Code;
use prost::Message;

use crate::{
    guests::with_metadata,
    world::{Services, artifact, call, runtime_with, start_verified},
};

/// `upper.v1.UpperRequest` and `UpperReply`.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn found(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
}

/// Compiles; the compiler's own words if it does not.
fn run(command: &mut Command) {
    let output = command.output().expect("the compiler starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Loads `wasm` as the plugin in `plugins/{name}`, with its own manifest and contract, and calls it.
async fn uppercases(name: &str, wasm: Vec<u8>) {
    let plugin = root().join("plugins").join(name);
    let manifest = fs::read_to_string(plugin.join("plugin.toml")).expect("it has a manifest");
    let set = protox::compile(["upper.proto"], [plugin.join("contract")])
        .expect("the contract compiles")
        .encode_to_vec();
    let metadata = mortise_build::metadata(&manifest, &set).expect("they agree");
    let mut artifact = artifact(with_metadata(wasm, &metadata));
    artifact.plugin.name = name.into();
    artifact.contract =
        Arc::new(Contract::from_descriptor_set(&set, &["upper.v1.Upper".to_owned()]).expect("it links"));
    for reuse in [Reuse::Ephemeral, Reuse::WARM] {
        let runtime = runtime_with(|it| it.reuse = reuse);
        let read = runtime.read_metadata(&artifact).expect("the section is there");
        let verified = artifact.clone().verify(read).expect("it tells the truth");
        let (instance, services) = start_verified(&runtime, &verified).await.expect("it starts");
        answers(&*instance, &services).await;
        assert_eq!(instance.stop(Duration::from_secs(5)).await.forced, None);
    }
}

async fn answers(instance: &dyn Instance, services: &Services) {
    assert!(instance.health().await.expect("it answers").serving);
    for (text, expected) in [
        ("", "".to_owned()),
        ("größer, Straße 7", "GRößER, STRAßE 7".to_owned()),
        (&"ab".repeat(100_000), "AB".repeat(100_000)),
    ] {
        let mut request = Text {
            text: text.to_owned(),
        }
        .encode_to_vec();
        // Fields 2 and 3 of a later version.
        request.extend([0x10, 0x96, 0x01, 0x1a, 0x02, b'h', b'i']);
        for _ in 0..3 {
            let reply = call(instance, 0, request.clone()).await.expect("it answers");
            assert_eq!(Text::decode(reply).expect("a message").text, expected);
        }
    }
    for nonsense in [
        &b"\x0a\x7fshort"[..],
        b"\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let error = call(instance, 0, nonsense.to_vec())
            .await
            .expect_err("it is no request");
        assert_eq!(
            (error.kind(), error.status().kind()),
            (CallErrorKind::Returned, Code::InvalidArgument)
        );
    }
    let logs = services.logs.lock().expect("no test panics while it holds it");
    assert_eq!(
        (logs[0].0.target.as_str(), logs[0].0.message.as_str()),
        ("upper", "started")
    );
}

#[tokio::test]
async fn c_on_the_core_abi() {
    let Some(clang) = ["clang-14", "clang"].into_iter().find(|it| found(it)) else {
        println!("skipped: needs clang-14");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let wasm = dir.path().join("plugin.wasm");
    run(Command::new(clang)
        .args([
            "--target=wasm32",
            "-O2",
            "-ffreestanding",
            "-fno-builtin",
            "-nostdlib",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        .args(["-Wl,--no-entry", "-o"])
        .arg(&wasm)
        .arg(root().join("plugins/upper-c-wasm/plugin.c")));
    uppercases("upper-c-wasm", fs::read(wasm).expect("it was written")).await;
}

#[tokio::test]
async fn assemblyscript_on_the_core_abi() {
    let asc = root().join("target/npm/node_modules/assemblyscript/bin/asc.js");
    if !asc.exists() || !found("node") {
        println!("skipped: needs npm package assemblyscript (cargo xtask setup installs it)");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let wasm = dir.path().join("plugin.wasm");
    run(Command::new("node")
        .arg(&asc)
        .args([
            "assembly/index.ts",
            "-O",
            "--runtime",
            "incremental",
            "--use",
            "abort=",
            "--outFile",
        ])
        .arg(&wasm)
        .current_dir(root().join("plugins/upper-as")));
    uppercases("upper-as", fs::read(wasm).expect("it was written")).await;
}

#[tokio::test]
async fn rust_through_the_sdk_as_a_component() {
    let core = root().join("target/plugins/wasm32-unknown-unknown/release/echo.wasm");
    let Ok(core) = fs::read(core) else {
        println!(
            "skipped: needs plugins/echo built for wasm32-unknown-unknown (cargo xtask guests builds it)"
        );
        return;
    };
    let component = mortise_build::componentize(&core).expect("it is of the world `plugin`");
    let runtime = runtime_with(|_| {});
    let mut artifact = artifact(component);
    let metadata = runtime
        .read_metadata(&artifact)
        .expect("it carries its metadata outside");
    assert_eq!(metadata.name, "echo");
    artifact.plugin.name = metadata.name.as_str().into();
    artifact.plugin.version = metadata.version.parse().expect("a version");
    let provides = ["mortise.test.v1.Echo", "mortise.test.v1.Streams"].map(str::to_owned);
    artifact.contract =
        Arc::new(Contract::from_descriptor_set(&metadata.descriptor_set, &provides).expect("it links"));
    let method = |name: &str| {
        metadata
            .methods
            .iter()
            .position(|it| it.name == name)
            .unwrap_or_else(|| panic!("it has {name}")) as u32
    };
    let (echo, panics, spin) = (method("Echo"), method("Panic"), method("Spin"));
    let verified = artifact.verify(metadata).expect("it tells the truth");
    let (instance, services) = start_verified(&runtime, &verified).await.expect("it starts");
    assert!(instance.health().await.expect("it answers").serving);
    let request = Text {
        text: "größer".to_owned(),
    }
    .encode_to_vec();
    assert_eq!(
        call(&*instance, echo, request.clone()).await.expect("it echoes"),
        request
    );
    let error = call(
        &*instance,
        panics,
        Text {
            text: "boom".to_owned(),
        }
        .encode_to_vec(),
    )
    .await
    .expect_err("it panics");
    let told = services
        .logs
        .lock()
        .expect("no test panics while it holds it")
        .iter()
        .any(|it| it.0.message.contains("boom"));
    assert!(
        told || error.to_string().contains("boom"),
        "the panic's own words are not lost: {error}"
    );
    let error = crate::world::call_within(&*instance, spin, "", Duration::from_millis(100))
        .await
        .expect_err("it spins");
    assert_eq!(error.kind(), CallErrorKind::Deadline, "{error}");
    let reply = call(&*instance, echo, request.clone())
        .await
        .expect("it echoes still");
    assert_eq!(reply, request);
}
