trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin(start = Self::open, start = Self::close)]
impl Greeter for Plugin {}

fn main() {}
