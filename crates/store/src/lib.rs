//! Artifacts on disk by digest, the journal, key-value data.
