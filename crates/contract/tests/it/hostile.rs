//! Descriptor sets that a plugin made up.

use mortise_contract::{
    Contract, ContractError,
    compat::{Level, bind, check},
};
use proptest::{prelude::*, strategy::ValueTree};
use prost_reflect::prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    descriptor_proto::ReservedRange,
};

use crate::{
    made_up::files,
    support::{compile, contract},
};

const SOURCE: &str = r#"
syntax = "proto2"; package p; import "mortise/options.proto";
service S { rpc Call(M) returns (M) { option (mortise.replaces) = "p.S/Old@1"; } }
message M {
  reserved 40 to 50;
  optional bytes raw = 1 [default = "a\001\xff\n"];
  optional int32 count = 2 [default = 3, (mortise.default) = "4"];
  map<string, M> children = 3;
  oneof either { string a = 4; E b = 5; }
  extensions 100 to 200;
  repeated group Item = 6 { optional float weight = 1; }
}
extend M { optional string more = 100; }
enum E { A = 0; B = 1; reserved 5; }
"#;

/// Reads `bytes`, and if they are a contract does everything with it that a host does.
fn exercise(bytes: &[u8]) -> Result<Contract, ContractError> {
    let contract = Contract::from_descriptor_set(bytes, &[]).inspect_err(|error| {
        // The net under the linker; whatever lands in it belongs into the inspection before.
        assert!(
            !error.to_string().contains("the linker gave up"),
            "prost-reflect panicked on {bytes:?}"
        );
    })?;
    let other =
        Contract::from_descriptor_set(bytes, &contract.services()[..contract.services().len().min(1)])?;
    for level in [Level::Wire, Level::WireJson] {
        let _ = (check(&contract, &other, level), bind(&other, &contract, level));
    }
    for method in contract.methods() {
        let _ = format!("{method:?}");
        let _ = mortise_contract::default_prefix(&method.input(), &method.output(), &contract);
    }
    Ok(contract)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = exercise(&bytes);
    }

    #[test]
    fn damaged_sets_never_panic(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<proptest::sample::Index>(),
        keep_all in any::<bool>(),
    ) {
        let mut bytes = compile(&[("p.proto", SOURCE)]);
        for (index, byte) in flips {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if !keep_all {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = exercise(&bytes);
    }

    #[test]
    fn made_up_descriptors_never_panic(one in files(), other in files()) {
        let encode = |file| FileDescriptorSet { file: vec![file] }.encode_to_vec();
        let (one, other) = (exercise(&encode(one)), exercise(&encode(other)));
        if let (Ok(one), Ok(other)) = (one, other) {
            for level in [Level::Wire, Level::WireJson] {
                let _ = (check(&one, &other, level), bind(&other, &one, level));
            }
        }
    }
}

/// A set of one file with one message, changed by `change`.
fn set(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<u8> {
    let mut file = FileDescriptorProto {
        name: Some("p.proto".to_owned()),
        package: Some("p".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("M".to_owned()),
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    change(&mut file);
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

/// A generator whose sets are all refused would test nothing but the refusals.
#[test]
fn many_made_up_sets_are_contracts() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let linked = (0..400).filter(|_| {
        let file = files()
            .new_tree(&mut runner)
            .expect("the strategy has no filter")
            .current();
        exercise(&FileDescriptorSet { file: vec![file] }.encode_to_vec()).is_ok()
    });
    let linked = linked.count();
    assert!(linked > 100, "{linked} of 400");
}

fn refusal(bytes: &[u8]) -> String {
    exercise(bytes).expect_err("it must be refused").to_string()
}

#[test]
fn the_whole_source_is_a_contract() {
    assert_eq!(
        exercise(&compile(&[("p.proto", SOURCE)]))
            .expect("nothing is wrong with it")
            .methods()
            .len(),
        1
    );
}

/// Each of these makes prost-reflect panic if it gets to it, now or when the contract is used.
#[test]
fn what_panics_the_linker_does_not_reach_it() {
    let bytes_field = |default: &str| FieldDescriptorProto {
        name: Some("x".to_owned()),
        number: Some(1),
        label: Some(1),
        r#type: Some(12),
        default_value: Some(default.to_owned()),
        ..FieldDescriptorProto::default()
    };
    for default in ["\\xü", "\\xaü", "\\777", "\\400"] {
        let text = refusal(&set(|file| file.message_type[0].field.push(bytes_field(default))));
        assert!(
            text.contains("`p.M.x` is no escaped byte string"),
            "{default}: {text}"
        );
    }
    let text = refusal(&set(|file| file.syntax = Some("editions".to_owned())));
    assert!(text.contains("`p.proto` has syntax `editions`"), "{text}");
    let text = refusal(&set(|file| {
        file.message_type[0].options = Some(MessageOptions {
            map_entry: Some(true),
            ..MessageOptions::default()
        });
    }));
    assert!(text.contains("map entry `p.M`"), "{text}");
    let text = refusal(&set(|file| {
        file.options = Some(prost_types::FileOptions {
            uninterpreted_option: vec![prost_types::UninterpretedOption::default()],
            ..prost_types::FileOptions::default()
        });
    }));
    assert!(text.contains("did not interpret"), "{text}");
}

/// `options()` of a descriptor decodes with the set's own `google.protobuf.MethodOptions` unless somebody prevents it.
#[test]
fn the_well_known_files_are_ours() {
    let fake = "syntax = \"proto2\"; package google.protobuf; message MethodOptions { optional string idempotent = 50770; }";
    let own = "syntax = \"proto3\"; package p; import \"google/protobuf/descriptor.proto\"; \
               service S { rpc Call(M) returns (M); } message M {}";
    let contract = crate::support::contract_of(
        &[("p.proto", own), ("google/protobuf/descriptor.proto", fake)],
        &[],
    );
    let options = contract
        .pool()
        .get_message_by_name("google.protobuf.MethodOptions")
        .expect("well known");
    assert!(options.get_field(50770).is_none() && options.get_field(34).is_some());
}

#[test]
fn size_is_bounded_before_anything_is_linked() {
    let too_many = |set: Vec<u8>| match exercise(&set) {
        Err(ContractError::TooLarge { what, actual, max }) => {
            assert!(actual > max);
            what
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(too_many(vec![0; (8 << 20) + 1]), "bytes");
    let files = FileDescriptorSet {
        file: vec![FileDescriptorProto::default(); 1025],
    };
    assert_eq!(too_many(files.encode_to_vec()), "files");
    let messages = set(|file| file.message_type = vec![DescriptorProto::default(); 40_000]);
    assert_eq!(too_many(messages), "declarations");
    let reserved = set(|file| file.message_type[0].reserved_range = vec![ReservedRange::default(); 40_000]);
    assert_eq!(too_many(reserved), "declarations");
    assert_eq!(
        too_many(set(|file| file.message_type[0].name = Some("M".repeat(2000)))),
        "bytes in one full name"
    );
    let nested = (0..40).fold(DescriptorProto::default(), |inner, _| DescriptorProto {
        name: Some("N".repeat(100)),
        nested_type: vec![inner],
        ..DescriptorProto::default()
    });
    assert_eq!(
        too_many(set(|file| file.message_type.push(nested))),
        "bytes in one full name"
    );
}

#[test]
fn deep_nesting_is_an_error() {
    let nested = (0..500).fold(DescriptorProto::default(), |inner, _| DescriptorProto {
        nested_type: vec![inner],
        ..DescriptorProto::default()
    });
    assert!(refusal(&set(|file| file.message_type.push(nested))).contains("recursion"));
}

/// 2000 methods that each reach 2000 fields are a small set and much work.
#[test]
fn work_is_bounded_too() {
    let fields: String = (1..=2000)
        .map(|number| format!("bool f{number} = {number}; "))
        .collect();
    let methods: String = (0..2000)
        .map(|index| format!("rpc C{index}(M) returns (M); "))
        .collect();
    let source =
        format!("syntax = \"proto3\"; package p; service S {{ {methods} }} message M {{ {fields} }}");
    let text = refusal(&compile(&[("p.proto", &source)]));
    assert!(text.contains("fields reachable from its methods"), "{text}");
}

/// A long chain of messages must not be walked by recursion.
#[test]
fn a_deep_graph_of_messages_does_not_exhaust_the_stack() {
    let chain = |leaf: &str| {
        let links: String = (0..3000)
            .map(|index| format!("message M{index} {{ M{} next = 1; }} ", index + 1))
            .collect();
        contract(&format!(
            "syntax = \"proto3\"; package p; service S {{ rpc Call(M0) returns (R); }} message R {{}} {links} \
             message M3000 {{ {leaf} x = 1; }}"
        ))
    };
    let (one, other) = (chain("string"), chain("bool"));
    let report = check(&one, &other, Level::Wire);
    assert!(
        report.verdict.to_string().contains("p.M3000.x"),
        "{}",
        report.verdict
    );
}
