//! The edge: JSON-RPC 2.0 over HTTP for callers, and a control socket for operators.
//!
//! This is the only crate where JSON becomes protobuf, and where errors get the codes of a protocol. It decides nothing about
//! plugins: it asks the host. It knows no runtime. A plugin's fault never becomes the edge's: `/healthz` and `/readyz` speak of the
//! host alone.
//!
//! - [`Gateway`]: `POST /rpc`, `GET /healthz`, `GET /readyz`, `GET /health/plugin/{name}`.
//! - [`control`]: the same codec on a unix socket, for root and the host's own user.
//! - [`error`]: the one table of kinds and codes.
//! - [`transcode`]: JSON to protobuf and back by descriptors.
#![forbid(unsafe_code)]

#[cfg(unix)]
pub mod control;
pub mod error;
mod http;
mod jsonrpc;
mod options;
mod rpc;
mod server;
mod stream;
mod trace;
pub mod transcode;

pub use error::{Detail, Reason, RpcError};
pub use http::{Gateway, TIMEOUT_HEADER};
pub use options::Options;
pub use rpc::call_json;
pub use tokio_util::sync::CancellationToken;
