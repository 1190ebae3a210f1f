//! Configuration of plugins from etcd.
//!
//! The keys of a plugin are `PREFIX/NAME` (its whole configuration) and `PREFIX/NAME/SETTING/..` (one value of it); values are JSON. Whatever does not
//! begin with `PREFIX/` is never read, and what begins with no plugin's name is nobody's: no key of one plugin is told under the name of another.
//!
//! # What it holds to
//! - **E1** The first update is a listing of all keys at one revision R; watching begins at R + 1, so nothing between the two is missed.
//! - **E2** After a disconnect watching goes on at the revision after the last that was seen, and nothing is listed again.
//! - **E3** Where that is not possible (the revision is compacted, the cluster is another one or lost its data) everything is listed again, and the update
//!   is complete: what is gone is gone.
//! - **E4** An etcd that cannot be reached changes nothing. It is tried again after a pause that grows to [`PAUSE_MAX`], each time at the next endpoint.
//! - **E5** Nothing that a key holds, and no credential, is in an error or a log line.
//!
//! It refuses to write to etcd.
#![forbid(unsafe_code)]

mod api;
mod client;
mod keys;
mod source;

pub use source::{EtcdSource, PAUSE_MAX};
