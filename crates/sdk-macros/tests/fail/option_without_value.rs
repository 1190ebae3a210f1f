trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin(start)]
impl Greeter for Plugin {}

fn main() {}
