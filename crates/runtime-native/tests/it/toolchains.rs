//! Plugins of other compilers: the same source, built by every Rust compiler of this machine, in one host at once. No two of them share a
//! standard library, an allocator or a layout; what they share is the C ABI and the contract.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, Digest, EndCause, Instance, InstanceId, MethodIndex, PluginId, Runtime, Start,
};
use mortise_wire::Metadata;

use crate::bench::{Bench, LONG, context, root};

/// `rustc -vV`, as the compiler's identity, and its path.
fn compilers() -> BTreeMap<String, PathBuf> {
    let output = |command: &mut Command| {
        let output = command.output().ok().filter(|it| it.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let toolchains = output(Command::new("rustup").args(["toolchain", "list", "-q"])).unwrap_or_default();
    let of_rustup = toolchains.lines().filter_map(|name| {
        output(Command::new("rustup").args(["which", "--toolchain", name, "rustc"]))
            .map(|it| PathBuf::from(it.trim()))
    });
    let of_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("rustc"))
        // A proxy of rustup's is not a compiler but a choice between those above.
        .filter(|it| {
            it.canonicalize()
                .is_ok_and(|real| real.file_name().is_some_and(|name| name != "rustup"))
        })
        .collect::<Vec<_>>();
    of_rustup
        .chain(of_path)
        .filter_map(|path| {
            Some((
                output(Command::new(&path).env_remove("RUSTUP_TOOLCHAIN").arg("-vV"))?,
                path,
            ))
        })
        .collect()
}

/// Builds `plugins/echo` with this compiler, or says why it cannot.
fn build(compiler: &Path, identity: &str) -> Result<Bytes, String> {
    let version = identity
        .lines()
        .find_map(|it| it.strip_prefix("release: "))
        .unwrap_or("unknown");
    let target = root().join(format!("target/plugins-{version}"));
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--lib", "--locked", "--manifest-path"])
        .arg(root().join("plugins/echo/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC", compiler)
        // Not what this test measures, and most of the time.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .output()
        .map_err(|why| why.to_string())?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned());
    }
    let library = target.join(format!(
        "release/{}echo{}",
        env::consts::DLL_PREFIX,
        env::consts::DLL_SUFFIX
    ));
    std::fs::read(&library)
        .map(Bytes::from)
        .map_err(|why| format!("{}: {why}", library.display()))
}

struct Loaded {
    identity: String,
    metadata: Metadata,
    echo: Box<dyn Instance>,
}

async fn load(bench: &Bench, identity: String, bytes: Bytes) -> Loaded {
    let artifact = |contract| Artifact {
        plugin: PluginId {
            name: "echo".into(),
            version: semver::Version::new(1, 0, 0),
        },
        runtime: RuntimeName::Native,
        digest: Digest::of(&bytes),
        bytes: bytes.clone(),
        path: None,
        dialect: None,
        contract,
    };
    let provides = ["mortise.test.v1.Echo", "mortise.test.v1.Streams"].map(str::to_owned);
    let protos = mortise_build::compile_protos(&root().join("plugins/echo/contract")).unwrap();
    let contract = Arc::new(Contract::from_descriptor_set(&protos.descriptor_set, &provides).unwrap());
    let artifact = artifact(contract);
    let metadata = bench.runtime.read_metadata(&artifact).unwrap();
    let verified = artifact.verify(metadata.clone()).unwrap();
    let prepared = bench.runtime.prepare(&verified, &Grant::default()).await.unwrap();
    let start = Start {
        instance: InstanceId("echo@1.0.0#1".into()),
        limits: Limits::default(),
        config_json: "{}".into(),
        services: bench.host.clone(),
        pure: false,
    };
    Loaded {
        identity,
        metadata,
        echo: bench.runtime.start(prepared, start).await.unwrap(),
    }
}

impl Loaded {
    async fn call(&self, name: &str, request: &[u8]) -> Result<Bytes, mortise_runtime::CallError> {
        let index = self
            .metadata
            .methods
            .iter()
            .position(|it| it.name == name)
            .unwrap();
        let method = MethodIndex(u32::try_from(index).unwrap());
        self.echo
            .call()
            .unwrap()
            .call(&context(LONG), method, Bytes::copy_from_slice(request))
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_of_every_compiler_run_side_by_side() {
    let bench = Bench::new();
    let compilers = compilers();
    if compilers.len() < 2 {
        println!(
            "skipped: needs a second Rust compiler (`rustup toolchain list` and the PATH show {})",
            compilers.len()
        );
    }
    let mut loaded = Vec::new();
    for (identity, path) in compilers {
        let bytes = build(&path, &identity).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        println!("built with {}", identity.lines().next().unwrap_or_default());
        loaded.push(load(&bench, identity, bytes).await);
    }
    for it in &loaded {
        // Echo: two fields, byte for byte. Reverse: text. Count: state of its own.
        assert_eq!(
            it.call("Echo", b"\x0a\x02hi\x12\x01!").await.unwrap(),
            &b"\x0a\x02hi\x12\x01!"[..],
            "{}",
            it.identity
        );
        assert_eq!(
            it.call("Reverse", b"\x0a\x03abc").await.unwrap(),
            &b"\x0a\x03cba"[..],
            "{}",
            it.identity
        );
        assert_eq!(
            it.call("Count", b"").await.unwrap(),
            &b"\x08\x01"[..],
            "{}",
            it.identity
        );
    }
    // One after the other panics; those that have not yet go on.
    for (index, it) in loaded.iter().enumerate() {
        let error = it.call("Panic", b"\x0a\x04boom").await.unwrap_err();
        assert!(
            error.to_string().contains("panicked: boom at"),
            "{}: {error}",
            it.identity
        );
        assert!(matches!(it.echo.ended().await, EndCause::Panicked(why) if why.starts_with("boom at")));
        for other in &loaded[index + 1..] {
            other.call("Reverse", b"").await.unwrap();
        }
    }
    for it in &loaded {
        assert_eq!(it.echo.stop(LONG).await.forced, None, "{}", it.identity);
    }
}
