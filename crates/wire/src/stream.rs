//! Methods that stream: which ones do, and the guest's side of one call of them.
//!
//! A call of a streaming method has two directions, each a sequence of messages with an end. What a contract calls unary in one direction is
//! a sequence of exactly one there: a server-streaming method is sent one request and its end, a client-streaming one answers with one reply.
//! So every boundary carries all three kinds in the same way, and only its two ends (the generated code of the guest, the typed client of the
//! host) know which one it is.

use bytes::Bytes;

use crate::plugin::{Method, Status};

/// Bit of `metadata.methods[].flags`: the caller sends a stream of requests.
pub const METHOD_CLIENT_STREAMING: u32 = 4;
/// Bit of `metadata.methods[].flags`: the method answers with a stream of replies.
pub const METHOD_SERVER_STREAMING: u32 = 8;

/// How many messages go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one reply.
    Unary,
    /// One request, a stream of replies.
    ServerStreaming,
    /// A stream of requests, one reply.
    ClientStreaming,
    /// A stream each way.
    Bidi,
}

/// The guest's side of one call of a streaming method. Implemented by each guest adapter that can stream; everything blocks, because a plugin
/// has no executor. Both directions may be used at once, from two threads.
pub trait StreamLink: Send + Sync {
    /// The caller's next message; `None` once it has sent its last.
    ///
    /// # Errors
    /// `Cancelled` if the caller is gone, `DeadlineExceeded` if the deadline has passed. All further receives fail the same way.
    fn receive(&self) -> Result<Option<Bytes>, Status>;

    /// Sends one message to the caller; blocks while too many are on their way.
    ///
    /// # Errors
    /// As [`StreamLink::receive`], and `ResourceExhausted` for a message over the host's limit. It was then not sent.
    fn send(&self, message: Bytes) -> Result<(), Status>;
}

// === impl MethodKind ===

impl MethodKind {
    /// The kind that these bits of `metadata.methods[].flags` say.
    #[must_use]
    pub const fn of_flags(flags: u32) -> Self {
        Self::of(
            flags & METHOD_CLIENT_STREAMING != 0,
            flags & METHOD_SERVER_STREAMING != 0,
        )
    }

    /// The kind of a method whose contract has the word `stream` in these places.
    #[must_use]
    pub const fn of(client_streaming: bool, server_streaming: bool) -> Self {
        match (client_streaming, server_streaming) {
            (false, false) => Self::Unary,
            (false, true) => Self::ServerStreaming,
            (true, false) => Self::ClientStreaming,
            (true, true) => Self::Bidi,
        }
    }

    /// The bits that say it.
    #[must_use]
    pub const fn flags(self) -> u32 {
        match self {
            Self::Unary => 0,
            Self::ServerStreaming => METHOD_SERVER_STREAMING,
            Self::ClientStreaming => METHOD_CLIENT_STREAMING,
            Self::Bidi => METHOD_CLIENT_STREAMING | METHOD_SERVER_STREAMING,
        }
    }

    /// Whether it streams at all, one way or the other.
    #[must_use]
    pub const fn streams(self) -> bool {
        !matches!(self, Self::Unary)
    }

    /// Whether the caller may send other than one message.
    #[must_use]
    pub const fn client_streams(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::Bidi)
    }

    /// Whether the method may answer with other than one message.
    #[must_use]
    pub const fn server_streams(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::Bidi)
    }

    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStreaming => "server-streaming",
            Self::ClientStreaming => "client-streaming",
            Self::Bidi => "bidirectional",
        }
    }
}

impl std::fmt::Display for MethodKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Method ===

impl Method {
    /// How many messages go which way.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        MethodKind::of_flags(self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_flags_say_the_same() {
        let kinds = [
            (MethodKind::Unary, false, false),
            (MethodKind::ServerStreaming, false, true),
            (MethodKind::ClientStreaming, true, false),
            (MethodKind::Bidi, true, true),
        ];
        for (kind, client, server) in kinds {
            assert_eq!(MethodKind::of(client, server), kind);
            // The other bits of the field do not matter.
            assert_eq!(
                MethodKind::of_flags(kind.flags() | crate::METHOD_IDEMPOTENT | crate::METHOD_NONBLOCKING),
                kind
            );
            assert_eq!(
                (kind.client_streams(), kind.server_streams(), kind.streams()),
                (client, server, client || server)
            );
        }
    }
}
