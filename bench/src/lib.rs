//! Benchmarks with their anchors, and the load generator.
