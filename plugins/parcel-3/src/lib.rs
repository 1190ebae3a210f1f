//! Version 3 of the parcel service. The source is that of version 1; what differs is the contract.
#![forbid(unsafe_code)]

#[path = "../../parcel-1/src/plugin.rs"]
pub mod plugin;
