mortise_sdk::main!(echo);
