use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Vec<LogEvent> {
    let mut events = Vec::new();
    let mut parser = LogParser::default();
    parser.push(text.as_bytes(), |event| events.push(event));
    parser.finish(|event| events.push(event));
    events
}

fn levels(text: &str) -> Vec<LogLevel> {
    parse(text).into_iter().map(|event| event.level).collect()
}

#[test]
fn a_line_of_hclog() {
    let line = r#"{"@caller":"main.go:3","@level":"warn","@message":"low on fuel","@module":"car.tank","@timestamp":"2026-11-21T11:15:26.756006Z","left":3,"nested":{"a":[1,2]},"nothing":null}"#;
    let events = parse(line);
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (event.level, &*event.message, &*event.module),
        (LogLevel::Warn, "low on fuel", "car.tank")
    );
    let fields: Vec<_> = event
        .fields
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        fields,
        [
            "timestamp=2026-11-21T11:15:26.756006Z",
            "caller=main.go:3",
            "left=3",
            r#"nested={"a":[1,2]}"#,
            "nothing=null"
        ]
    );
}

#[test]
fn odd_types_are_text() {
    // Go's host ends with a panic on each of these.
    let events = parse(r#"{"@level":"info","@message":17,"@module":[1],"@timestamp":{}}"#);
    assert_eq!((&*events[0].message, &*events[0].module), ("17", "[1]"));
    // An object without a level is somebody else's: the line itself is the message.
    for line in [
        r#"{"level":"info"}"#,
        r#"{"@level":3,"@message":"m"}"#,
        r#"{"@level":"loud"}"#,
        "{",
        "[1,2]",
    ] {
        let events = parse(line);
        assert_eq!((events[0].level, &*events[0].message), (LogLevel::Debug, line));
    }
}

#[test]
fn prefixes_say_the_level() {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    assert_eq!(
        levels("[TRACE] a\n[DEBUG] a\n[INFO] a\n[WARN] a\n[ERROR] a\n[info] a\n[ERR] a\nplain\r\n"),
        [Trace, Debug, Info, Warn, Error, Debug, Debug, Debug]
    );
}

#[test]
fn after_a_panic_everything_is_an_error() {
    use LogLevel::{Debug, Error, Info};
    assert_eq!(
        levels("before\npanic: oh\n\ngoroutine 1 [running]:\n[INFO] but this says what it is\nmain.main()"),
        [Debug, Error, Error, Info, Error]
    );
    assert_eq!(
        levels("fatal error: all goroutines are asleep\nx"),
        [Error, Error]
    );
}

#[test]
fn a_long_line_comes_in_pieces() {
    let long = format!(
        "{{\"@level\":\"error\",\"@message\":\"{}\"}}",
        "x".repeat(2 * LINE_BYTES_MAX)
    );
    let events = parse(&format!("{long}\nnext"));
    let sizes: Vec<_> = events.iter().map(|event| event.message.len()).collect();
    assert_eq!(
        sizes,
        [LINE_BYTES_MAX, LINE_BYTES_MAX, long.len() - 2 * LINE_BYTES_MAX, 4]
    );
    assert!(events.iter().all(|event| event.level == LogLevel::Debug));
    // One that just fits is whole.
    let fits = "y".repeat(LINE_BYTES_MAX);
    assert_eq!(parse(&format!("{fits}\n")).concat_len(), LINE_BYTES_MAX);
}

#[test]
fn many_fields_are_counted() {
    let fields: Vec<_> = (0..FIELDS_MAX + 9).map(|n| format!("\"f{n}\":{n}")).collect();
    let events = parse(&format!("{{\"@level\":\"info\",{}}}", fields.join(",")));
    assert_eq!(events[0].fields.len(), FIELDS_MAX + 1);
    assert_eq!(
        events[0].fields.last().unwrap(),
        &("fields_dropped".to_owned(), "9".to_owned())
    );
}

#[test]
fn what_is_printed_is_read_back() {
    use std::time::Duration;
    let event = LogEvent {
        level: LogLevel::Warn,
        message: "low \"on\"\nfuel".to_owned(),
        module: "car".to_owned(),
        fields: vec![("left".to_owned(), "3".to_owned())],
    };
    let line = event.to_hclog(UNIX_EPOCH + Duration::from_micros(1_795_259_726_756_006));
    assert_eq!(line.matches('\n').count(), 1);
    let mut events = parse(&line);
    let timestamp = events[0].fields.remove(0);
    assert_eq!(
        timestamp,
        ("timestamp".to_owned(), "2026-11-21T11:15:26.756006Z".to_owned())
    );
    assert_eq!(events, [event]);
    for (seconds, date) in [
        (0, "1970-01-01"),
        (951_782_400, "2000-02-29"),
        (4_107_542_400, "2100-03-01"),
    ] {
        assert!(
            timestamp_of(seconds).starts_with(date),
            "{}",
            timestamp_of(seconds)
        );
    }
}

fn timestamp_of(seconds: u64) -> String {
    timestamp(UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

trait ConcatLen {
    fn concat_len(&self) -> usize;
}

impl ConcatLen for Vec<LogEvent> {
    fn concat_len(&self) -> usize {
        self.iter().map(|event| event.message.len()).sum()
    }
}

proptest! {
    #[test]
    fn any_bytes_are_safe(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..30)) {
        let mut parser = LogParser::default();
        for chunk in &chunks {
            parser.push(chunk, |event| assert!(event.message.len() <= 3 * LINE_BYTES_MAX));
            prop_assert!(parser.line.len() <= LINE_BYTES_MAX);
        }
        parser.finish(|_| {});
    }

    #[test]
    fn any_object_is_safe(
        level in "(trace|debug|info|warn|error|x)?",
        key in "@?[a-z]{1,9}",
        value in proptest::sample::select(vec!["null", "[1]", "\"s\"", "-1e9", "true", "{}"]),
    ) {
        let line = format!(r#"{{"@level":"{level}","{key}":{value},"@message":{value}}}"#);
        let events = parse(&line);
        prop_assert_eq!(events.len(), 1);
    }

    /// How the bytes come is of no matter.
    #[test]
    fn chunks_do_not_matter(text in "([a-z{}\":@\\[\\]]{0,30}\n){0,10}", cut in 0_usize..300) {
        let cut = cut.min(text.len());
        let mut parts = Vec::new();
        let mut parser = LogParser::default();
        parser.push(&text.as_bytes()[..cut], |event| parts.push(event));
        parser.push(&text.as_bytes()[cut..], |event| parts.push(event));
        parser.finish(|event| parts.push(event));
        prop_assert_eq!(parts, parse(&text));
    }
}
