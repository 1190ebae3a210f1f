trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin(export = "no")]
impl Greeter for Plugin {}

fn main() {}
