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
                "eprint" => eprintln!("{text}"),
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

        /// Gives back what it gets; a negative number is an error.
        fn stream(
            &self,
            cx: &Cx,
            requests: &mut Requests<TestRequest>,
            replies: &mut Replies<TestResponse>,
        ) -> Result<()> {
            loop {
                match requests.receive() {
                    Ok(None) => return Ok(()),
                    Ok(Some(TestRequest { input })) if input < 0 => {
                        return Err(Status::failed_precondition(format_args!("{input} is negative"))
                            .with_detail("type.test/detail", vec![1, 2, 3]));
                    }
                    Ok(Some(TestRequest { input })) => replies.send(TestResponse { output: input })?,
                    Err(status) => {
                        warn!(cx, { code = status.kind(), cancelled = cx.is_cancelled() }, "the stream broke off");
                        return Err(status);
                    }
                }
            }
        }

        /// Counts up to a number; towards a negative one it counts for ever.
        fn count(&self, cx: &Cx, request: TestRequest, replies: &mut Replies<TestResponse>) -> Result<()> {
            for output in 0.. {
                if output == request.input {
                    break;
                }
                if let Err(status) = replies.send(TestResponse { output }) {
                    warn!(cx, { code = status.kind(), cancelled = cx.is_cancelled() }, "the count broke off");
                    return Err(status);
                }
            }
            Ok(())
        }

        /// Adds up; a negative number is the last.
        fn sum(&self, _: &Cx, requests: &mut Requests<TestRequest>) -> Result<TestResponse> {
            let mut output = 0;
            for request in requests {
                let TestRequest { input } = request?;
                if input < 0 {
                    break;
                }
                output += input;
            }
            Ok(TestResponse { output })
        }
    }
}

mortise_sdk_go_plugin::main!(double, cookie = "BASIC_PLUGIN=hello", versions = [1, 2, 3]);
