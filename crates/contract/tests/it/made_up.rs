//! Random descriptor protos: mostly such as a compiler could write, with something odd here and there.

use proptest::prelude::*;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto,
    descriptor_proto::ReservedRange,
};

/// A file with messages `A` and `B` and a service with one method.
pub(crate) fn files() -> impl Strategy<Value = FileDescriptorProto> {
    let syntax = prop_oneof![
        40 => proptest::sample::select(vec![None, Some("proto2"), Some("proto3")]),
        1 => Just(Some("editions")),
    ];
    let extension = prop_oneof![25 => Just(vec![]), 1 => fields()];
    let messages = proptest::collection::vec(messages(), 2..4).prop_map(|mut messages| {
        messages[0].name = Some("A".to_owned());
        messages[1].name = Some("B".to_owned());
        messages
    });
    let known = || Just(Some(".p.A".to_owned()));
    let ty = || prop_oneof![9 => known(), 9 => Just(Some("B".to_owned())), 1 => type_names()];
    let dependency = proptest::option::weighted(0.03, proptest::sample::select(vec!["x.proto", "p.proto"]));
    (messages, enums(), syntax, (ty(), ty()), extension, dependency).prop_map(
        |(message_type, enums, syntax, (input_type, output_type), extension, dependency)| {
            let call = MethodDescriptorProto {
                name: Some("Call".to_owned()),
                input_type,
                output_type,
                ..Default::default()
            };
            FileDescriptorProto {
                name: Some("p.proto".to_owned()),
                package: Some("p".to_owned()),
                dependency: dependency.map(str::to_owned).into_iter().collect(),
                message_type,
                enum_type: vec![enums],
                extension,
                service: vec![ServiceDescriptorProto {
                    name: Some("S".to_owned()),
                    method: vec![call],
                    options: None,
                }],
                syntax: syntax.map(str::to_owned),
                ..Default::default()
            }
        },
    )
}

fn messages() -> impl Strategy<Value = DescriptorProto> {
    let map_entry = proptest::bool::weighted(0.03);
    let reserved = proptest::option::weighted(0.3, (1500..2500, 1500..2500));
    let flat = (names(), fields(), map_entry, 0..2_usize, reserved);
    let flat = flat.prop_map(|(name, field, map_entry, oneofs, reserved)| DescriptorProto {
        name,
        field,
        options: map_entry.then(|| MessageOptions {
            map_entry: Some(true),
            ..Default::default()
        }),
        oneof_decl: vec![
            OneofDescriptorProto {
                name: Some("o".to_owned()),
                options: None
            };
            oneofs
        ],
        reserved_range: reserved
            .map(|(start, end)| ReservedRange {
                start: Some(start),
                end: Some(end),
            })
            .into_iter()
            .collect(),
        ..Default::default()
    });
    flat.prop_recursive(3, 8, 2, |inner| {
        (inner.clone(), proptest::collection::vec(inner, 0..2))
            .prop_map(|(outer, nested_type)| DescriptorProto { nested_type, ..outer })
    })
}

fn fields() -> impl Strategy<Value = Vec<FieldDescriptorProto>> {
    let default = proptest::sample::select(vec![
        "1", "\\777", "\\xü0", "\\x", "true", "A", "", "\\400", "nan",
    ]);
    let scalar = proptest::sample::select(vec![1, 2, 3, 4, 5, 8, 9, 12, 13, 17]);
    let field = (
        names(),
        proptest::option::weighted(0.99, prop_oneof![60 => 1..2000, 1 => any::<i32>()]),
        proptest::option::weighted(0.98, prop_oneof![60 => 1..4, 1 => any::<i32>()]),
        proptest::option::weighted(0.98, prop_oneof![60 => scalar, 1 => any::<i32>()]),
        type_names(),
        proptest::option::weighted(0.04, default),
        proptest::option::weighted(0.05, prop_oneof![9 => Just(0), 1 => -1..3]),
        proptest::option::weighted(0.05, any::<bool>()),
    );
    let field = field.prop_map(
        |(name, number, label, ty, type_name, default, oneof_index, proto3_optional)| FieldDescriptorProto {
            name,
            number,
            label,
            r#type: ty,
            type_name,
            default_value: default.map(str::to_owned),
            oneof_index,
            proto3_optional,
            ..Default::default()
        },
    );
    proptest::collection::vec(field, 0..4)
}

fn enums() -> impl Strategy<Value = EnumDescriptorProto> {
    let value = || {
        let number = prop_oneof![20 => Just(Some(0)), 1 => proptest::option::of(-1..3)];
        (names(), number).prop_map(|(name, number)| EnumValueDescriptorProto {
            name,
            number,
            options: None,
        })
    };
    let count = prop_oneof![20 => Just(1_usize), 1 => 0..3_usize];
    let values = count.prop_flat_map(move |count| proptest::collection::vec(value(), count));
    values.prop_map(|value| EnumDescriptorProto {
        name: Some("E".to_owned()),
        value,
        ..Default::default()
    })
}

fn names() -> impl Strategy<Value = Option<String>> {
    // Mostly names that do not collide, so that many sets reach what comes after the linker.
    let name = prop_oneof![
        30 => (0..500_u32).prop_map(|it| format!("n{it}")),
        1 => proptest::sample::select(vec!["A", "B", "E", "value", "key", "", "ü"]).prop_map(str::to_owned),
    ];
    proptest::option::weighted(0.99, name)
}

fn type_names() -> impl Strategy<Value = Option<String>> {
    let name = prop_oneof![
        20 => proptest::sample::select(vec![".p.A", ".p.B", "A", "E", ".p.E"]),
        1 => proptest::sample::select(vec!["p.A.B", "", ".", ".p.S", "Call"]),
    ];
    proptest::option::weighted(0.4, name).prop_map(|name| name.map(str::to_owned))
}
