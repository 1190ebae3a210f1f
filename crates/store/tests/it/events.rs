//! The log of events: what keeps events, what makes room, and what is bounded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mortise_events::{DeadQuery, EventErrorKind, NewEvent, TopicSchema, delivery::Next};
use mortise_manifest::{EventsConfig, SubscribeFrom};
use mortise_store::{EventLog, LogWrite, Survives, Written};

/// A log, and a clock of its own.
struct Log {
    folder: tempfile::TempDir,
    log: EventLog,
    config: EventsConfig,
    now: SystemTime,
}

impl Log {
    fn new(config: EventsConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let log = EventLog::open(&folder.path().join("events.db"), now, config.clone()).unwrap();
        Self {
            folder,
            log,
            config,
            now,
        }
    }

    fn again(self) -> Self {
        let Self {
            folder,
            log,
            config,
            now,
        } = self;
        drop(log);
        let log = EventLog::open(&folder.path().join("events.db"), now, config.clone()).unwrap();
        Self {
            folder,
            log,
            config,
            now,
        }
    }

    fn write(&self, write: LogWrite) -> Written {
        let mut written = self.log.write(self.now, Survives::Crash, &[write]).unwrap();
        written.pop().unwrap()
    }

    fn publish(&self, topic: &str, bytes: usize) -> Result<u64, String> {
        let event = NewEvent {
            topic: topic.to_owned(),
            type_name: "test.v1.Blob".to_owned(),
            key: None,
            payload: Bytes::from(vec![b'x'; bytes]),
            publisher: String::new(),
            traceparent: String::new(),
            headers: Vec::new(),
            depth: 0,
        };
        match self.write(LogWrite::Append(event)) {
            Written::Appended(published) => Ok(published.seq),
            Written::Refused(error) => Err(error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    fn subscribe(&self, name: &str, pattern: &str) {
        self.write(LogWrite::Subscribe {
            name: name.to_owned(),
            pattern: pattern.parse().unwrap(),
            from: SubscribeFrom::Oldest,
        });
    }

    fn prune(&self, skipped_ms: i64) -> (u64, Vec<String>) {
        let prune = LogWrite::Prune {
            active: Vec::new(),
            skipped_ms,
        };
        match self.write(prune) {
            Written::Pruned { events, forgotten } => (events, forgotten),
            other => panic!("{other:?}"),
        }
    }

    fn behind(&self) -> Vec<(String, u64)> {
        let all = self.log.subscriptions().unwrap().into_iter();
        all.map(|it| (it.name, it.behind)).collect()
    }

    fn events(&self) -> usize {
        self.log.read(None, 0, 1000).unwrap().0.len()
    }
}

fn small() -> EventsConfig {
    EventsConfig {
        log_bytes_max: 100 << 10,
        retention: Duration::from_secs(3600),
        ..EventsConfig::default()
    }
}

#[test]
fn a_subscription_that_nobody_opens_holds_only_its_own_events() {
    let log = Log::new(small());
    log.subscribe("audit/x", "audit.>");
    log.subscribe("both/x", "*.eu");
    for _ in 0..500 {
        log.publish("orders.us", 10 << 10)
            .expect("there is room, for nobody wants them");
    }
    let behind = |audit, both| vec![("audit/x".to_owned(), audit), ("both/x".to_owned(), both)];
    assert_eq!(log.behind(), behind(0, 0), "of its topics");
    let own = log.publish("orders.eu", 10 << 10).unwrap();
    assert_eq!(log.behind(), behind(0, 1));
    let refused = (0..500).find_map(|_| log.publish("orders.us", 10 << 10).err());
    let refused = refused.expect("what comes after its own event stays");
    assert!(
        refused.contains("subscription `both/x` is 1 events behind"),
        "{refused}"
    );
    let (events, _) = log.log.read(Some(&"orders.eu".parse().unwrap()), 0, 10).unwrap();
    assert_eq!(events[0].seq, own);
}

#[test]
fn a_clock_that_goes_back_fills_nothing() {
    let mut log = Log::new(small());
    for _ in 0..9 {
        log.publish("orders.us", 10 << 10).unwrap();
    }
    log.now -= Duration::from_secs(1800);
    for _ in 0..20 {
        log.publish("orders.us", 10 << 10)
            .expect("nobody needs what is there");
    }
    assert_eq!(log.prune(0).0, 0, "all of it is young");
    log.now += Duration::from_secs(7200);
    assert!(log.prune(0).0 > 0);
    assert_eq!(log.events(), 0);
}

#[test]
fn a_topic_for_each_event_is_refused_in_the_end() {
    let log = Log::new(EventsConfig::default());
    let begin = |topic: String, bytes: usize| {
        let schema = TopicSchema {
            type_name: "test.v1.Blob".to_owned(),
            descriptor_set: Bytes::from(vec![1; bytes]),
        };
        log.write(LogWrite::Schema { topic, schema })
    };
    for number in 0..4096 {
        let begun = begin(format!("orders.{number}"), 10);
        assert!(matches!(begun, Written::Schema(_)), "{number}: {begun:?}");
    }
    let Written::Refused(refused) = begin("orders.more".to_owned(), 10) else {
        panic!("there is no end of it");
    };
    assert_eq!(refused.kind(), EventErrorKind::Full);
    assert!(refused.hint().contains("into the message"), "{}", refused.hint());
    let known = begin("orders.7".to_owned(), 20);
    assert!(matches!(known, Written::Schema(it) if it.descriptor_set.len() == 10));
    // And by their size.
    let log = Log::new(EventsConfig::default());
    let large = |number: u32| {
        let schema = TopicSchema {
            type_name: "test.v1.Blob".to_owned(),
            descriptor_set: Bytes::from(vec![1; 16 << 20]),
        };
        log.write(LogWrite::Schema {
            topic: format!("orders.{number}"),
            schema,
        })
    };
    let begun = (0..17).map(large).filter(|it| matches!(it, Written::Schema(_)));
    assert_eq!(begun.count(), 16);
}

#[test]
fn nobody_is_forgotten_for_time_in_which_nobody_could_be_seen() {
    let day = Duration::from_secs(24 * 3600);
    let mut log = Log::new(small());
    log.subscribe("books/x", "orders.>");
    log.publish("orders.us", 10).unwrap();
    // The host is off over a long weekend.
    log.now += day * 3;
    let mut log = log.again();
    assert_eq!(log.prune(0), (0, Vec::new()));
    // The clock jumps, and is found to.
    log.now += day * 30;
    let skipped = i64::try_from((day * 30).as_millis()).unwrap();
    assert_eq!(log.prune(skipped), (0, Vec::new()));
    assert_eq!(log.behind(), [("books/x".to_owned(), 1)]);
    // It runs, and nobody comes.
    log.now += day * 2;
    let (events, forgotten) = log.prune(0);
    assert_eq!((events, forgotten), (1, vec!["books/x".to_owned()]));
}

#[test]
fn one_look_takes_no_more_than_memory_should_hold() {
    let log = Log::new(EventsConfig::default());
    log.subscribe("books/x", "orders.>");
    for _ in 0..40 {
        let seq = log.publish("orders.us", 1 << 20).unwrap();
        log.write(LogWrite::Settle {
            subscription: "books/x".to_owned(),
            seq,
            next: Next::Dead { attempts: 1 },
            why: "no".to_owned(),
        });
    }
    for pattern in ["orders.us", "orders.>"] {
        let pattern = pattern.parse().unwrap();
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let (events, to) = log.log.read(Some(&pattern), after, 1000).unwrap();
            assert!(events.len() <= 16, "{} MiB at once", events.len());
            found.extend(events.into_iter().map(|it| it.seq));
            if to == after || to >= 40 && found.len() >= 40 {
                break;
            }
            after = to;
        }
        assert_eq!(found, (1..=40).collect::<Vec<_>>());
    }
    assert!(log.log.newest(None, 1000).unwrap().len() <= 16);
    let query = DeadQuery {
        limit: 1000,
        ..DeadQuery::default()
    };
    let letters = log.log.dead(&query).unwrap();
    assert_eq!(letters.len(), 16);
    assert_eq!(letters[0].letter, 1);
}
