//! Core modules and the components made of them.

use std::borrow::Cow;

use mortise_build::{METADATA_SECTION, componentize};
use wasm_encoder::{
    CodeSection, CustomSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection,
    MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wasmparser::{Parser, Payload};

const GUEST: &str = "mortise:plugin/guest@1.0.0";
const I32: ValType = ValType::I32;

/// Name, parameters and results of the world's exports.
const EXPORTS: [(&str, &[ValType], &[ValType]); 4] = [
    ("#start", &[I32; 2], &[I32]),
    ("#invoke", &[I32; 5], &[I32]),
    ("#health", &[], &[I32]),
    ("#stop", &[], &[]),
];

/// A core module of the world, with metadata sections where `metadata` says: before and after everything else.
fn module(
    exports: &[(&str, &[ValType], &[ValType])],
    import: Option<(&str, &str)>,
    metadata: [&[&[u8]]; 2],
) -> Vec<u8> {
    let (mut types, mut functions, mut table, mut code) = (
        TypeSection::new(),
        FunctionSection::new(),
        ExportSection::new(),
        CodeSection::new(),
    );
    let mut imports = ImportSection::new();
    if let Some((module, name)) = import {
        types.ty().function([], []);
        imports.import(module, name, wasm_encoder::EntityType::Function(0));
    }
    let first = imports.len();
    let realloc: (&str, &[ValType], &[ValType]) = ("cabi_realloc", &[I32; 4], &[I32]);
    let named = exports
        .iter()
        .map(|(name, params, results)| (format!("{GUEST}{name}"), *params, *results));
    for (at, (name, params, results)) in named
        .chain([(realloc.0.to_owned(), realloc.1, realloc.2)])
        .enumerate()
    {
        let at = at as u32 + first;
        types
            .ty()
            .function(params.iter().copied(), results.iter().copied());
        functions.function(at);
        table.export(&name, ExportKind::Func, at);
        let mut body = Function::new([]);
        body.instructions().unreachable().end();
        code.function(&body);
    }
    let mut memory = MemorySection::new();
    memory.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    table.export("memory", ExportKind::Memory, 0);
    let mut module = Module::new();
    let custom = |module: &mut Module, sections: &[&[u8]]| {
        for data in sections {
            module.section(&CustomSection {
                name: METADATA_SECTION.into(),
                data: Cow::Borrowed(data),
            });
        }
    };
    custom(&mut module, metadata[0]);
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&memory)
        .section(&table)
        .section(&code);
    custom(&mut module, metadata[1]);
    module.finish()
}

/// The metadata sections of a module or component: how deep each lies, and what it says.
fn metadata_of(wasm: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let (mut depth, mut found) = (0_usize, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.expect("a component") {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(it) if it.name() == METADATA_SECTION => {
                found.push((depth, it.data().to_vec()))
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_metadata_moves_to_the_outer_component_wherever_it_stood() {
    for metadata in [[&[&b"says"[..]][..], &[]], [&[], &[b"says"]]] {
        let core = module(&EXPORTS, None, metadata);
        assert_eq!(
            metadata_of(&core),
            [(1, b"says".to_vec())],
            "the test's module is as meant"
        );
        let component = componentize(&core).expect("a good module");
        assert!(Parser::is_component(&component));
        assert_eq!(
            metadata_of(&component),
            [(1, b"says".to_vec())],
            "outermost, and once"
        );
    }
}

#[test]
fn what_is_no_plugin_is_refused_by_its_name() {
    let says: [&[&[u8]]; 2] = [&[], &[b"says"]];
    let good = module(&EXPORTS, None, says);
    let cases: [(Vec<u8>, &str); 6] = [
        (b"no wasm".to_vec(), "cannot make a component"),
        (module(&EXPORTS, None, [&[], &[]]), "no custom section `mortise`"),
        (
            module(&EXPORTS, None, [&[b"a"], &[b"b"]]),
            "two plugins were linked",
        ),
        (module(&EXPORTS[..3], None, says), "stop"),
        (module(&EXPORTS, Some(("env", "clock")), says), "env"),
        (componentize(&good).expect("a good module"), "a component already"),
    ];
    for (core, part) in cases {
        let message = componentize(&core).expect_err(part).to_string();
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}
