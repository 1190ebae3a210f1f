//! Status codes: gRPC's numbers, because every gateway and every language already knows them.

use std::fmt;

use crate::plugin::Status;

/// A gRPC status code (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Cancelled = 1,
    /// A panic, a trap, or a code outside this list.
    Unknown = 2,
    /// The request does not parse or does not make sense.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be made exists.
    AlreadyExists = 6,
    /// Not granted.
    PermissionDenied = 7,
    /// A limit was reached.
    ResourceExhausted = 8,
    /// The state of the plugin does not allow it.
    FailedPrecondition = 9,
    /// Concurrent changes collided.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// No such method.
    Unimplemented = 12,
    /// Broken on our side.
    Internal = 13,
    /// Not now; a retry may succeed.
    Unavailable = 14,
    /// Data was lost or corrupted.
    DataLoss = 15,
    /// Nobody proved who they are.
    Unauthenticated = 16,
}

impl Code {
    /// All of them, by number.
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number; 0 and numbers outside the list are `Unknown`, as in gRPC.
    #[must_use]
    pub fn from_i32(number: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|it| *it as i32 == number)
            .unwrap_or(Self::Unknown)
    }

    /// gRPC's name for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Status {
    /// A status with a code and a text for people: what failed and why.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code as i32,
            message: message.into(),
            details: Vec::new(),
            retryable: false,
        }
    }

    /// The request does not parse or does not make sense. `message` may be an error value.
    #[must_use]
    pub fn invalid_argument(message: impl fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, message.to_string())
    }

    /// What was asked for does not exist.
    #[must_use]
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, message.to_string())
    }

    /// The state of the callee does not allow it.
    #[must_use]
    pub fn failed_precondition(message: impl fmt::Display) -> Self {
        Self::new(Code::FailedPrecondition, message.to_string())
    }

    /// A limit was reached.
    #[must_use]
    pub fn resource_exhausted(message: impl fmt::Display) -> Self {
        Self::new(Code::ResourceExhausted, message.to_string())
    }

    /// Broken on the callee's side.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, message.to_string())
    }

    /// Not now; a retry may succeed.
    #[must_use]
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self {
            retryable: true,
            ..Self::new(Code::Unavailable, message.to_string())
        }
    }

    /// The same status with one more detail for programs.
    #[must_use]
    pub fn with_detail(mut self, type_url: impl Into<String>, value: Vec<u8>) -> Self {
        self.details.push(prost_types::Any {
            type_url: type_url.into(),
            value,
        });
        self
    }

    /// The code; numbers outside gRPC's list are `Unknown`.
    #[must_use]
    pub fn kind(&self) -> Code {
        Code::from_i32(self.code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.message)
    }
}

impl std::error::Error for Status {}
