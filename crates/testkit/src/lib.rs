//! Test a plugin without a daemon.
