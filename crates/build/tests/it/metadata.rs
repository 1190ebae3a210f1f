//! The metadata, for Rust plugins and for those of other languages.

use std::{fs, process::Command};

use mortise_build::{BuildError, compile_protos, metadata, write_c};
use mortise_contract::Contract;
use mortise_wire::{METHOD_IDEMPOTENT, METHOD_NONBLOCKING, Metadata};
use prost::Message as _;

use crate::{CONTRACT, MANIFEST, builder, source};

fn of(manifest: &str, contract: &str) -> Result<Metadata, BuildError> {
    let source = source(manifest, contract);
    let protos = compile_protos(&source.path().join("contract"))?;
    metadata(manifest, &protos.descriptor_set)
}

#[test]
fn it_says_what_the_host_will_compare() {
    let metadata = of(MANIFEST, CONTRACT).expect("a good plugin");
    assert_eq!(
        (&*metadata.name, &*metadata.version, metadata.api),
        ("greeter", "1.2.3", 1)
    );
    assert_eq!(metadata.manifest, MANIFEST.as_bytes());
    let methods: Vec<_> = metadata
        .methods
        .iter()
        .map(|it| (&*it.service, &*it.name, it.flags))
        .collect();
    assert_eq!(
        methods,
        [
            ("acme.v1.Greeter", "Bye", METHOD_IDEMPOTENT),
            ("acme.v1.Greeter", "Greet", METHOD_NONBLOCKING)
        ],
        "sorted, and of the provided service only"
    );
    let provides = ["acme.v1.Greeter".to_owned()];
    let contract = Contract::from_descriptor_set(&metadata.descriptor_set, &provides).expect("it links");
    assert_eq!(metadata.contract_hash, contract.hash());
    for (told, counted) in metadata.methods.iter().zip(contract.methods()) {
        assert_eq!(told.wire_hash, counted.wire_hash());
        assert_eq!(told.full_hash, counted.full_hash());
    }
}

#[test]
fn the_descriptors_have_no_comments_and_keep_the_custom_options() {
    let metadata = of(MANIFEST, CONTRACT).expect("a good plugin");
    let contains = |text: &str| {
        metadata
            .descriptor_set
            .windows(text.len())
            .any(|it| it == text.as_bytes())
    };
    assert!(contains("acme/type/name.proto") && contains("mortise/options.proto"));
    assert!(!contains("Says hello"), "comments are for the generated code");
    // Field 50774 (nonblocking), a varint: lost if the set goes through prost's own types.
    assert!(
        metadata
            .descriptor_set
            .windows(4)
            .any(|it| it == [0xb0, 0xe5, 0x18, 0x01])
    );
}

#[test]
fn what_build_rs_writes_is_the_same() {
    let source = source(MANIFEST, CONTRACT);
    builder(source.path()).compile().expect("a good plugin");
    let written = fs::read(source.path().join("out/mortise.meta")).expect("it was written");
    assert_eq!(
        Metadata::decode(&*written).expect("metadata"),
        of(MANIFEST, CONTRACT).expect("a good plugin")
    );
    let constants =
        fs::read_to_string(source.path().join("out/mortise_metadata.rs")).expect("it was written");
    assert!(constants.starts_with(
        "::mortise_sdk::guest::Build { name: \"greeter\", version: \"1.2.3\", methods: 2, concurrency: 7,"
    ));
}

#[test]
fn a_c_compiler_puts_it_into_the_section_byte_for_byte() {
    let metadata = of(MANIFEST, CONTRACT).expect("a good plugin");
    let dir = tempfile::tempdir().expect("a folder");
    let text = write_c(&metadata);
    assert!(
        text.contains("#define MT_METHOD_ACME_V1_GREETER_GREET 1u"),
        "{text}"
    );
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include");
    let (source, object, section) = (
        dir.path().join("m.c"),
        dir.path().join("m.o"),
        dir.path().join("section"),
    );
    fs::write(&source, format!("#include \"mortise.h\"\n{text}")).expect("a file");
    let run = |command: &mut Command| {
        let output = command.output().expect("the C tools are installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(Command::new("cc")
        .args(["-Wall", "-Werror", "-c", "-I", include])
        .arg(&source)
        .arg("-o")
        .arg(&object));
    let dump = format!("--dump-section=.mortise={}", section.display());
    run(Command::new("objcopy").arg(dump).arg(&object));
    assert_eq!(fs::read(section).expect("the section"), metadata.encode_to_vec());
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let unknown = MANIFEST.replace("acme.v1.Greeter", "acme.v1.Gretter");
    let streams = CONTRACT.replace(
        "rpc Bye(acme.type.Name) returns (GreetReply) { option (mortise.idempotent)",
        "rpc Bye(acme.type.Name) returns (stream GreetReply) { option (mortise.nonblocking)",
    );
    let version = MANIFEST.replace("1.2.3", "one");
    let typo = CONTRACT.replace(
        "returns (GreetReply) { option (mortise.nonblocking)",
        "returns (GretReply) { option (mortise.nonblocking)",
    );
    for (manifest, contract, parts) in [
        (&*unknown, CONTRACT, &["acme.v1.Gretter"][..]),
        (
            MANIFEST,
            &streams,
            &["acme.v1.Greeter/Bye", "streams", "nonblocking"],
        ),
        (&version, CONTRACT, &["plugin.toml:4:", "one"]),
        (MANIFEST, &typo, &["GretReply", "greeter.proto:10:"]),
    ] {
        let message = of(manifest, contract).expect_err("a mistake").to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    let empty = tempfile::tempdir().expect("a folder");
    let message = compile_protos(empty.path())
        .expect_err("nothing there")
        .to_string();
    assert!(message.contains("has no .proto file"), "{message}");
}
