//! The go-plugin protocol, exact to the byte: as a host speaks it, and as a plugin does.
//!
//! HashiCorp's go-plugin runs a plugin as a child process. The plugin prints one line on its standard output that says where it listens; from then
//! on host and plugin speak gRPC, in both directions, with a few services of the protocol's own beside the plugin's. Terraform, Vault, Nomad and
//! many smaller programs run their plugins that way.
//!
//! This crate starts no process, kills none and knows nothing of Mortise's runtimes: whoever started the plugin hands over what it wrote, and gets
//! a [`Connection`]. Nor does it know messages other than the protocol's own: an application's are bytes here, so a host can carry them without having
//! been compiled against them. Of the two transports that go-plugin knows it speaks gRPC; `net/rpc` is Go's alone and refused by name.
//!
//! ```text
//!  host                                             plugin
//!  Offer::environment --cookie, versions, cert-->   Invitation::read
//!  Scanner, Handshake::parse <--one line---------   Plugin::start
//!  Offer::accept -> Agreed
//!  Connection::open  --connect, health---------->   Plugin::serve
//!    call, stream    --gRPC by path, bytes------>   Service
//!    broker          <--ids, sockets, knocks---->   broker
//!    output          <--stdout, stderr-----------   GRPCStdio
//!    shutdown        --GRPCController----------->   ends
//! ```
//!
//! What is pure stands in modules of its own and is tested without a socket: [`handshake`], [`environment`], [`version`], [`hclog`],
//! [`exchange`] (the broker's bookkeeping) and [`descriptors`] (what reflection answers come to). Around them: [`tls`], [`mux`], [`address`],
//! [`broker`], [`connection`] (the host's side) and [`plugin`] (the plugin's side).
//!
//! Bounds: each has a name and stands in the module that keeps it. A message is at most [`codec::MESSAGE_BYTES_MAX`] long in both directions.
#![forbid(unsafe_code)]

pub mod descriptors;
pub mod environment;
pub mod exchange;
pub mod handshake;
pub mod hclog;
pub mod version;

pub mod codec;
pub mod proto;
pub mod tls;

#[cfg(unix)]
pub mod address;
#[cfg(unix)]
pub mod broker;
#[cfg(unix)]
pub mod client;
#[cfg(unix)]
pub mod connection;
#[cfg(unix)]
mod http2;
#[cfg(unix)]
pub mod mux;
#[cfg(unix)]
pub mod plugin;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
pub mod reattach;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod stdio;
#[cfg(unix)]
mod transport;

pub use environment::{Cookie, Invitation, Offer};
pub use handshake::{Agreed, Handshake, HandshakeError, NetAddress, Scanner};
pub use hclog::{LogEvent, LogLevel, LogParser};
pub use tls::Identity;

#[cfg(unix)]
pub use address::{AddressPolicy, PeerCheck};
#[cfg(unix)]
pub use broker::Broker;
#[cfg(unix)]
pub use client::{CallHeaders, Client};
#[cfg(unix)]
pub use connection::{ConnectError, ConnectOptions, Connection, OutputChunk};
#[cfg(unix)]
pub use plugin::{Invoked, Plugin, PluginOptions, Service, Shape};

/// A boxed future, for traits that are used as `dyn`.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
