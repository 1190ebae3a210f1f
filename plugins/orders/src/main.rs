mortise_sdk::main!(orders);
