//! The control socket: JSON-RPC 2.0 over HTTP/1 on a unix socket, for whoever operates the host.
//!
//! Who may use it is decided by the kernel's word about the peer (`SO_PEERCRED`), not by a secret: root, and the user that the host
//! runs as. Everybody else gets one clear refusal. The socket's mode (0600) says the same once more.
//!
//! Each method is a type that implements [`Ask`]: its fields are the parameters, [`Ask::Answer`] is the result. Server and client share
//! them, so they cannot drift.
//!
//! | method | parameters | answer |
//! |---|---|---|
//! | `mortise.load` | [`Load`] | [`Plugin`] |
//! | `mortise.load_all` | [`LoadAll`] | `[`[`Plugin`]`]` |
//! | `mortise.unload` | [`Unload`] | [`Unloaded`] |
//! | `mortise.graph` | [`Graph`] | [`Chart`](mortise_host::Chart) |
//! | `mortise.list` | [`List`] | `[`[`Plugin`]`]` |
//! | `mortise.inspect` | [`Inspect`] | [`PluginDetail`] |
//! | `mortise.call` | [`Call`] | the reply, as JSON |
//! | `mortise.resolve` | [`Resolve`] | [`Resolved`] |
//! | `mortise.history` | [`History`] | `[`[`Move`]`]` |
//! | `mortise.changes` | [`Changes`] | `[`[`Change`]`]` |
//! | `mortise.rollback` | [`Rollback`] | [`Plugin`] |
//! | `mortise.diff` | [`Diff`] | [`Differences`] |
//! | `mortise.supports` | [`Supports`] | `[`[`RuntimeSupport`]`]` |
//! | `mortise.doctor` | [`Doctor`] | [`DoctorReport`] |
//! | `mortise.reload` | [`Reload`] | [`Reloaded`] |
//! | `mortise.shutdown` | [`Shutdown`] | [`Stopping`] |
//!
//! Calls that stream have a path of their own, `POST /stream/{target}`, which is the gateway's: [`StreamCall`].

/// On `POST /stream/{target}` of the control socket: the headers of the call, as a JSON object of strings.
const HEADERS_HEADER: &str = "x-mortise-headers";

mod client;
mod methods;
mod socket;
mod types;

pub use client::{Client, ClientError};
pub use methods::{HostFacts, Reloader};
pub use socket::{BindError, ControlSocket};
pub use types::{
    Ask, Call, Change, Changes, Denial, Diff, Difference, Differences, Doctor, DoctorReport, Grant, Graph,
    History, Inspect, Lack, Layer, Limits, List, Load, LoadAll, Method, Move, NotReloaded, Plugin,
    PluginDetail, Reload, Reloaded, Resolve, Resolved, Rollback, RuntimeSupport, Shutdown, Stopping,
    StreamCall, Supports, Unload, Unloaded,
};
