//! Artifacts that are refused before anything of them runs.

use std::sync::LazyLock;

use mortise_manifest::Grant;
use mortise_runtime::{Runtime, RuntimeError, RuntimeErrorKind};
use mortise_runtime_wasm::WasmRuntime;
use proptest::prelude::*;
use prost::Message;

use crate::{
    guests::{self, ALL, Abi, Guest},
    world::{artifact, refused, runtime, runtime_with, verified},
};

async fn prepare(runtime: &WasmRuntime, bytes: Vec<u8>) -> RuntimeError {
    refused(runtime.prepare(&verified(bytes), &Grant::default()).await)
}

#[tokio::test]
async fn an_import_beyond_the_fixed_world_is_named() {
    let runtime = runtime();
    for abi in ALL {
        let import = r#"(import "env" "abort" (func $abort))"#;
        let core = Guest {
            abi: Abi::Core,
            extra_import: import,
            ..Guest::new(abi)
        }
        .build();
        let error = prepare(&runtime, core).await;
        assert_eq!(error.kind(), RuntimeErrorKind::MissingImport);
        assert!(error.to_string().contains("`env.abort`"), "{error}");
    }
    let wasi = wat::parse_str(
        r#"(component
            (import "wasi:cli/environment@0.2.3" (instance))
            (import "mortise:plugin/host@1.0.0" (instance))
            (import "wasi:sockets/tcp@0.2.3" (instance)))"#,
    )
    .expect("it is a component");
    let error = prepare(&runtime, wasi).await;
    assert_eq!(error.kind(), RuntimeErrorKind::MissingImport);
    let text = error.to_string();
    assert!(
        text.contains("`wasi:cli/environment@0.2.3`, `wasi:sockets/tcp@0.2.3`; a plugin may import"),
        "{text}"
    );
    assert!(
        error.hint().contains("wasm32-unknown-unknown"),
        "{}",
        error.hint()
    );
}

#[tokio::test]
async fn an_import_of_the_wrong_type_is_named() {
    let runtime = runtime();
    let core = r#"(module (import "mortise" "log" (func (param i64)))
        (memory (export "memory") 1)
        (func (export "mortise_alloc") (param i32) (result i32) unreachable)
        (func (export "mortise_free") (param i32 i32))
        (func (export "mortise_invoke") (param i32 i32 i32 i32 i32) (result i32) unreachable))"#;
    let error = prepare(&runtime, wat::parse_str(core).expect("it parses")).await;
    assert_eq!(error.kind(), RuntimeErrorKind::MissingImport);
    assert!(error.to_string().contains("mortise::log"), "{error}");
    let component = r#"(component
        (import "mortise:plugin/host@1.0.0" (instance (export "shutdown" (func))))
        (instance $guest) (export "mortise:plugin/guest@1.0.0" (instance $guest)))"#;
    let error = prepare(&runtime, wat::parse_str(component).expect("it parses")).await;
    assert_eq!(error.kind(), RuntimeErrorKind::MissingImport);
    assert!(error.to_string().contains("shutdown"), "{error}");
}

#[tokio::test]
async fn exports_that_are_missing_or_wrong_are_named() {
    let runtime = runtime();
    let error = prepare(&runtime, b"\0asm\x01\0\0\0".to_vec()).await;
    assert_eq!(error.kind(), RuntimeErrorKind::AbiMismatch);
    assert!(
        error
            .to_string()
            .contains("`memory`, `mortise_alloc`, `mortise_free`, `mortise_invoke`"),
        "{error}"
    );
    let error = prepare(&runtime, wat::parse_str("(component)").expect("it parses")).await;
    assert!(
        error.to_string().contains("`mortise:plugin/guest@1.0.0`"),
        "{error}"
    );
    let component =
        r#"(component (instance $guest) (export "mortise:plugin/guest@1.0.0" (instance $guest)))"#;
    let error = prepare(&runtime, wat::parse_str(component).expect("it parses")).await;
    assert_eq!(error.kind(), RuntimeErrorKind::AbiMismatch);
    assert!(
        error.to_string().contains("health, invoke, start, stop"),
        "{error}"
    );
    let core = r#"(module (memory (export "memory") 1)
        (func (export "mortise_alloc") (param i32) (result i32) unreachable)
        (func (export "mortise_free") (param i32 i32))
        (func (export "mortise_invoke") (param i32 i32 i32) (result i32) unreachable))"#;
    let error = prepare(&runtime, wat::parse_str(core).expect("it parses")).await;
    assert_eq!(error.kind(), RuntimeErrorKind::AbiMismatch);
    assert!(error.to_string().contains("must take 5"), "{error}");
}

#[tokio::test]
async fn what_is_no_webassembly_is_called_by_its_name() {
    let runtime = runtime();
    let mut exe = std::fs::read(std::env::current_exe().expect("it has a path")).expect("it can be read");
    // The whole of it is larger than an artifact may be.
    exe.truncate(1 << 16);
    for (bytes, expected) in [
        (Vec::new(), "empty"),
        (exe, if cfg!(target_os = "linux") { "ELF" } else { "" }),
        (b"MZ\x90\0\x03\0\0\0 and more".to_vec(), "Windows"),
        (b"(module)".to_vec(), "text"),
    ] {
        let error = prepare(&runtime, bytes.clone()).await;
        assert_eq!(error.kind(), RuntimeErrorKind::NotAPlugin);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(
            refused(runtime.read_metadata(&artifact(bytes))).kind(),
            RuntimeErrorKind::NotAPlugin
        );
    }
    let error = prepare(&runtime, b"\0asm\x02\0\0\0".to_vec()).await;
    assert_eq!(error.kind(), RuntimeErrorKind::AbiMismatch);
    assert!(error.to_string().contains("`02 00 00 00`"), "{error}");
}

#[tokio::test]
async fn compiled_code_from_elsewhere_is_refused() {
    let runtime = runtime();
    let engine = wasmtime::Engine::default();
    for abi in ALL {
        let wasm = Guest::new(abi).build();
        let compiled = match abi {
            Abi::Component | Abi::Wrapped => engine.precompile_component(&wasm),
            Abi::Core => engine.precompile_module(&wasm),
        };
        let error = prepare(&runtime, compiled.expect("it compiles")).await;
        assert_eq!(error.kind(), RuntimeErrorKind::NotAPlugin, "{abi:?}: {error}");
        assert!(error.to_string().contains(".cwasm"), "{error}");
    }
}

#[tokio::test]
async fn proposals_that_plugins_may_not_use_do_not_compile() {
    let runtime = runtime();
    for extra in [
        "(memory $shared 1 1 shared)",
        "(memory i64 1)",
        "(type $s (struct (field i32)))",
        "(tag $t)",
    ] {
        let error = prepare(
            &runtime,
            Guest {
                extra,
                ..Guest::new(Abi::Core)
            }
            .build(),
        )
        .await;
        assert_eq!(error.kind(), RuntimeErrorKind::Malformed, "{extra}: {error}");
    }
}

#[tokio::test]
async fn size_is_bounded_before_anything_is_compiled() {
    let guest = Guest::new(Abi::Core).build();
    let runtime = runtime_with(|it| it.artifact_bytes_max = guest.len() - 1);
    assert_eq!(
        prepare(&runtime, guest.clone()).await.kind(),
        RuntimeErrorKind::Exhausted
    );
    let runtime = runtime_with(|it| it.functions_max = 3);
    let error = prepare(&runtime, guest).await;
    assert_eq!(error.kind(), RuntimeErrorKind::Exhausted);
    assert!(error.to_string().contains("functions"), "{error}");
}

#[test]
fn metadata_is_read_from_the_outer_level_first() {
    let runtime = runtime();
    let name = |bytes: Vec<u8>| runtime.read_metadata(&artifact(bytes)).map(|it| it.name);
    let core = |name: &str| {
        let plain = wat::parse_str("(module)").expect("it parses");
        guests::with_metadata(plain, &guests::metadata(name))
    };
    assert_eq!(name(core("core")).expect("a core module has it"), "core");
    // A component with a nested module that says something else.
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    let nested = core("nested");
    component.push(1);
    prost::encoding::encode_varint(nested.len() as u64, &mut component);
    component.extend(&nested);
    assert_eq!(name(component.clone()).expect("the nested one counts"), "nested");
    let outer = guests::with_metadata(component, &guests::metadata("outer"));
    assert_eq!(name(outer.clone()).expect("the outer one counts"), "outer");

    let twice = refused(name(guests::with_metadata(outer, &guests::metadata("other"))));
    assert_eq!(twice.kind(), RuntimeErrorKind::Tampered);
    let none = refused(name(b"\0asm\x01\0\0\0".to_vec()));
    assert_eq!(none.kind(), RuntimeErrorKind::NotAPlugin);
    let garbage = refused(name(guests::with_section(
        b"\0asm\x01\0\0\0".to_vec(),
        "mortise",
        &[0xff; 9],
    )));
    assert_eq!(garbage.kind(), RuntimeErrorKind::Malformed);
}

#[test]
fn metadata_that_lies_is_found_out() {
    let runtime = runtime();
    let mut lies = guests::metadata("somebody-else");
    lies.version = "9.9.9".to_owned();
    lies.contract_hash[0] ^= 1;
    lies.methods[0].name = "Format".to_owned();
    let artifact = artifact(guests::with_metadata(
        wat::parse_str("(module)").expect("it parses"),
        &lies,
    ));
    let metadata = runtime.read_metadata(&artifact).expect("it can be read");
    let refusals = artifact.verify(metadata).expect_err("it lies");
    assert_eq!(refusals.len(), 4, "{refusals:?}");
}

static COMPONENT: LazyLock<Vec<u8>> = LazyLock::new(|| Guest::new(Abi::Component).build());
static CORE: LazyLock<Vec<u8>> = LazyLock::new(|| Guest::new(Abi::Core).build());
static RUNTIME: LazyLock<WasmRuntime> = LazyLock::new(runtime);

/// Reads and prepares what may be anything: it must end in an answer.
fn survive(bytes: Vec<u8>) {
    let (runtime, artifact) = (&*RUNTIME, artifact(bytes));
    if let Ok(metadata) = runtime.read_metadata(&artifact) {
        let _ = metadata.encode_to_vec();
    }
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an executor");
    let _ = executor.block_on(async {
        runtime
            .prepare(&verified(artifact.bytes.to_vec()), &Grant::default())
            .await
    });
}

#[test]
fn every_truncation_is_refused_with_an_answer() {
    for whole in [&*COMPONENT, &*CORE] {
        for end in (0..whole.len()).step_by(7) {
            survive(whole[..end].to_vec());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_get_an_answer(header in 0..3_usize, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let header: &[u8] = [b"".as_slice(), b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"][header];
        survive([header, &tail].concat());
    }

    #[test]
    fn any_damage_gets_an_answer(component: bool, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = if component { COMPONENT.clone() } else { CORE.clone() };
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survive(bytes);
    }
}
