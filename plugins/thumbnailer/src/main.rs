mortise_sdk::main!(thumbnailer);
