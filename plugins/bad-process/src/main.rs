mortise_sdk::main!(bad_process);
