//! The process variant.

fn main() {
    bad_guest::process::main();
}
