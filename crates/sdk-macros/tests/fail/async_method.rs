trait Greeter {
    async fn greet(&self);
}
struct Plugin;

#[mortise_sdk_macros::plugin]
impl Greeter for Plugin {
    async fn greet(&self) {}
}

fn main() {}
