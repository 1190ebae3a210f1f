trait Greeter {}
struct Plugin<T>(T);

#[mortise_sdk_macros::plugin]
impl<T> Greeter for Plugin<T> {}

fn main() {}
