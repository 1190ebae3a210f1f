//! What is asked of every runtime, by topic. A case panics when the runtime does something else.

pub(crate) mod concurrency;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod fault;
pub(crate) mod host;
pub(crate) mod log;
pub(crate) mod payload;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod time;
pub(crate) mod version;
