//! Where the configuration of plugins comes from, beside what stands at the plugin itself.
//!
//! [`ConfigSource`] is the port: whoever knows etcd, or a directory, implements it. What it tells are *settings*: for each plugin, by its name,
//! JSON values at places of one object. From there on everything is pure: [`Layer`] makes one object of a source's settings, [`Effective`] lays layers over
//! each other, [`Reference`] says where a secret is.
//!
//! It refuses to know any source, and opens nothing but a secret when it is told to ([`Reference::read`]).
//!
//! # Words
//! - *settings*: what one source has for one plugin, place by place.
//! - *layer*: the same as one object, with the place that each value came from. It is what is kept on the disk: references, never secrets.
//! - *effective*: all layers of a plugin, the later over the earlier, as RFC 7396 (JSON Merge Patch) has it: objects are merged, anything else
//!   replaces, and `null` takes away.
//! - *delivered*: effective, with secrets in place of references. It exists in memory only.
#![forbid(unsafe_code)]

mod effective;
mod layer;
mod secret;
mod source;

pub use effective::{Effective, Leaf, leaves};
pub use layer::{Layer, LayerFault, Part};
pub use secret::{Allowed, Delivered, Reference, Secrets, Unresolved, is_reference};
pub use source::{BoxFuture, ConfigSource, Outage, Setting, Settings, Update};

#[cfg(test)]
mod tests;
