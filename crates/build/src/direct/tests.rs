//! What is rewritten and what is left alone. That a guest does the same afterwards is tested where guests run: in `mortise-runtime-wasm`.

use std::collections::BTreeMap;

use super::*;

const GOOD: &str = r#"(module
    (type $one (func (param i32) (result i32)))
    (type $same (func (param i32) (result i32)))
    (type $two (func (param i32 i64)))
    (type $none (func))
    (import "host" "log" (func $log (type $two)))
    (table 9 9 funcref)
    (memory 1)
    (elem (i32.const 1) $half $twice)
    (elem (i32.const 6) $half $log $never)
    (func $twice (export "twice") (type $one) (i32.mul (local.get 0) (i32.const 2)))
    (func $dead (type $none) (call $never))
    (func $half (type $same) (i32.shr_u (local.get 0) (i32.const 1)))
    (func $never (type $none) (call $helper))
    (func $helper (type $none))
    (func (export "call") (param $place i32) (result i32)
        (call_indirect (type $two) (i32.const 5) (i64.const 5) (local.get $place))
        (call_indirect (type $same) (i32.const 10) (local.get $place)))
    (;more;))"#;

fn rewritten(text: &str) -> Option<Vec<u8>> {
    let module = wat::parse_str(text).expect("it is well formed");
    let direct = direct(&module)?;
    wasmparser::validate(&direct).expect("what is written is valid");
    Some(direct)
}

fn names(module: &[u8]) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.expect("it is valid")
            && let wasmparser::KnownCustom::Name(section) = section.as_known()
        {
            for name in section {
                if let Name::Function(map) = name.expect("it is valid") {
                    names.extend(map.into_iter().map(|it| {
                        let it = it.expect("it is valid");
                        (it.index, it.name.to_owned())
                    }));
                }
            }
        }
    }
    names
}

#[test]
fn calls_lead_through_switches_and_the_table_is_gone() {
    let module = rewritten(GOOD).expect("it is understood");
    let shape = Shape::of(&module).expect("it is valid");
    assert!(shape.is_none(), "there is nothing left to do");
    let text = |payload: &Payload<'_>| format!("{payload:?}");
    let mut functions = 0;
    for payload in Parser::new(0).parse_all(&module) {
        match payload.expect("it is valid") {
            Payload::TableSection(section) => assert_eq!(section.count(), 0),
            Payload::ElementSection(section) => assert_eq!(section.count(), 0),
            Payload::CodeSectionStart { count, .. } => functions = count,
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().expect("it is valid") {
                    let operator = operator.expect("it is valid");
                    assert!(!matches!(operator, Operator::CallIndirect { .. }));
                }
            }
            other => assert!(!text(&other).contains("TableSection")),
        }
    }
    // `twice`, `half`, the export without a name, and a switch for each of two types; `$one` and `$same` are one.
    assert_eq!(functions, 5);
}

#[test]
fn what_nobody_can_call_is_left_out_and_names_follow_their_functions() {
    let module = rewritten(GOOD).expect("it is understood");
    let names: Vec<(u32, String)> = names(&module).into_iter().collect();
    let expected = [(0, "log"), (1, "twice"), (2, "half")];
    assert_eq!(names, expected.map(|(number, name)| (number, name.to_owned())));
}

#[test]
fn a_table_that_others_see_or_that_changes_stays() {
    let cases = [
        r#"(export "table" (table 0))"#,
        "(table 1 funcref)",
        "(func (table.set (i32.const 0) (ref.null func)))",
        "(func (result i32) (table.size 0))",
        "(func (table.copy (i32.const 0) (i32.const 1) (i32.const 1)))",
        "(elem $passive funcref (ref.func $half)) (func (table.init $passive (i32.const 0) (i32.const 0) (i32.const 1)))",
        "(elem (i32.const 0) funcref (ref.null func))",
        "(elem declare func $half) (func (result funcref) (ref.func $half))",
        "(global funcref (ref.func $half))",
        "(global $base i32 (i32.const 3)) (elem (global.get $base) $half)",
        "(func (param i32) (result i32) (return_call $twice (local.get 0)))",
        r#"(@custom ".debug_info" "x")"#,
        r#"(@custom "metadata.code.branch_hint" "x")"#,
        r#"(@custom "reloc.CODE" "x")"#,
        r#"(@custom "linking" "x")"#,
        // A name section that breaks off.
        r#"(@custom "name" "\01\7f")"#,
        // What does not fit into the table keeps a module from being instantiated.
        "(elem (i32.const 9) $half)",
        "(type $open (sub (func)))",
        "(type $open (sub (func))) (type $sub (sub $open (func)))",
        "(tag)",
    ];
    for more in cases {
        assert!(rewritten(&GOOD.replace("(;more;)", more)).is_none(), "{more}");
    }
    for table in [
        "(table 9 9 funcref (ref.func $half))",
        "(table i64 9 9 funcref)",
        "(table 8 9 funcref)",
    ] {
        let mut module = GOOD.replace("(table 9 9 funcref)", table);
        if table.contains("i64") {
            // Segments and calls have places of 64 bits then.
            module = module.replace("(elem (i32.const", "(elem (i64.const");
            module = module.replace("(local.get $place))", "(i64.extend_i32_u (local.get $place)))");
        }
        assert!(rewritten(&module).is_none(), "{table}");
    }
    let imported = GOOD.replace("(table 9 9 funcref)", "").replacen(
        "(import",
        r#"(import "host" "table" (table 9 9 funcref)) (import"#,
        1,
    );
    assert!(rewritten(&imported).is_none());
    assert!(rewritten("(module)").is_none());
    assert!(
        rewritten("(module (table 1 funcref) (func))").is_none(),
        "there are no calls through it"
    );
}

#[test]
fn a_broken_module_is_an_error_and_no_panic() {
    let module = wat::parse_str(GOOD).expect("it is well formed");
    for end in 0..module.len() {
        // Some ends lie between two sections.
        let _ = direct(&module[..end]);
    }
    for at in 8..module.len() {
        for bit in 0..8 {
            let mut changed = module.clone();
            changed[at] ^= 1 << bit;
            let _ = direct(&changed);
        }
    }
}
