//! What is asked of every runtime, by topic. A case panics when the runtime does something else.

pub mod concurrency;
pub mod error;
pub mod fault;
pub mod host;
pub mod log;
pub mod payload;
pub mod time;
pub mod version;
