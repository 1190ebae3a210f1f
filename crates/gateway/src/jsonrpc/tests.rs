//! The examples of the spec's section 7, and the corners that it leaves to careful reading.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// The methods that the spec's examples call.
#[derive(Default)]
struct Arithmetic {
    calls: AtomicUsize,
    running: AtomicUsize,
    peak: AtomicUsize,
}

impl Methods for Arithmetic {
    type Caller = ();

    async fn call(&self, (): &(), request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), RpcError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let numbers = |params: Option<&str>| -> Vec<i64> {
            serde_json::from_str(params.unwrap_or("[]")).unwrap_or_default()
        };
        match &*request.method {
            "subtract" => {
                if let Some(params) = request.params.filter(|params| params.starts_with('{')) {
                    let by_name: serde_json::Value =
                        serde_json::from_str(params).expect("checked by the parser");
                    let part = |name: &str| by_name[name].as_i64().expect("a number");
                    out.extend_from_slice((part("minuend") - part("subtrahend")).to_string().as_bytes());
                    return Ok(());
                }
                let [a, b] = numbers(request.params)[..] else {
                    out.extend_from_slice(b"half an ans");
                    return Err(RpcError::invalid_params("two numbers are needed", "give two"));
                };
                out.extend_from_slice((a - b).to_string().as_bytes());
                Ok(())
            }
            "sum" => {
                out.extend_from_slice(numbers(request.params).iter().sum::<i64>().to_string().as_bytes());
                Ok(())
            }
            "get_data" => {
                out.extend_from_slice(br#"["hello",5]"#);
                Ok(())
            }
            "slow" => {
                let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
                self.peak.fetch_max(running, Ordering::SeqCst);
                tokio::task::yield_now().await;
                self.running.fetch_sub(1, Ordering::SeqCst);
                out.extend_from_slice(b"0");
                Ok(())
            }
            "update" | "notify_hello" | "notify_sum" => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            other => Err(RpcError::protocol(
                code::METHOD_NOT_FOUND,
                "not_found",
                format!("no method {other}"),
                "x",
            )),
        }
    }
}

const BOUNDS: Bounds = Bounds {
    batch_entries_max: 8,
    batch_concurrency: 3,
    batch_answer_bytes_max: 1 << 20,
};

fn ask(body: &str) -> String {
    let answer = block_on(answer(&Arithmetic::default(), &(), body.as_bytes(), BOUNDS));
    let Some(answer) = answer else {
        return "(nothing)".to_owned();
    };
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("an answer is JSON");
    match answer {
        serde_json::Value::Array(all) => all.iter().map(short).collect::<Vec<_>>().join(" | "),
        one => short(&one),
    }
}

/// `id: result` or `id: code`; checks the shape on the way.
fn short(answer: &serde_json::Value) -> String {
    let members = answer.as_object().expect("an answer is an object");
    assert_eq!(members["jsonrpc"], "2.0");
    assert_eq!(members.len(), 3, "exactly one of result and error: {answer}");
    let outcome = members.get("result").unwrap_or_else(|| &members["error"]["code"]);
    format!("{}: {outcome}", members["id"])
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("no driver is needed")
        .block_on(future)
}

#[test]
fn the_examples_of_the_spec() {
    for (body, expected) in [
        // positional and named parameters
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            "1: 19",
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
            "2: -19",
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            "3: 19",
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
            "4: 19",
        ),
        // notifications
        (
            r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#,
            "(nothing)",
        ),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, "(nothing)"),
        // a method that does not exist
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            "\"1\": -32601",
        ),
        // broken JSON
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            "null: -32700",
        ),
        // not a request
        (
            r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
            "null: -32600",
        ),
        // batches: broken JSON, empty, of nonsense
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method""#,
            "null: -32700",
        ),
        ("[]", "null: -32600"),
        (r#"[["2.0", 1, "sum"]]"#, "null: -32600"),
        ("[1]", "null: -32600"),
        ("[1,2,3]", "null: -32600 | null: -32600 | null: -32600"),
        // a mixed batch
        (
            r#"[
                {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
            ]"#,
            r#""1": 7 | "2": 19 | null: -32600 | "5": -32601 | "9": ["hello",5]"#,
        ),
        // a batch of notifications
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]}, {"jsonrpc": "2.0", "method": "notify_hello"}]"#,
            "(nothing)",
        ),
    ] {
        assert_eq!(ask(body), expected, "{body}");
    }
}

#[test]
fn ids() {
    for (id, expected) in [
        ("null", "null: 0"),
        ("0", "0: 0"),
        ("-7", "-7: 0"),
        ("1.5", "1.5: 0"),
        (r#""a\"b""#, r#""a\"b": 0"#),
        (r#""""#, r#""": 0"#),
        ("true", "null: -32600"),
        ("{}", "null: -32600"),
        ("[1]", "null: -32600"),
    ] {
        assert_eq!(
            ask(&format!(r#"{{"jsonrpc":"2.0","method":"sum","id":{id}}}"#)),
            expected,
            "{id}"
        );
    }
}

#[test]
fn a_number_comes_back_digit_for_digit() {
    for id in [
        "18446744073709551616",
        "1e400",
        "0.1000",
        "123456789012345678901234567890",
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"sum","id":{id}}}"#);
        let answer =
            block_on(answer(&Arithmetic::default(), &(), body.as_bytes(), BOUNDS)).expect("it has an id");
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":0}}"#);
        assert_eq!(String::from_utf8(answer).expect("UTF-8"), expected);
    }
}

#[test]
fn envelopes() {
    for (body, expected) in [
        ("", "null: -32700"),
        ("   ", "null: -32700"),
        ("nul", "null: -32700"),
        ("\"text\"", "null: -32600"),
        ("5", "null: -32600"),
        ("null", "null: -32600"),
        ("{}", "null: -32600"),
        ("{} x", "null: -32700"),
        (r#"{"id":7}"#, "7: -32600"),
        (r#"{"id":7,"method":"sum"}"#, "7: -32600"),
        (r#"{"id":7,"jsonrpc":"1.0","method":"sum"}"#, "7: -32600"),
        (r#"{"id":7,"jsonrpc":2.0,"method":"sum"}"#, "7: -32600"),
        (r#"{"id":7,"jsonrpc":"2.0"}"#, "7: -32600"),
        (r#"{"id":7,"jsonrpc":"2.0","method":null}"#, "7: -32600"),
        (
            r#"{"id":7,"jsonrpc":"2.0","method":"sum","params":null}"#,
            "7: -32600",
        ),
        (
            r#"{"id":7,"jsonrpc":"2.0","method":"sum","params":3}"#,
            "7: -32600",
        ),
        (
            r#"{"id":7,"id":8,"jsonrpc":"2.0","method":"sum"}"#,
            "null: -32600",
        ),
        // a fault of meaning before a fault of syntax is still a parse error
        (r#"{"id":7,"id":8,"jsonrpc":"2.0","method":"sum""#, "null: -32700"),
        // members the spec does not name, escapes in the method, blanks around it all
        (
            r#" {"id":7,"jsonrpc":"2.0","method":"sum","auth":{"a":1}} "#,
            "7: 0",
        ),
        (r#"{"id":7,"jsonrpc":"2.0","method":"\u0073um"}"#, "7: 0"),
        (
            "\n[ {\"id\":7,\"jsonrpc\":\"2.0\",\"method\":\"sum\"} ]\n",
            "7: 0",
        ),
        // what was written before the failure is not in the answer
        (
            r#"{"id":7,"jsonrpc":"2.0","method":"subtract","params":[1]}"#,
            "7: -32602",
        ),
    ] {
        assert_eq!(ask(body), expected, "{body}");
    }
}

#[test]
fn a_body_that_is_not_utf8() {
    let answer =
        block_on(answer(&Arithmetic::default(), &(), b"{\"id\":\"\xff\"}", BOUNDS)).expect("an answer");
    assert!(answer.windows(6).any(|it| it == b"-32700"));
}

#[test]
fn batches_are_bounded() {
    let one = r#"{"jsonrpc":"2.0","method":"slow","id":1}"#;
    let batch = |n: usize| format!("[{}]", vec![one; n].join(","));
    let methods = Arithmetic::default();
    let got = block_on(answer(&methods, &(), batch(8).as_bytes(), BOUNDS)).expect("eight answers");
    assert_eq!(
        serde_json::from_slice::<Vec<IgnoredAny>>(&got)
            .expect("an array")
            .len(),
        8
    );
    assert_eq!(
        methods.peak.load(Ordering::SeqCst),
        BOUNDS.batch_concurrency,
        "concurrent, and no more than that"
    );

    let methods = Arithmetic::default();
    let got = block_on(answer(&methods, &(), batch(9).as_bytes(), BOUNDS)).expect("one refusal");
    assert!(got.windows(6).any(|it| it == b"-32600"));
    assert_eq!(
        methods.calls.load(Ordering::SeqCst),
        0,
        "nothing of a refused batch runs"
    );
}

#[test]
fn the_answers_of_a_batch_are_bounded() {
    let bounds = Bounds {
        batch_concurrency: 1,
        batch_answer_bytes_max: 60,
        ..BOUNDS
    };
    let call = |id: u32| format!(r#"{{"jsonrpc":"2.0","method":"slow","id":{id}}}"#);
    let body = format!(
        r#"[{},{},{{"jsonrpc":"2.0","method":"update"}},{},7]"#,
        call(1),
        call(2),
        call(3)
    );
    let methods = Arithmetic::default();
    let got = block_on(answer(&methods, &(), body.as_bytes(), bounds)).expect("answers");
    let got: Vec<serde_json::Value> = serde_json::from_slice(&got).expect("a batch of answers");
    let got: Vec<_> = got.iter().map(short).collect();
    assert_eq!(got, ["1: 0", "2: 0", "3: -32004", "null: -32600"]);
    assert_eq!(
        methods.calls.load(Ordering::SeqCst),
        2,
        "nothing beyond the bound runs"
    );
}

#[test]
fn the_rest_of_a_batch_that_is_too_long_is_counted_and_not_kept() {
    let entries = Entries::read("[1, 2, {\"a\": [3]}, 4]", 2).expect("a list");
    let first: Vec<_> = entries.first.iter().map(|it| it.get()).collect();
    assert_eq!((first, entries.count), (vec!["1", "2"], 4));
    assert!(Entries::read("[1, 2, }", 1).is_err(), "all of it is read");
    assert!(Entries::read("[1] 2", 1).is_err(), "and what comes after it");
}
