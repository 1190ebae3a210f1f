//! The first frames: Hello, Welcome, Start, Ready or Failed.
//!
//! The plugin says who it is, and it must be who its file says it is: a process that answers with another name, version or contract is
//! not the one that was checked.

use mortise_goplugin::Client;
use mortise_manifest::ProcessLane;
use mortise_runtime::Start;
use mortise_wire::{
    Metadata, StartRequest, Status, credit,
    frame::{self, Decoder, Frame, Kind, LANE_VERSION, transport},
    plugin::{Hello, Welcome},
};
use prost::Message;
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    task::coop::consume_budget,
};

use crate::{
    carried,
    inbox::Inbox,
    transport::{Inlet, Outlet},
};

/// Longest frame before both sides have agreed.
const FIRST_FRAME_BYTES_MAX: u32 = 64 << 10;
/// Room for what travels beside a payload: head, trace, propagated headers.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// A lane on which both sides are ready.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    pub(crate) decoder: Decoder,
    /// Units that each side may have on the way.
    pub(crate) window: u32,
    /// Name of the transport.
    pub(crate) lane: &'static str,
    /// Calls go over it, and not as frames.
    pub(crate) client: Option<Client>,
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
    /// There is no lane that both sides want.
    Lane(String),
    /// It speaks no version of the lane that this host speaks.
    OtherLane(String),
    /// The lane itself failed.
    Io(std::io::Error),
}

/// Waits for Hello and answers it. What follows goes over the transport that was chosen.
pub(crate) async fn greet(
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    wanted: ProcessLane,
    metadata: &Metadata,
    start: &Start,
) -> Result<Ready, Failure> {
    let mut decoder = Decoder::new(FIRST_FRAME_BYTES_MAX);
    let mut inlet = Inlet::Socket(reader);
    let hello = next(&mut inlet, &mut decoder, "Hello").await?;
    if hello.kind != Kind::Hello {
        return Err(Failure::Protocol(format!(
            "its first frame is {:?}, and Hello was expected",
            hello.kind
        )));
    }
    let hello = Hello::decode(hello.body)
        .map_err(|error| Failure::Protocol(format!("its Hello does not parse: {error}")))?;
    check(&hello, metadata)?;
    if !decoder.buffer_mut().is_empty() {
        return Err(Failure::Protocol(
            "it went on after Hello without waiting for Welcome".to_owned(),
        ));
    }
    let lane = choose(&hello, wanted)?;
    let limits = &start.limits;
    let frame_bytes_max =
        u32::try_from(limits.payload_bytes_max.saturating_add(HEAD_BYTES_MAX)).unwrap_or(u32::MAX);
    let concurrency = match hello.concurrency {
        0 => limits.concurrency,
        most => limits.concurrency.min(most),
    };
    decoder.set_body_bytes_max(frame_bytes_max);
    let window = credit::window(frame_bytes_max);
    let welcome = Welcome {
        lane_version: LANE_VERSION,
        frame_bytes_max,
        concurrency,
        window_units: window,
        stream_messages: limits.stream_messages_max,
        stream_bytes: u32::try_from(limits.stream_bytes_max).unwrap_or(u32::MAX),
        lane: lane.to_owned(),
    };
    let (inlet, mut outlet, client) =
        send_welcome(inlet, writer, lane, &encode(Kind::Welcome, &welcome)).await?;
    let request = StartRequest {
        config_json: start.config_json.to_string(),
        plugin: metadata.name.clone(),
        version: metadata.version.clone(),
        instance: start.instance.to_string(),
    };
    send_all(&mut outlet, &encode(Kind::Start, &request)).await?;
    Ok(Ready {
        inlet,
        outlet,
        decoder,
        window,
        lane,
        client,
        concurrency,
    })
}

/// The transport, of those that the plugin offers and this system has.
fn choose(hello: &Hello, wanted: ProcessLane) -> Result<&'static str, Failure> {
    let offers = |lane: &str| hello.lanes.iter().any(|it| it == lane);
    let has_shm = cfg!(target_os = "linux");
    // Plugins that name none have it; every later one names what it has.
    let raw = hello.lanes.is_empty() || offers(transport::RAW);
    let wanted = match wanted {
        ProcessLane::Raw => [transport::RAW].as_slice(),
        ProcessLane::Shm => &[transport::SHM],
        ProcessLane::CallStream => &[transport::CALL_STREAM],
        ProcessLane::Grpc => &[transport::GRPC],
        // What is quickest; gRPC only where there is nothing else.
        ProcessLane::Auto => &[
            transport::SHM,
            transport::RAW,
            transport::CALL_STREAM,
            transport::GRPC,
        ],
    };
    let chosen = wanted.iter().copied().find(|lane| match *lane {
        transport::RAW => raw,
        transport::SHM => has_shm && offers(transport::SHM),
        lane => offers(lane),
    });
    chosen.ok_or_else(|| {
        let offered = &hello.lanes;
        Failure::Lane(match wanted {
            [pinned] => format!(
                "the host's configuration pins the lane `{pinned}`, and the plugin offers {offered:?}{}",
                if *pinned == transport::SHM && !has_shm {
                    " on a system that has no sealed shared memory"
                } else {
                    ""
                }
            ),
            _ => format!("the host knows the lanes {wanted:?}, and the plugin offers {offered:?}"),
        })
    })
}

/// Sends Welcome over the socket, and makes the transport of everything after it.
async fn send_welcome(
    inlet: Inlet,
    mut writer: OwnedWriteHalf,
    lane: &'static str,
    welcome: &[u8],
) -> Result<(Inlet, Outlet, Option<Client>), Failure> {
    let inlet = match inlet {
        Inlet::Socket(reader) if [transport::CALL_STREAM, transport::GRPC].contains(&lane) => {
            writer.write_all(welcome).await.map_err(ended)?;
            let socket = reader
                .reunite(writer)
                .map_err(|error| Failure::Io(std::io::Error::other(error)))?;
            let (inlet, outlet, client) = carried::begin(socket).await.map_err(ended)?;
            let client = (lane == transport::GRPC).then_some(client);
            return Ok((Inlet::Carried(inlet), Outlet::Carried(outlet), client));
        }
        other => other,
    };
    #[cfg(target_os = "linux")]
    let inlet = match inlet {
        Inlet::Socket(reader) if lane == transport::SHM => {
            let made = crate::transport::shared::make().map_err(Failure::Io)?;
            let sent = {
                let fds = made.fds.each_ref().map(std::os::fd::AsFd::as_fd);
                let send = || mortise_shm::send_with_fds(writer.as_ref(), welcome, &fds);
                writer
                    .as_ref()
                    .async_io(tokio::io::Interest::WRITABLE, send)
                    .await
            };
            let sent = sent.map_err(|_| Failure::Ended { waiting_for: "Ready" })?;
            writer.write_all(&welcome[sent..]).await.map_err(ended)?;
            let (inlet, outlet) = made.begin(reader, writer).map_err(Failure::Io)?;
            return Ok((Inlet::Shm(inlet), Outlet::Shm(outlet.into()), None));
        }
        other => other,
    };
    writer.write_all(welcome).await.map_err(ended)?;
    Ok((inlet, Outlet::Socket(writer), None))
}

async fn send_all(outlet: &mut Outlet, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match outlet.try_write(&[std::io::IoSlice::new(bytes)]) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                outlet.writable().await.map_err(ended)?;
            }
            Err(error) => return Err(ended(error)),
        }
    }
    Ok(())
}

fn ended(_: std::io::Error) -> Failure {
    Failure::Ended { waiting_for: "Ready" }
}

/// Waits until the plugin says that it is ready. Until then it may log and make calls of its own.
pub(crate) async fn await_ready(
    inlet: &mut Inlet,
    decoder: &mut Decoder,
    inbox: &mut Inbox,
) -> Result<(), Failure> {
    loop {
        let frame = next(inlet, decoder, "Ready").await?;
        match frame.kind {
            Kind::Ready => return Ok(()),
            Kind::Failed => {
                let status = Status::decode(frame.body)
                    .map_err(|error| Failure::Protocol(format!("its Failed does not parse: {error}")))?;
                return Err(Failure::Declined(status));
            }
            Kind::Log | Kind::HostCall | Kind::Credit => inbox.take(frame).map_err(Failure::Protocol)?,
            other => {
                return Err(Failure::Protocol(format!(
                    "it sent {other:?} before it was ready"
                )));
            }
        }
    }
}

/// Reads until there is a whole frame. Gives way to other tasks, as [`Inbox::read`] does: else a limit of time could not end it.
async fn next(inlet: &mut Inlet, decoder: &mut Decoder, waiting_for: &'static str) -> Result<Frame, Failure> {
    loop {
        consume_budget().await;
        if let Some(frame) = decoder
            .next()
            .map_err(|error| Failure::Protocol(error.to_string()))?
        {
            return Ok(frame);
        }
        match inlet.read(decoder.buffer_mut()).await {
            Ok(0) => return Err(Failure::Ended { waiting_for }),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Err(Failure::Ended { waiting_for });
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Failure::Protocol(error.to_string()));
            }
            Err(error) => return Err(Failure::Io(error)),
        }
    }
}

fn check(hello: &Hello, metadata: &Metadata) -> Result<(), Failure> {
    if !hello.lane_versions.contains(&LANE_VERSION) {
        return Err(Failure::OtherLane(format!(
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
