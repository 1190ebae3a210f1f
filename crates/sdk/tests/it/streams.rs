//! A method that streams, in a process of its own. The host of these tests gives a stream 4 messages and 4 KiB per direction.

use mortise_sdk::{
    CallHead, Code, Cx, Result, Status, StreamLink,
    guest::{Build, Method, Plugin, Service, StreamOf},
    prost::Message as _,
};
use mortise_wire::{
    METHOD_CLIENT_STREAMING, METHOD_SERVER_STREAMING,
    frame::{ENV_LANE_FD, Frame, Kind, number, numbered},
};

use crate::process::Probe;

const MESSAGES: usize = 4;

/// Gives every message back; `stop` ends it early, `fail` with an error. What it was told when it could not go on is in its last log line.
struct Parrot;

struct Talk;

impl StreamOf<Parrot> for Talk {
    const SERVICE: &'static str = "parrot.v1.Parrot";
    const NAME: &'static str = "Talk";
    const FLAGS: u32 = METHOD_CLIENT_STREAMING | METHOD_SERVER_STREAMING;
    const WIRE_HASH: [u8; 32] = [0; 32];

    fn run(_: &Parrot, cx: &Cx, link: &dyn StreamLink) -> Result<()> {
        let talk = || {
            while let Some(message) = link.receive()? {
                match &message[..] {
                    b"stop" => return Ok(()),
                    b"fail" => return Err(Status::new(Code::DataLoss, "as told")),
                    _ => link.send(message)?,
                }
            }
            Ok(())
        };
        let outcome = talk();
        mortise_sdk::info!(cx, "it ended: {outcome:?}");
        outcome
    }
}

impl Plugin for Parrot {
    const BUILD: Build = Build {
        name: "parrot",
        version: "1.0.0",
        methods: 1,
        concurrency: 1,
        contract_hash: [0; 32],
        lifecycle: mortise_sdk::guest::Lifecycle::NONE,
    };
    const METADATA: &'static [u8] = &[];
    const SERVICES: &'static [Service<Self>] = &[Service {
        name: "parrot.v1.Parrot",
        first: 0,
        methods: &[Method::of_stream::<Talk>()],
    }];

    fn start(_: &Cx) -> Result<Self> {
        Ok(Self)
    }
}

/// Not a test: what the child runs.
#[test]
fn child() {
    if std::env::var_os(ENV_LANE_FD).is_some() {
        let _ = mortise_sdk::process::main::<Parrot>(Parrot::METADATA);
        std::process::exit(3);
    }
}

fn open(id: u64, head: &CallHead) -> Probe {
    let mut parrot = Probe::ready_as("streams::child", 0);
    parrot.begin(Kind::Open, id, 0, head, &[]);
    parrot
}

/// The next frame but what it gives back of our own messages.
fn next(parrot: &mut Probe) -> Frame {
    loop {
        let frame = parrot.next();
        if frame.kind != Kind::Grant {
            return frame;
        }
        assert!(number(&frame).unwrap() > 0);
    }
}

fn code(frame: &Frame) -> Code {
    assert_eq!(frame.kind, Kind::Error, "{frame:?}");
    Status::decode(frame.body.clone()).unwrap().kind()
}

#[test]
fn messages_come_back_and_the_end_is_answered() {
    let mut parrot = open(5, &CallHead::default());
    for message in [&b"one"[..], b"", b"three"] {
        parrot.send(Kind::Item, 5, message);
        let frame = next(&mut parrot);
        assert_eq!(
            (frame.kind, frame.call_id, &frame.body[..]),
            (Kind::Item, 5, message)
        );
        parrot.send(Kind::Grant, 5, &1024_u32.to_le_bytes());
    }
    parrot.send(Kind::End, 5, &[]);
    assert_eq!(next(&mut parrot).kind, Kind::End);
    // Its place is free, and what was on its way is nothing to anybody.
    parrot.send(Kind::Item, 5, b"late");
    parrot.begin(Kind::Open, 6, 0, &CallHead::default(), &[]);
    parrot.send(Kind::Item, 6, b"fail");
    let frame = next(&mut parrot);
    assert_eq!((code(&frame), frame.call_id), (Code::DataLoss, 6));
}

#[test]
fn it_sends_no_more_than_there_is_room_for() {
    let mut parrot = open(1, &CallHead::default());
    // A message costs a quarter of the window, whatever its length.
    for message in 0..MESSAGES {
        parrot.send(Kind::Item, 1, &[message as u8]);
    }
    for message in 0..MESSAGES {
        let frame = next(&mut parrot);
        assert_eq!((frame.kind, &frame.body[..]), (Kind::Item, &[message as u8][..]));
    }
    // The window is full of what was not taken: the next message waits, and says nothing until there is room.
    parrot.send(Kind::Ping, 77, &[]);
    let frame = next(&mut parrot);
    assert_eq!(frame.kind, Kind::Pong, "{frame:?}");
    parrot.send(Kind::Item, 1, b"waits");
    parrot.send(Kind::Ping, 78, &[]);
    assert_eq!(next(&mut parrot).kind, Kind::Pong);
    parrot.send(Kind::Grant, 1, &1024_u32.to_le_bytes());
    assert_eq!(next(&mut parrot).kind, Kind::Item);
}

#[test]
fn a_stream_that_waits_is_told_that_its_caller_is_gone() {
    let mut parrot = open(1, &CallHead::default());
    parrot.send(Kind::Cancel, 1, &[]);
    assert_eq!(code(&next(&mut parrot)), Code::Cancelled);

    let head = CallHead {
        deadline_ns: 1,
        ..CallHead::default()
    };
    parrot.begin(Kind::Open, 2, 0, &head, &[]);
    parrot.send(Kind::Cancel, 2, &[]);
    assert_eq!(code(&next(&mut parrot)), Code::DeadlineExceeded);
}

#[test]
fn a_stream_is_not_called_and_a_host_keeps_to_its_credit() {
    let mut parrot = Probe::ready_as("streams::child", 0);
    parrot.call(1, 0, &CallHead::default(), &[]);
    assert_eq!(code(&next(&mut parrot)), Code::FailedPrecondition);
    parrot.begin(Kind::Open, 2, 0, &CallHead::default(), &[]);
    // More than it was ever allowed.
    parrot.send(Kind::Grant, 2, &numbered(Kind::Grant, 2, u32::MAX)[16..]);
    let (status, _, stderr) = parrot.end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("has used less"), "{stderr}");
}
