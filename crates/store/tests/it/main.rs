//! The store against folders made to deceive, a full disk, a damaged database and a second host.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod artifacts;
mod changes;
mod data_dir;
mod events;
mod fixture;
mod journal;
mod kv;
mod package;
mod shelf;
