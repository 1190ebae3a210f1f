//! What a host keeps on disk, and how it reads what others put there.
//!
//! This crate explicitly refuses to trust a path: a package names its files, and no name, link or special file leads out of the
//! package's folder or makes the reader wait. It knows no network and no executor; every function blocks, and the host calls
//! them on threads made for that.
//!
//! - [`Package`]: a plugin's folder (or one that is [embedded](EmbeddedPackage) in the binary), read, checked and digested.
//! - [`DataDir`]: the host's own directory, locked against a second host. It opens the rest:
//!   - [`ArtifactCache`]: artifacts by digest, for runtimes that open a path;
//!   - [`Shelf`]: packages that were loaded, by digest, for rollbacks;
//!   - [`Journal`]: every transition, written before its side effect; what is desired; what is quarantined; what plugins knew; who asked for what
//!     ([`Change`]);
//!   - [`Kv`]: each plugin's private key-value data;
//!   - [`EventLog`]: events, and what of them each subscription has had.
//! - [`StoreError`]: what failed, why, what to do.
#![forbid(unsafe_code)]

mod artifacts;
mod changes;
mod checkpoints;
mod data_dir;
mod database;
mod error;
mod events;
mod folder;
mod journal;
mod kv;
mod package;
mod shelf;
mod state;

pub use artifacts::{ArtifactCache, Placed};
pub use changes::{Aftermath, Change, ChangeOutcome, ChangeQuery, RecordedChange, WatchedName};
pub use data_dir::DataDir;
pub use database::{Survives, WriteHook, WriteMoment};
pub use error::{StoreError, StoreErrorKind};
pub use events::{EventLog, LogWrite, Written};
pub use journal::{Desired, History, Journal, Quarantine, Recorded, Transition};
pub use kv::{KeySpace, Kv, KvLimits};
pub use package::{EmbeddedPackage, Package, PackageLimits};
pub use shelf::Shelf;
pub use state::SavedState;
