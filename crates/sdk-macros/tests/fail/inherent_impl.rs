struct Plugin;

#[mortise_sdk_macros::plugin]
impl Plugin {
    fn greet(&self) {}
}

fn main() {}
