//! Contracts: descriptors, method hashes and the compatibility check.
//!
//! A contract is what crosses a boundary beside the bytes: a `FileDescriptorSet` and the names of the services that a plugin provides
//! or needs. This crate turns the set into [`Contract`] and answers one question about two of them: may the one that calls and the one
//! that answers talk to each other, and if not, why not?
//!
//! It refuses to read `.proto` files (a build does that), to open anything, and to compare toolchains, codecs or versions of compilers:
//! two contracts fit if their bytes do. It never panics on a set that a plugin brought; see [`Contract::from_descriptor_set`].
//!
//! - [`Contract`], [`Method`]: what is provided, in the order that numbers methods on every boundary.
//! - `hash`: the canonical form under a method's `wire_hash` and `full_hash`. Equal hash = compatible; the reverse is not true.
//! - [`compat`]: the structural check, with buf's rule names, and [`compat::Verdicts`], which remembers its results.
//! - [`evolve`]: what to do to the bytes of a call between two versions, worked out once and done without decoding them.
//! - [`Contract::check_value`]: whether configuration in JSON is what a message looks like.
//! - [`default_prefix`]: the bytes that give a reader the defaults of fields its caller has never heard of.
//!
//! The options that a contract may use (`mortise/options.proto`) are known here by their numbers, so a set means the same whether or
//! not it carries that file.
#![forbid(unsafe_code)]

pub mod compat;
mod contract;
mod defaults;
mod error;
pub mod evolve;
mod hash;
mod options;
mod raw;
mod values;

pub use contract::{Contract, Method};
pub use defaults::default_prefix;
pub use error::{ContractError, NameError};
pub use options::{FieldOptions, Idempotency, MethodOptions, Target};
pub use values::ValueFault;
