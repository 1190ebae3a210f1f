//! Compile a plugin's contract in build.rs, without protoc.
