mortise_sdk_go_plugin::main!(echo_next_grpc::plugin, cookie = "MORTISE_ECHO=hello", versions = [1]);
