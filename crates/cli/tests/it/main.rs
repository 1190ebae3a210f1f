//! The command as its users see it: the built binary, its exit code, its output.
//!
//! The plugin of these tests is in C, because a C compiler builds it in a blink; what `build` does with a crate is tested by
//! `cargo xtask test`, which builds every example with it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod check;
mod command;
mod host;
mod package;
