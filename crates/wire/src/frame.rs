//! Frames of the process lane, without a socket.
//!
//! A frame is a 16-byte header and a body. All integers are little endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the body |
//! | 4 | [`Kind`] |
//! | 5 | flags, 0 |
//! | 6..8 | reserved, 0 |
//! | 8..16 | call id; 0 where a frame belongs to no call |
//!
//! The reader gives what it has to [`Decoder::push`] and takes whole frames with [`Decoder::next`]. A frame longer than the agreed
//! maximum, an unknown kind or a non-zero flag is an error before a byte of the body is stored, so a hostile peer cannot make us allocate.
//!
//! | kind | from | credit | body |
//! |---|---|---|---|
//! | Hello | plugin | | `Hello` |
//! | Welcome | host | | `Welcome` |
//! | Start | host | | `StartRequest` |
//! | Ready | plugin | | empty |
//! | Failed | plugin | | `Status`; the plugin exits |
//! | Call | host | lane | u32 length of the head, 4 bytes method index, `CallHead`, payload |
//! | Reply | plugin | lane | payload |
//! | Error | plugin | lane | `Status` |
//! | Cancel | host | | empty; the caller is gone. The plugin still sends one Reply, End or Error (dropped unread) once its method has returned: that is how the host knows that the call is not stuck |
//! | Open | host | lane | as Call, for a method that streams; the payload is empty, all requests follow as Items |
//! | Item | both | stream | one message of a stream |
//! | End | both | | empty; the side sends no more Items. From the plugin it ends the call, as Error does |
//! | Grant | both | | u32: the receiver of a stream's Items has so much more room |
//! | HostCall | plugin | lane | u32 length of the head, 4 bytes 0, `HostCallHead`, payload; the id is the plugin's own counter |
//! | HostReply, HostError | host | lane; | payload; `Status` |
//! | Log | plugin | lane | `LogRecord` |
//! | Ping, Pong | host; plugin | | empty; `Health` |
//! | Stop | host | | empty; finish what runs, then exit |
//! | Credit | both | | u32: the receiver is done with so many units of frames |
//!
//! What the third column says is in [`crate::credit`]. Which transport carries the frames' bytes is not this module's business.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Size of a frame's header in bytes.
pub const HEADER_BYTES: usize = 16;
/// Version of this dialect.
///
/// 2: credit and streams; a plugin of version 1 would send more than it was allowed to.
pub const LANE_VERSION: u32 = 2;
/// Environment variable that holds the number of the inherited socket.
pub const ENV_LANE_FD: &str = "MORTISE_LANE_FD";

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the table in the module's documentation")]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Start = 3,
    Ready = 4,
    Failed = 5,
    Call = 16,
    Reply = 17,
    Error = 18,
    Cancel = 19,
    Open = 20,
    Item = 21,
    End = 22,
    Grant = 23,
    HostCall = 32,
    HostReply = 33,
    HostError = 34,
    Log = 48,
    Ping = 64,
    Pong = 65,
    Stop = 66,
    Credit = 67,
}

impl Kind {
    const ALL: [Self; 21] = [
        Self::Hello,
        Self::Welcome,
        Self::Start,
        Self::Ready,
        Self::Failed,
        Self::Call,
        Self::Reply,
        Self::Error,
        Self::Cancel,
        Self::Open,
        Self::Item,
        Self::End,
        Self::Grant,
        Self::HostCall,
        Self::HostReply,
        Self::HostError,
        Self::Log,
        Self::Ping,
        Self::Pong,
        Self::Stop,
        Self::Credit,
    ];

    /// Whether a frame of this kind uses up the lane's credit.
    #[must_use]
    pub fn uses_lane_credit(self) -> bool {
        matches!(
            self,
            Self::Call
                | Self::Reply
                | Self::Error
                | Self::Open
                | Self::HostCall
                | Self::HostReply
                | Self::Log
        )
    }

    fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u8 == byte)
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The call it belongs to; 0 = none.
    pub call_id: u64,
    /// Its body.
    pub body: Bytes,
}

/// Why a peer's bytes are not a frame. After one of these the connection is of no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum FrameError {
    #[error("a frame of {bytes} bytes was announced, and {max} is the agreed maximum")]
    TooLong { bytes: u32, max: u32 },
    #[error("a frame of unknown kind {kind} was announced")]
    UnknownKind { kind: u8 },
    #[error("a frame has flags {flags:#04x} and reserved bits {reserved:#06x}, and this version knows none")]
    UnknownFlags { flags: u8, reserved: u16 },
    #[error("a call's head of {head} bytes is longer than its frame of {body}")]
    HeadTooLong { head: u32, body: usize },
    #[error("a call's frame of {body} bytes is too short for its lengths")]
    TooShort { body: usize },
    #[error("a frame {kind:?} has {body} bytes, and its number has 4")]
    NoNumber { kind: Kind, body: usize },
}

/// The header of a frame whose body has `body_bytes` bytes.
#[must_use]
pub fn header(kind: Kind, call_id: u64, body_bytes: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&body_bytes.to_le_bytes());
    header[4] = kind as u8;
    header[8..16].copy_from_slice(&call_id.to_le_bytes());
    header
}

/// Header, lengths and head of a call's frame; the payload follows on the wire.
///
/// `number` is the method's index in `Metadata.methods` for `Kind::Call` and `Kind::Open`, and 0 for `Kind::HostCall`.
#[must_use]
pub fn call_prefix(
    kind: Kind,
    call_id: u64,
    number: u32,
    head: &impl Message,
    payload_bytes: usize,
) -> BytesMut {
    let head_bytes = head.encoded_len();
    let body = call_body_bytes(head_bytes, payload_bytes);
    let mut prefix = BytesMut::with_capacity(HEADER_BYTES + 8 + head_bytes);
    prefix.put_slice(&header(kind, call_id, u32::try_from(body).unwrap_or(u32::MAX)));
    prefix.put_u32_le(u32::try_from(head_bytes).unwrap_or(u32::MAX));
    prefix.put_u32_le(number);
    head.encode(&mut prefix).expect("a BytesMut grows as it must");
    prefix
}

/// Length of the body of a call's frame.
#[must_use]
pub fn call_body_bytes(head_bytes: usize, payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(head_bytes).saturating_add(8)
}

/// A whole frame whose body is a number: `Grant` and `Credit`.
#[must_use]
pub fn numbered(kind: Kind, call_id: u64, number: u32) -> [u8; HEADER_BYTES + 4] {
    let mut frame = [0; HEADER_BYTES + 4];
    frame[..HEADER_BYTES].copy_from_slice(&header(kind, call_id, 4));
    frame[HEADER_BYTES..].copy_from_slice(&number.to_le_bytes());
    frame
}

/// The number in a frame that [`numbered`] made.
///
/// # Errors
/// If the body is of another length.
pub fn number(frame: &Frame) -> Result<u32, FrameError> {
    let bytes = frame.body[..].try_into().map_err(|_| FrameError::NoNumber {
        kind: frame.kind,
        body: frame.body.len(),
    })?;
    Ok(u32::from_le_bytes(bytes))
}

/// Splits a call's body into number, head and payload, without copying.
///
/// # Errors
/// If the lengths do not fit the body.
pub fn split_call(mut body: Bytes) -> Result<(u32, Bytes, Bytes), FrameError> {
    let whole = body.len();
    if whole < 8 {
        return Err(FrameError::TooShort { body: whole });
    }
    let head = body.get_u32_le();
    let number = body.get_u32_le();
    if head as usize > body.len() {
        return Err(FrameError::HeadTooLong { head, body: whole });
    }
    let head = body.split_to(head as usize);
    Ok((number, head, body))
}

/// Names of the transports that carry frames, as Hello and Welcome say them, and what the two over gRPC are made of.
pub mod transport {
    /// The unix socket itself.
    pub const RAW: &str = "raw";
    /// Shared memory, with the socket beside it. The number is that of what lies where in it: sides that know different ones use the socket.
    pub const SHM: &str = "shm-2";
    /// HTTP/2 on the socket from the byte behind Welcome on, with the plugin as its server. The host opens the stream [`FRAMES`], which carries all frames.
    pub const CALL_STREAM: &str = "call-stream";
    /// The same; but calls are gRPC's own, one HTTP/2 stream each, of the contract's services. The frames beside them are those that belong to no
    /// call of the host's: Start and Ready, the plugin's own calls and log lines, health, the end. A call that the host gives up is told by Cancel too,
    /// and the plugin answers that, and only that, with End.
    pub const GRPC: &str = "grpc";

    /// The method of the stream of frames. Its messages are `mortise.plugin.v1.Piece`, both ways.
    pub const FRAMES: &str = "mortise.plugin.v1.Lane/Frames";
    /// Most bytes of one `Piece`.
    pub const PIECE_BYTES_MAX: usize = 256 << 10;

    /// Header of a call over [`GRPC`]: its number in `CallHead.call_id`. Deadline, trace and the caller's headers travel as gRPC has them.
    pub const CALL_ID: &str = "mortise-call-id";
    /// Header of a call over [`GRPC`]: `CallHead.depth`.
    pub const DEPTH: &str = "mortise-depth";
    /// Header of a call over [`GRPC`]: `CallHead.caller`.
    pub const CALLER: &str = "mortise-caller";
}

/// Turns a peer's bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    body_bytes_max: u32,
}

impl Decoder {
    /// A decoder that refuses bodies over `body_bytes_max`.
    #[must_use]
    pub fn new(body_bytes_max: u32) -> Self {
        Self {
            buffer: BytesMut::new(),
            body_bytes_max,
        }
    }

    /// Changes the maximum, once the two sides have agreed on one.
    pub fn set_body_bytes_max(&mut self, body_bytes_max: u32) {
        self.body_bytes_max = body_bytes_max;
    }

    /// Takes bytes from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to read into directly; bytes are appended at its end.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that are missing to the next whole header or frame: who reads no more than that has read nothing past it.
    #[must_use]
    pub fn missing(&self) -> usize {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return HEADER_BYTES - self.buffer.len();
        };
        let body = u32::from_le_bytes(*length).min(self.body_bytes_max) as usize;
        match self.buffer.len().checked_sub(HEADER_BYTES) {
            Some(there) => body.saturating_sub(there),
            None => HEADER_BYTES - self.buffer.len(),
        }
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// If the peer's bytes are not a frame; the connection is of no further use then.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not tell `not yet` from `over`"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &self.buffer[..HEADER_BYTES];
        let bytes = header.get_u32_le();
        let (kind, flags, reserved) = (header.get_u8(), header.get_u8(), header.get_u16_le());
        let call_id = header.get_u64_le();
        if bytes > self.body_bytes_max {
            return Err(FrameError::TooLong {
                bytes,
                max: self.body_bytes_max,
            });
        }
        let kind = Kind::from_u8(kind).ok_or(FrameError::UnknownKind { kind })?;
        if flags != 0 || reserved != 0 {
            return Err(FrameError::UnknownFlags { flags, reserved });
        }
        let whole = HEADER_BYTES + bytes as usize;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(bytes as usize).freeze();
        Ok(Some(Frame { kind, call_id, body }))
    }
}

#[cfg(test)]
mod tests;
