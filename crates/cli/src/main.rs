//! The command `mortise`.

fn main() {}
