//! One suite, run on every runtime.
