//! A service whose contract changes from version to version: `parcel-2` to `parcel-5` are later ones. All versions have this source.
#![forbid(unsafe_code)]

pub mod plugin;
