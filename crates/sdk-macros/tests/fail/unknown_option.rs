trait Greeter {}
struct Plugin;

#[mortise_sdk_macros::plugin(name = "greeter")]
impl Greeter for Plugin {}

fn main() {}
