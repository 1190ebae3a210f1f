//! Plugins compiled into the host.
