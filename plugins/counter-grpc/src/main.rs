mortise_sdk_go_plugin::main!(counter_grpc::plugin, cookie = "MORTISE_COUNTER=hello", versions = [1]);
