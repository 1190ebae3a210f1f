mortise_sdk::main!(echo_next::plugin);
