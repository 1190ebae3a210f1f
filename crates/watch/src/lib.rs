//! Tells which package folders of a directory are settled: written whole, and left alone since.
//!
//! A package folder is a folder, or a link to one, that stands in the directory, whose name does not begin with a dot and that has a
//! `plugin.toml`. What its files mean is for whoever is told; here they are names, sizes, times and bytes.
//!
//! It refuses to guess. What the system says about changes ([`notify`]: inotify, kqueue, ReadDirectoryChangesW) is only a bell: it says that it is
//! time for a look, and nothing else, so a change that was told twice, late or not at all costs a look and never a wrong answer. Where there is
//! no bell (network mounts, a system that is out of watches) looks come at a fixed pace.
//!
//! # Parts
//! - [`settle`]: from looks and times to changes. Pure: no clock, no file.
//! - `scan`: one look at the directory.
//! - `bell`: when to look.
//! - [`Watch`]: the thread that puts them together.
//!
//! # What it costs
//! A look is one `stat` per file. However many changes there are, looks take at most a tenth of one core ([`Watch`] says how), and their number
//! bounds what is kept: one line per folder, at most [`FOLDERS_MAX`] of them.
#![forbid(unsafe_code)]

mod bell;
mod scan;
pub mod settle;
mod watch;

pub use scan::{FILES_MAX, FOLDERS_MAX};
pub use settle::Print;
pub use watch::{Change, Settled, Watch, WatchError, WatchOptions};
