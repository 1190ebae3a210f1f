//! One .proto file by itself, for a plugin whose source is elsewhere.

use std::{fs, path::PathBuf};

use mortise_build::{BuildError, compile_proto};
use mortise_contract::Contract;

use crate::{CONTRACT, MANIFEST, source};

#[test]
fn its_services_are_its_own_and_its_imports_are_included() {
    let source = source(MANIFEST, CONTRACT);
    let contract = source.path().join("contract");
    fs::write(
        contract.join("outer.proto"),
        "syntax = \"proto3\"; package outer; import \"greeter.proto\"; service Outer { rpc Get(acme.v1.GreetRequest) returns (acme.v1.GreetReply); }",
    )
    .unwrap();
    let services =
        |file: &str, includes: &[PathBuf]| compile_proto(&contract.join(file), includes).unwrap().services();
    // Beside the file, if no folder is named.
    assert_eq!(services("outer.proto", &[]), ["outer.Outer"]);
    assert_eq!(
        services("greeter.proto", &[]),
        ["acme.v1.Greeter", "acme.v1.Watcher"]
    );
    assert_eq!(
        services("outer.proto", &[source.path().join("out"), contract.clone()]),
        ["outer.Outer"]
    );
    let protos = compile_proto(&contract.join("outer.proto"), &[]).unwrap();
    let linked = Contract::from_descriptor_set(&protos.descriptor_set, &protos.services()).unwrap();
    assert_eq!(linked.methods()[0].target(), "outer.Outer/Get");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let source = source(MANIFEST, CONTRACT);
    let contract = source.path().join("contract");
    let out = source.path().join("out");
    let error = |file: &str, includes: &[PathBuf]| compile_proto(&contract.join(file), includes).unwrap_err();
    assert!(
        matches!(error("nothing.proto", &[]), BuildError::Read { path, .. } if path.ends_with("nothing.proto"))
    );
    assert!(matches!(
        error("greeter.proto", std::slice::from_ref(&out)),
        BuildError::OutsideIncludes { .. }
    ));
    assert!(
        matches!(error("greeter.proto", &[out.join("no")]), BuildError::Read { path, .. } if path.ends_with("no"))
    );
    fs::write(
        contract.join("bad.proto"),
        "syntax = \"proto3\";\nmessage M { Missing m = 1; }\n",
    )
    .unwrap();
    let report = error("bad.proto", &[]).to_string();
    assert!(
        report.contains("bad.proto:2:13") && report.contains("Missing"),
        "{report}"
    );
}
