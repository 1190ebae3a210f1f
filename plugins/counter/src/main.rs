mortise_sdk::main!(counter);
