//! Mortise: the plugin platform for services, in Rust.
