//! A plugin as its author writes it, and the one line by which it serves go-plugin hosts too.

mod double {
    use std::time::Duration;

    use mortise_sdk::prelude::*;

    mortise_sdk::contract!("tests/double/generated");
    use contract::{
        PrintKvRequest, PrintKvResponse, Test, TestRequest, TestResponse, print_kv_request::Value,
    };

    #[derive(Default)]
    struct Double;

    #[mortise_sdk::plugin(generated = "tests/double/generated")]
    impl Test for Double {
        fn double(&self, cx: &Cx, request: TestRequest) -> Result<TestResponse> {
            info!(cx, { input = request.input }, "doubling");
            Ok(TestResponse {
                output: 2 * request.input,
            })
        }

        /// Obeys a few keys, so that a test can have what it needs of a plugin.
        fn print_kv(&self, cx: &Cx, request: PrintKvRequest) -> Result<PrintKvResponse> {
            let text = match request.value {
                Some(Value::ValueString(text)) => text,
                Some(Value::ValueInt(number)) => number.to_string(),
                None => String::new(),
            };
            match &*request.key {
                "print" => println!("{text}"),
                "sleep" => {
                    if cx.sleep(Duration::from_secs(600)).is_err() {
                        warn!(cx, "sleep was cancelled");
                    }
                }
                "panic" => panic!("{text}"),
                "host" => {
                    cx.kv().get(&text)?;
                }
                "seen" => {
                    let deadline = cx.remaining().is_some();
                    let headers: Vec<_> = cx
                        .metadata()
                        .iter()
                        .map(|it| format!("{}={}", it.name, it.value))
                        .collect();
                    return Err(Status::not_found(format_args!(
                        "deadline={deadline} {}",
                        headers.join(",")
                    )));
                }
                key => {
                    return Err(
                        Status::invalid_argument(format_args!("`{key}` is no key of this plugin"))
                            .with_detail("type.test/detail", vec![1, 2, 3]),
                    );
                }
            }
            Ok(PrintKvResponse {})
        }
    }
}

mortise_sdk_go_plugin::main!(double, cookie = "BASIC_PLUGIN=hello", versions = [1, 2, 3]);
