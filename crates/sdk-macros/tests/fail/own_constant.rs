trait Greeter {
    const SERVICE: u32;
}
struct Plugin;

#[mortise_sdk_macros::plugin]
impl Greeter for Plugin {
    const SERVICE: u32 = 1;
}

fn main() {}
