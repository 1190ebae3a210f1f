//! Plugins of other compilers.
