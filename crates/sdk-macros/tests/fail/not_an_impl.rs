#[mortise_sdk_macros::plugin]
struct Plugin;

fn main() {}
