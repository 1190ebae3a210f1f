trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin(also = Admin)]
impl Greeter for Plugin {}

fn main() {}
