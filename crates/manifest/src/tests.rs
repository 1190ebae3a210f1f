//! Texts in, manifests or printed faults out.
