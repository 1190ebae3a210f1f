//! Plugins that are compiled into the host.
//!
//! They are loaded, configured, called, swapped and stopped like any other, through the same port; what they lack is isolation. A
//! builtin plugin is the host's own code: it can end the process, use its memory and read its secrets. This crate refuses only what it can: a
//! panic is caught and ends the instance, a call over its deadline is answered for, and an instance whose thread does not come back is told
//! of as stuck. It opens nothing and loads nothing.
//!
//! Methods run on tokio's blocking threads, at most `Limits::concurrency` of one instance at once; those that their contract calls nonblocking run
//! where the caller is, and may not call the host.
//!
//! ```ignore
//! let runtime = BuiltinRuntime::new([BuiltinPlugin::new(mortise_sdk::linked!(my_plugin))?])?;
//! ```
#![forbid(unsafe_code)]

mod host_link;
mod instance;
mod plugin;
mod runtime;
mod stream;

pub use plugin::BuiltinPlugin;
pub use runtime::BuiltinRuntime;

#[cfg(test)]
mod tests;
