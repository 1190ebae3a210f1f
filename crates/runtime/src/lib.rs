//! The port: what the host asks of a runtime, and what a runtime may ask of the host.
//!
//! A *runtime* is one technology that runs plugins: a shared library, WebAssembly, a child process. Each lives in a crate of its own
//! and implements [`Runtime`]; the host knows only what stands here. This crate starts nothing, opens nothing and knows no executor.
//!
//! The phases of a plugin are types, so a step cannot be skipped:
//!
//! ```text
//!  Artifact --Runtime::read_metadata--> Metadata --Artifact::verify--> Verified
//!           --Runtime::prepare--> Prepared --Runtime::start--> Box<dyn Instance>
//! ```
//!
//! Differences between runtimes are data ([`Support`]) or an optional facet ([`Instance::call`], [`Instance::stream`], [`Instance::state`], [`Instance::configure`]), never a question of who it is.
//!
//! Reading order: [`artifact`], [`support`], [`port`], [`call`], [`stream`], [`pipe`](mod@pipe), [`state`], [`services`], [`error`].
#![forbid(unsafe_code)]

pub mod artifact;
pub mod call;
pub mod error;
pub mod pipe;
pub mod port;
pub mod services;
pub mod state;
pub mod stream;
pub mod support;
pub mod trail;

pub use artifact::{Artifact, Digest, PluginId, Refusal, Verified};
pub use call::{Call, CallContext, DirectCall, MethodIndex};
pub use error::{Blame, CallError, CallErrorKind, Retry, RuntimeError, RuntimeErrorKind};
pub use pipe::{Abort, Blocked, Bounds, PipeReceiver, PipeSender, pipe};
pub use port::{EndCause, Instance, InstanceId, Prepared, Runtime, Start, StopReport, Usage};
pub use services::{Denied, HostServices, LogLine};
pub use state::{Configure, Configured, Origin, ReservedCalls, ReservedMethods, Snapshot, State, Successor};
pub use stream::{ReceiveHalf, SendError, SendHalf, StreamCall, StreamHandle};
pub use support::{Enclosure, Enforcement, Interrupt, Isolation, Lack, Layer, Support};
pub use trail::Trail;

/// A boxed future, so that the port's traits can be used as `dyn`.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
