mortise_sdk::main!(thumbnailer_1_3);
