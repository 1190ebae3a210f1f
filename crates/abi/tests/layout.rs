//! The Rust mirror against the header: every size, offset and constant, as gcc and as g++ lay them out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    mem::{offset_of, size_of},
    path::{Path, PathBuf},
    process::Command,
};

use mortise_abi::*;

/// What is compared: a C expression and its value here.
struct Row {
    expression: String,
    value: u64,
}

macro_rules! rows {
    ($rows:ident: $($rust:ident = $c:literal { $($field:ident $(= $c_field:literal)?),* $(,)? })*) => {$(
        $rows.push(Row { expression: format!("sizeof({})", $c), value: size_of::<$rust>() as u64 });
        $(
            let field = [$($c_field,)? stringify!($field)][0];
            $rows.push(Row {
                expression: format!("offsetof({}, {field})", $c),
                value: offset_of!($rust, $field) as u64,
            });
            $rows.push(Row {
                expression: format!("sizeof((({} *)0)->{field})", $c),
                value: field_size(|it: &$rust| &it.$field) as u64,
            });
        )*
    )*};
}

fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    rows! { rows:
        MtSlice = "mt_slice" { ptr, len }
        MtStr = "mt_str" { ptr, len }
        MtOut = "mt_out" { size, reserved, ptr, len, cap, grow }
        MtCall = "mt_call" { size, flags, call_id, deadline_ns, cancelled, head, depth, reserved }
        MtDone = "mt_done" { complete, ctx }
        MtMethod = "mt_method" { size, flags, service, method, wire_hash, invoke, invoke_async }
        MtInstance = "mt_instance" {
            size, n_methods, method_stride, reserved, this = "self", methods, activate, deactivate, health, save_state, load_state,
            cancel, destroy, get_ext,
        }
        MtHost = "mt_host" { size, abi_major, abi_minor, ctx, log, call, panicked, get_ext }
        MtEntry = "mt_entry" { magic, size, abi_major, abi_minor, flags, metadata, create, get_ext }
    }
    for (name, value) in [
        ("MT_MAGIC", u64::from(MT_MAGIC)),
        ("MT_ABI_MAJOR", u64::from(MT_ABI_MAJOR)),
        ("MT_ABI_MINOR", u64::from(MT_ABI_MINOR)),
        ("MT_CALL_IDEMPOTENT", u64::from(MT_CALL_IDEMPOTENT)),
        ("MT_METHOD_IDEMPOTENT", u64::from(MT_METHOD_IDEMPOTENT)),
        ("MT_METHOD_NONBLOCKING", u64::from(MT_METHOD_NONBLOCKING)),
        (
            "MT_METHOD_CLIENT_STREAMING",
            u64::from(MT_METHOD_CLIENT_STREAMING),
        ),
        (
            "MT_METHOD_SERVER_STREAMING",
            u64::from(MT_METHOD_SERVER_STREAMING),
        ),
        ("MT_F_UNLOAD_SAFE", u64::from(MT_F_UNLOAD_SAFE)),
        ("MT_F_PANIC_ABORT", u64::from(MT_F_PANIC_ABORT)),
    ] {
        rows.push(Row {
            expression: name.to_owned(),
            value,
        });
    }
    for (name, value) in [
        ("MT_OK", MT_OK),
        ("MT_E_UNKNOWN_METHOD", MT_E_UNKNOWN_METHOD),
        ("MT_E_BAD_ARG", MT_E_BAD_ARG),
        ("MT_E_NOMEM", MT_E_NOMEM),
        ("MT_E_PANIC", MT_E_PANIC),
        ("MT_E_DRAINING", MT_E_DRAINING),
        ("MT_PENDING", MT_PENDING),
        ("MT_E_ABI", MT_E_ABI),
    ] {
        rows.push(Row {
            expression: format!("-({name})"),
            value: u64::from(value.unsigned_abs()),
        });
    }
    rows
}

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../include/mortise.h")
        .canonicalize()
        .unwrap()
}

fn exists(compiler: &str) -> bool {
    Command::new(compiler)
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
}

/// Compiles and runs a program that prints the rows' expressions; `language` decides how the header is read.
fn compare(compiler: &str, extension: &str, flags: &[&str]) {
    if !exists(compiler) {
        println!("skipped: needs a C compiler (`{compiler}`)");
        return;
    }
    let rows = rows();
    let mut source = format!(
        "#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n",
        header().display()
    );
    for row in &rows {
        writeln!(
            source,
            "  printf(\"%s=%llu\\n\", \"{0}\", (unsigned long long)({0}));",
            row.expression
        )
        .unwrap();
    }
    source.push_str("  return 0;\n}\n");
    let dir = tempfile::tempdir().unwrap();
    let (program, file) = (
        dir.path().join("layout"),
        dir.path().join(format!("layout.{extension}")),
    );
    std::fs::write(&file, source).unwrap();
    let compiled = Command::new(compiler)
        .args(flags)
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let printed = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let theirs: BTreeMap<&str, u64> = printed
        .lines()
        .map(|line| {
            line.rsplit_once('=')
                .map(|(name, value)| (name, value.parse().unwrap()))
                .unwrap()
        })
        .collect();
    let different: Vec<_> = rows
        .iter()
        .filter(|row| theirs[row.expression.as_str()] != row.value)
        .map(|row| {
            format!(
                "{}: {} in C, {} here",
                row.expression,
                theirs[row.expression.as_str()],
                row.value
            )
        })
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn gcc_lays_out_the_same() {
    compare(
        "gcc",
        "c",
        &["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"],
    );
}

#[test]
fn gpp_lays_out_the_same() {
    compare(
        "g++",
        "cc",
        &["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"],
    );
}

/// Every struct of the header is in the table above; a new one that is forgotten there fails here.
#[test]
fn every_struct_is_compared() {
    let text = std::fs::read_to_string(header()).unwrap();
    let compared: Vec<String> = rows().into_iter().map(|row| row.expression).collect();
    let mut structs = 0;
    for name in text
        .lines()
        .filter_map(|line| line.strip_prefix("typedef struct ")?.split(' ').next())
    {
        structs += 1;
        assert!(
            compared.contains(&format!("sizeof({name})")),
            "`{name}` is not compared"
        );
    }
    assert_eq!(structs, 9);
}

/// `mt_has!` by the letter: a field counts once the author's struct reaches past its end.
#[test]
fn a_field_counts_from_its_last_byte_on() {
    let end = offset_of!(MtEntry, create) + size_of::<usize>();
    assert!(mt_has!(end, MtEntry, create));
    assert!(!mt_has!(end - 1, MtEntry, create));
    assert!(!mt_has!(end, MtEntry, get_ext));
    assert!(mt_has!(size_of::<MtEntry>(), MtEntry, get_ext));
}
