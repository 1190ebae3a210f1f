//! The plugin in a process of its own: this test's binary once more, with the probe's `main` in the place of a test.

use std::{
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
};

use mortise_sdk::{
    CallHead, Code, Header, LogRecord, StartRequest, Status, guest::Plugin as _, prost::Message,
};
use mortise_wire::{
    Health,
    credit::window,
    frame::{Decoder, ENV_LANE_FD, Frame, Kind, LANE_VERSION, call_prefix, header, split_call, transport},
    host::{KvGetReply, KvListReply},
    plugin::{Hello, HostCallHead, Welcome},
};

use crate::probe::{
    Plugin,
    contract::{ActReply, ActRequest, KeysReply, KeysRequest, act_request::Act},
    number,
};

const FRAME_BYTES_MAX: u32 = 1 << 20;

/// The probe's process, and our end of its lane.
pub(crate) struct Probe {
    child: Child,
    lane: UnixStream,
    decoder: Decoder,
    logs: Vec<LogRecord>,
}

/// Not a test: what the child runs.
#[test]
fn child() {
    if std::env::var_os(ENV_LANE_FD).is_some() {
        let _ = mortise_sdk::process::main::<Plugin>(Plugin::METADATA);
        std::process::exit(3);
    }
}

impl Probe {
    /// A process that waits for Welcome.
    fn spawn() -> Self {
        Self::spawn_as("process::child")
    }

    /// A process that runs this test of this binary.
    fn spawn_as(child: &str) -> Self {
        let (lane, theirs) = UnixStream::pair().expect("a socket pair");
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).expect("the child inherits it");
        let child = Command::new(std::env::current_exe().expect("this test's binary"))
            .args(["--exact", child, "--nocapture"])
            .env(ENV_LANE_FD, theirs.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the child starts");
        Self {
            child,
            lane,
            decoder: Decoder::new(FRAME_BYTES_MAX),
            logs: Vec::new(),
        }
    }

    /// One that is ready for calls.
    fn ready(concurrency: u32) -> Self {
        Self::ready_as("process::child", concurrency)
    }

    pub(crate) fn ready_as(child: &str, concurrency: u32) -> Self {
        let mut probe = Self::spawn_as(child);
        probe.welcome(concurrency);
        probe.start("{}");
        assert_eq!(probe.next().kind, Kind::Ready);
        probe
    }

    fn welcome(&mut self, concurrency: u32) {
        assert_eq!(self.next().kind, Kind::Hello);
        let welcome = Welcome {
            lane_version: LANE_VERSION,
            frame_bytes_max: FRAME_BYTES_MAX,
            concurrency,
            window_units: window(FRAME_BYTES_MAX),
            lane: transport::RAW.to_owned(),
            stream_messages: 4,
            stream_bytes: 4096,
        };
        self.send(Kind::Welcome, 0, &welcome.encode_to_vec());
    }

    fn start(&mut self, config: &str) {
        let request = StartRequest {
            config_json: config.to_owned(),
            plugin: "probe".to_owned(),
            version: "0.3.1".to_owned(),
            instance: "probe@0.3.1#1".to_owned(),
        };
        self.send(Kind::Start, 0, &request.encode_to_vec());
    }

    pub(crate) fn send(&mut self, kind: Kind, id: u64, body: &[u8]) {
        self.lane
            .write_all(&header(kind, id, body.len() as u32))
            .expect("the child reads");
        self.lane.write_all(body).expect("the child reads");
    }

    pub(crate) fn call(&mut self, id: u64, number: u32, head: &CallHead, request: &[u8]) {
        self.begin(Kind::Call, id, number, head, request);
    }

    pub(crate) fn begin(&mut self, kind: Kind, id: u64, number: u32, head: &CallHead, request: &[u8]) {
        let prefix = call_prefix(kind, id, number, head, request.len());
        self.lane
            .write_all(&[&prefix, request].concat())
            .expect("the child reads");
    }

    fn act(&mut self, id: u64, number: u32, act: Act) {
        self.call(
            id,
            number,
            &CallHead::default(),
            &ActRequest { act: Some(act) }.encode_to_vec(),
        );
    }

    /// The next frame that is no log line.
    pub(crate) fn next(&mut self) -> Frame {
        loop {
            match self.next_or_end() {
                Some(Frame {
                    kind: Kind::Log,
                    body,
                    ..
                }) => self.logs.push(LogRecord::decode(body).unwrap()),
                // This host has credit in plenty; what it gets back it need not count.
                Some(Frame {
                    kind: Kind::Credit, ..
                }) => {}
                Some(frame) => return frame,
                None => panic!("the lane ended"),
            }
        }
    }

    fn next_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().expect("frames") {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.lane.read(&mut bytes).unwrap_or(0) {
                0 => return None,
                read => self.decoder.push(&bytes[..read]),
            }
        }
    }

    fn reply<T: Message + Default>(&mut self, id: u64) -> Result<T, Status> {
        let frame = self.next();
        assert_eq!(frame.call_id, id, "{frame:?}");
        match frame.kind {
            Kind::Reply => Ok(T::decode(frame.body).unwrap()),
            Kind::Error => Err(Status::decode(frame.body).unwrap()),
            kind => panic!("{kind:?} is no answer"),
        }
    }

    /// Reads until the process is gone.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<LogRecord>, String) {
        while let Some(frame) = self.next_or_end() {
            if frame.kind == Kind::Log {
                self.logs.push(LogRecord::decode(frame.body).unwrap());
            }
        }
        let mut stderr = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        (self.child.wait().unwrap(), std::mem::take(&mut self.logs), stderr)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hello_says_who_it_is() {
    let mut probe = Probe::spawn();
    let frame = probe.next();
    assert_eq!(frame.kind, Kind::Hello);
    let hello = Hello::decode(frame.body).unwrap();
    let build = Plugin::BUILD;
    assert_eq!(
        (hello.lane_versions, &*hello.name, &*hello.version),
        (vec![LANE_VERSION], "probe", "0.3.1")
    );
    assert_eq!(
        (hello.contract_hash, hello.concurrency),
        (build.contract_hash.to_vec(), 2)
    );
}

#[test]
fn calls_are_answered_on_both_kinds_of_thread() {
    let mut probe = Probe::ready(0);
    for (id, method) in [(1, number::ACT), (2, number::ACT_INLINE)] {
        for payload in [vec![], vec![5; 300_000]] {
            probe.act(id, method, Act::Echo(payload.clone()));
            assert_eq!(probe.reply::<ActReply>(id).expect("it echoes").bytes, payload);
        }
        probe.act(id, method, Act::Fail(9));
        let status = probe.reply::<ActReply>(id).expect_err("it fails");
        assert_eq!(
            (status.code, &*status.message, status.details.len()),
            (9, "as wished", 1)
        );
        probe.call(id, method, &CallHead::default(), &[0x0a, 0xff]);
        assert_eq!(
            probe.reply::<ActReply>(id).expect_err("a cut varint").kind(),
            Code::InvalidArgument
        );
    }
    probe.call(3, number::END, &CallHead::default(), &[]);
    let status = probe.reply::<ActReply>(3).expect_err("no such method");
    assert_eq!(status.kind(), Code::Unimplemented);
    assert!(
        status.message.contains("has 4 methods, and number 4 was called"),
        "{status}"
    );
}

#[test]
fn the_call_is_seen_from_inside() {
    let mut probe = Probe::ready(0);
    let head = CallHead {
        call_id: 5,
        deadline_ns: 60_000_000_000,
        traceparent: "00-1-2-01".to_owned(),
        metadata: vec![Header {
            name: "x-canary".to_owned(),
            value: "yes".to_owned(),
        }],
        depth: 3,
        caller: "other".to_owned(),
    };
    probe.call(
        5,
        number::ACT,
        &head,
        &ActRequest {
            act: Some(Act::Inspect(true)),
        }
        .encode_to_vec(),
    );
    let seen = probe.reply::<ActReply>(5).expect("it looks").seen;
    for (name, value) in [
        ("call_id", "5"),
        ("traceparent", "00-1-2-01"),
        ("header x-canary", "yes"),
        ("caller", "other"),
        ("depth", "3"),
        ("time left", "true"),
        ("cancelled", "false"),
        ("instance", "probe@0.3.1#1"),
    ] {
        assert_eq!(seen.get(name).map(|it| &**it), Some(value), "{name}");
    }
    assert_eq!(
        (&*probe.logs[0].message, probe.logs[0].call_id),
        ("inspected by Some(\"other\")", 5)
    );
}

#[test]
fn no_more_calls_run_at_once_than_agreed_and_none_is_lost() {
    let mut probe = Probe::ready(64);
    // The manifest says 2. Two calls wait for the host; the third must not ask it anything before one of them is answered.
    for id in 1..=3 {
        probe.call(
            id,
            number::KEYS,
            &CallHead::default(),
            &KeysRequest::default().encode_to_vec(),
        );
    }
    let asked = [probe.next(), probe.next()];
    assert!(asked.iter().all(|it| it.kind == Kind::HostCall), "{asked:?}");
    probe.send(Kind::Ping, 0, &[]);
    let pong = probe.next();
    assert_eq!(
        pong.kind,
        Kind::Pong,
        "a busy plugin still answers how it is, and the third call waits"
    );
    assert!(Health::decode(pong.body).unwrap().serving);
    let mut answered = Vec::new();
    let mut waiting = asked.to_vec();
    while answered.len() < 3 {
        if let Some(frame) = waiting.pop() {
            let reply = KvListReply {
                keys: vec![frame.call_id.to_string()],
            };
            probe.send(Kind::HostReply, frame.call_id, &reply.encode_to_vec());
        }
        let frame = probe.next();
        match frame.kind {
            Kind::HostCall => waiting.push(frame),
            Kind::Reply => answered.push(frame.call_id),
            kind => panic!("{kind:?}"),
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3]);
}

#[test]
fn calls_to_the_host_carry_their_parent_and_bring_its_answer() {
    let mut probe = Probe::ready(0);
    probe.call(
        8,
        number::KEYS,
        &CallHead::default(),
        &KeysRequest {
            prefix: "p".to_owned(),
        }
        .encode_to_vec(),
    );
    let asked = probe.next();
    assert_eq!(asked.kind, Kind::HostCall);
    let (_, head, _) = split_call(asked.body).unwrap();
    let head = HostCallHead::decode(head).unwrap();
    assert_eq!(
        (&*head.target, head.parent_call_id),
        ("mortise.host.v1.Kv/List", 8)
    );
    let denied = Status::new(Code::PermissionDenied, "no grant `kv`");
    probe.send(Kind::HostError, asked.call_id, &denied.encode_to_vec());
    assert_eq!(
        probe.reply::<KeysReply>(8).expect_err("the host said no").message,
        "no grant `kv`"
    );
}

#[test]
fn a_nonblocking_method_is_refused_to_wait_for_the_host() {
    let mut probe = Probe::ready(0);
    probe.act(1, number::ACT_INLINE, Act::AskElsewhere("x".to_owned()));
    let status = probe.reply::<ActReply>(1).expect_err("it would wait for itself");
    assert_eq!(status.kind(), Code::FailedPrecondition);
    assert!(status.message.contains("nonblocking"), "{status}");
}

#[test]
fn cancel_ends_a_wait_and_a_call_to_the_host_and_each_call_is_answered_once() {
    let mut probe = Probe::ready(0);
    probe.act(1, number::ACT, Act::SleepMs(u32::MAX));
    probe.act(2, number::ACT, Act::AskElsewhere("x".to_owned()));
    let asked = probe.next();
    assert_eq!(asked.kind, Kind::HostCall);
    probe.send(Kind::Cancel, 2, &[]);
    assert_eq!(
        probe.reply::<ActReply>(2).expect_err("it gave up").kind(),
        Code::Cancelled
    );
    probe.send(Kind::Cancel, 1, &[]);
    assert_eq!(
        probe.reply::<ActReply>(1).expect_err("it gave up").kind(),
        Code::Cancelled
    );
    // A late answer and a cancel of nothing do no harm.
    probe.send(Kind::HostReply, asked.call_id, &[]);
    probe.send(Kind::Cancel, 99, &[]);
    probe.act(3, number::ACT, Act::Echo(vec![1]));
    assert_eq!(probe.reply::<ActReply>(3).expect("it lives").bytes, [1]);
}

#[test]
fn start_may_call_the_host() {
    let mut probe = Probe::spawn();
    probe.welcome(0);
    probe.start(r#"{"ask":1}"#);
    let asked = probe.next();
    assert_eq!(asked.kind, Kind::HostCall);
    probe.send(
        Kind::HostReply,
        asked.call_id,
        &KvGetReply { value: None }.encode_to_vec(),
    );
    assert_eq!(probe.next().kind, Kind::Ready);
}

#[test]
fn a_start_that_fails_says_why_and_exits() {
    let mut probe = Probe::spawn();
    probe.welcome(0);
    probe.start(r#"{"refuse":1}"#);
    let failed = probe.next();
    assert_eq!(failed.kind, Kind::Failed);
    assert_eq!(
        Status::decode(failed.body).unwrap().message,
        "it was told to refuse"
    );
    assert_eq!(probe.end().0.code(), Some(1));
}

#[test]
fn a_panic_is_logged_with_its_call_and_ends_the_process() {
    for (id, method) in [(4, number::ACT), (5, number::ACT_INLINE)] {
        let mut probe = Probe::ready(0);
        probe.act(id, method, Act::Panic("boom".to_owned()));
        let (status, logs, stderr) = probe.end();
        assert_eq!(status.code(), Some(101));
        let line = logs.last().expect("a log line");
        assert_eq!((line.call_id, line.level), (id, 5));
        assert!(
            line.message.contains("boom") && line.message.contains("probe.rs"),
            "{line:?}"
        );
        assert!(stderr.contains("boom"), "the default hook stays: {stderr}");
    }
}

#[test]
fn a_reply_longer_than_agreed_becomes_an_error() {
    let mut probe = Probe::ready(0);
    probe.act(1, number::ACT, Act::Fill(FRAME_BYTES_MAX + 1));
    let status = probe.reply::<ActReply>(1).expect_err("too long");
    assert_eq!(status.kind(), Code::ResourceExhausted);
    assert!(
        status.message.contains("1048576 is the agreed maximum"),
        "{status}"
    );
    probe.act(2, number::ACT, Act::Fill(FRAME_BYTES_MAX - 100));
    assert!(probe.reply::<ActReply>(2).is_ok());
}

#[test]
fn stop_finishes_what_runs_and_exits() {
    let mut probe = Probe::ready(0);
    probe.call(1, number::KEYS, &CallHead::default(), &[]);
    let asked = probe.next();
    probe.send(Kind::Stop, 0, &[]);
    probe.send(
        Kind::HostReply,
        asked.call_id,
        &KvListReply::default().encode_to_vec(),
    );
    assert!(
        probe.reply::<KeysReply>(1).is_ok(),
        "the running call is finished"
    );
    let (status, ..) = probe.end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_closed_lane_ends_the_process_at_once_even_in_a_call() {
    let mut probe = Probe::ready(0);
    probe.act(1, number::ACT, Act::SleepMs(u32::MAX));
    probe.lane.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(probe.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_host_that_breaks_the_protocol_is_told_why() {
    let mut probe = Probe::ready(0);
    probe.send(Kind::Reply, 1, &[]);
    let (status, _, stderr) = probe.end();
    assert_eq!(status.code(), Some(2));
    assert!(
        stderr.contains("the host broke the protocol: it sent Reply"),
        "{stderr}"
    );

    let mut probe = Probe::spawn();
    assert_eq!(probe.next().kind, Kind::Hello);
    let welcome = Welcome {
        lane_version: 9,
        ..Welcome::default()
    };
    probe.send(Kind::Welcome, 0, &welcome.encode_to_vec());
    let (status, _, stderr) = probe.end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("lane version 9"), "{stderr}");
}

#[test]
fn a_lane_that_is_no_socket_is_named() {
    for (value, part) in [
        ("no number", "should be the number of an open socket"),
        ("987", "not an open socket"),
        ("2", "not an open socket"),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::child", "--nocapture"])
            .env(ENV_LANE_FD, value)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains(part) && stderr.contains("probe 0.3.1"),
            "{stderr}"
        );
    }
}
