//! Compile a plugin's contract in `build.rs`, without protoc.
//!
//! This crate reads `plugin.toml` and `contract/*.proto` and writes Rust source and bytes. It explicitly refuses to know a
//! runtime: what it writes is the same for a shared library, a component and an executable. Nothing of it ends up in a plugin.
//!
//! A plugin's `build.rs` is one line: `fn main() { mortise_build::plugin(); }`.
//! It leaves in `$OUT_DIR`
//!
//! | file | what | who reads it |
//! |---|---|---|
//! | `mortise.rs` | messages, a trait and a client per service | `mortise_sdk::contract!()` |
//! | `mortise.meta` | the encoded `Metadata` | `#[mortise_sdk::plugin]`, which puts it into section `.mortise` |
//! | `mortise_metadata.rs` | name, version and number of methods, as a constant | `#[mortise_sdk::plugin]`, which checks the `impl` against them |
//!
//! A service that carries plugins inside its own binary embeds their packages with [`embed()`].
//! A service that calls plugins through typed clients uses [`Builder`] with [`Builder::client_only`]. A plugin in another
//! language gets its metadata from [`metadata()`] and [`write_c()`], by way of `mortise metadata`. [`componentize()`] (feature of
//! that name) turns a core module into a component.
//!
//! # What is generated for a service
//! For `service Thumbnailer { rpc Thumbnail(ThumbnailRequest) returns (ThumbnailReply); }`
//!
//! ```ignore
//! pub trait Thumbnailer: Sized + Send + Sync + 'static {
//!     fn thumbnail(&self, cx: &Cx, request: ThumbnailRequest) -> Result<ThumbnailReply, Status>;
//! }
//! impl<C: Caller> ThumbnailerClient<C> {
//!     pub async fn thumbnail(&self, request: &ThumbnailRequest) -> Result<ThumbnailReply, Status>;
//! }
//! impl<C: BlockingCaller> ThumbnailerClient<C> {
//!     pub fn thumbnail_blocking(&self, request: &ThumbnailRequest) -> Result<ThumbnailReply, Status>;
//! }
//! ```
#![forbid(unsafe_code)]

mod builder;
#[cfg(feature = "componentize")]
mod component;
#[cfg(feature = "componentize")]
mod direct;
mod embed;
mod error;
mod metadata;
mod protos;
mod service;

pub use builder::{Builder, plugin};
#[cfg(feature = "componentize")]
pub use component::{METADATA_SECTION, componentize};
pub use embed::{embed, write_embedded};
pub use error::BuildError;
pub use metadata::{metadata, write_c};
pub use protos::{Protos, compile_proto, compile_protos};
