//! plugin.toml and mortise.toml: parsed, checked, every fault reported with its place.
#![forbid(unsafe_code)]

mod limits;
mod permissions;
mod runtime_name;

pub use limits::Limits;
pub use permissions::{Grant, Permissions};
pub use runtime_name::RuntimeName;
