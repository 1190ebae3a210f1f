//! Tests of contracts against real `.proto` files, compiled by protox.
//!
//! A new folder `tests/data/<RULE_ID>/{pass,fail}` is a new test of the compatibility check; see `rules`.

mod compat;
mod contract;
mod defaults;
mod evolve;
mod hashes;
mod hostile;
mod made_up;
mod model;
mod rules;
mod support;
mod values;
