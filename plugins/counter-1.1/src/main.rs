mortise_sdk::main!(counter_next::plugin);
