//! Plugins as shared libraries in the host's own address space, over the C ABI.
