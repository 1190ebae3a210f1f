unsafe trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin]
unsafe impl Greeter for Plugin {}

fn main() {}
