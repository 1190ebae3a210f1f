//! The other dialect: executables that were made for HashiCorp's go-plugin.
//!
//! ```text
//!  plugin.toml + contract.binpb --describe--> Metadata       such an executable says nothing about itself
//!  spawner, standard input empty --handshake line on standard output--> Connection
//!  reflection --compare--> refused, if what it serves is not the contract     a start
//!             '----------> what a package is made of                           an interview
//! ```
//!
//! What stands around the process is the same for both dialects ([`dialect`](crate::dialect)): the spawner, the jail, the instance, the supervisor.
//! Only what is spoken differs, and how it is asked to end: `GRPCController/Shutdown` in the place of a Stop frame.
//!
//! **What runs is what was checked.** The host has written the artifact into its own content-addressed store, read-only, in a directory that belongs to it alone; the digest
//! is taken of that file through an open descriptor, and that file is started. Nobody but the host's own user could change it between the two. A sealed memfd would close that too, and is not used because
//! a plugin may look for its own path, and some systems forbid it.
//!
//! **No orphan.** A Go plugin does not notice that its host is gone. The spawner's parent-death signal and the jail see to it; without them it ends at its next log line.

mod calls;
mod describe;
mod interview;
mod launch;
mod output;
mod reach;

pub(crate) use describe::{check, describe};
pub use interview::{Interview, Interviewed, Told};
pub(crate) use launch::Launch;
pub use reach::GoPluginError;
