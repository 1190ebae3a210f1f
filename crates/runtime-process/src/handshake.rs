//! The first frames: Hello, Welcome, Start, Ready or Failed.
//!
//! The plugin says who it is, and it must be who its file says it is: a process that answers with another name, version or contract is
//! not the one that was checked.

use mortise_runtime::Start;
use mortise_wire::{
    Metadata, StartRequest, Status,
    frame::{self, Decoder, Frame, Kind, LANE_VERSION},
    plugin::{Hello, Welcome},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::inbox::Inbox;

/// Longest frame before both sides have agreed.
const FIRST_FRAME_BYTES_MAX: u32 = 64 << 10;
/// Room for what travels beside a payload: head, trace, propagated headers.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// What is read at once, at least.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// A lane on which both sides are ready.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) decoder: Decoder,
    /// Calls that the plugin works on at once.
    pub(crate) concurrency: u32,
}

/// Why a plugin did not become ready.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It closed its end, by exiting most likely.
    Ended { waiting_for: &'static str },
    /// It said why it can't start.
    Declined(Status),
    /// What it said makes no sense.
    Protocol(String),
    /// It is not what its file says.
    Mismatch(String),
    /// The lane itself failed.
    Io(std::io::Error),
}

/// Waits for Hello and answers it.
pub(crate) async fn greet(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    metadata: &Metadata,
    start: &Start,
) -> Result<Ready, Failure> {
    let mut decoder = Decoder::new(FIRST_FRAME_BYTES_MAX);
    let hello = next(reader, &mut decoder, "Hello").await?;
    if hello.kind != Kind::Hello {
        return Err(Failure::Protocol(format!(
            "its first frame is {:?}, and Hello was expected",
            hello.kind
        )));
    }
    let hello = Hello::decode(hello.body)
        .map_err(|error| Failure::Protocol(format!("its Hello does not parse: {error}")))?;
    check(&hello, metadata)?;
    let limits = &start.limits;
    let frame_bytes_max =
        u32::try_from(limits.payload_bytes_max.saturating_add(HEAD_BYTES_MAX)).unwrap_or(u32::MAX);
    let concurrency = match hello.concurrency {
        0 => limits.concurrency,
        most => limits.concurrency.min(most),
    };
    decoder.set_body_bytes_max(frame_bytes_max);
    let welcome = Welcome {
        lane_version: LANE_VERSION,
        frame_bytes_max,
        concurrency,
    };
    let request = StartRequest {
        config_json: start.config_json.to_string(),
        plugin: metadata.name.clone(),
        version: metadata.version.clone(),
        instance: start.instance.to_string(),
    };
    let mut both = encode(Kind::Welcome, &welcome);
    both.extend(encode(Kind::Start, &request));
    writer
        .write_all(&both)
        .await
        .map_err(|_| Failure::Ended { waiting_for: "Ready" })?;
    Ok(Ready { decoder, concurrency })
}

/// Waits until the plugin says that it is ready. Until then it may log and make calls of its own.
pub(crate) async fn await_ready(
    reader: &mut OwnedReadHalf,
    decoder: &mut Decoder,
    inbox: &mut Inbox,
) -> Result<(), Failure> {
    loop {
        let frame = next(reader, decoder, "Ready").await?;
        match frame.kind {
            Kind::Ready => return Ok(()),
            Kind::Failed => {
                let status = Status::decode(frame.body)
                    .map_err(|error| Failure::Protocol(format!("its Failed does not parse: {error}")))?;
                return Err(Failure::Declined(status));
            }
            Kind::Log | Kind::HostCall => inbox.take(frame).map_err(Failure::Protocol)?,
            other => {
                return Err(Failure::Protocol(format!(
                    "it sent {other:?} before it was ready"
                )));
            }
        }
    }
}

/// Reads until there is a whole frame.
async fn next(
    reader: &mut OwnedReadHalf,
    decoder: &mut Decoder,
    waiting_for: &'static str,
) -> Result<Frame, Failure> {
    loop {
        if let Some(frame) = decoder
            .next()
            .map_err(|error| Failure::Protocol(error.to_string()))?
        {
            return Ok(frame);
        }
        let buffer = decoder.buffer_mut();
        if buffer.capacity() == buffer.len() {
            buffer.reserve(READ_BYTES);
        }
        match reader.read_buf(buffer).await {
            Ok(0) => return Err(Failure::Ended { waiting_for }),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Err(Failure::Ended { waiting_for });
            }
            Err(error) => return Err(Failure::Io(error)),
        }
    }
}

fn check(hello: &Hello, metadata: &Metadata) -> Result<(), Failure> {
    if !hello.lane_versions.contains(&LANE_VERSION) {
        return Err(Failure::Mismatch(format!(
            "it speaks lane versions {:?}, and this host speaks {LANE_VERSION}",
            hello.lane_versions
        )));
    }
    for (what, said, file) in [
        ("name", &hello.name, &metadata.name),
        ("version", &hello.version, &metadata.version),
    ] {
        if said != file {
            return Err(Failure::Mismatch(format!(
                "it says its {what} is `{}`, and its file says `{file}`",
                said.escape_debug()
            )));
        }
    }
    if hello.contract_hash != metadata.contract_hash {
        return Err(Failure::Mismatch(
            "its contract hash is not the one in its file".to_owned(),
        ));
    }
    Ok(())
}

fn encode(kind: Kind, message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut frame = frame::header(kind, 0, u32::try_from(body.len()).unwrap_or(u32::MAX)).to_vec();
    frame.extend(body);
    frame
}
