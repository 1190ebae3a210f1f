//! What `#[plugin]` says to those who use it wrongly. `TRYBUILD=overwrite cargo test -p mortise-sdk-macros` rewrites the messages.

#[test]
fn every_mistake_has_its_message() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
