//! The handshake line, the first thing that a plugin writes to its standard output.
//!
//! ```text
//!  CORE|APP|NET|ADDR[|PROTO[|CERT[|MUX]]]\n        1|3|unix|/run/x/plugin2805729839|grpc|
//! ```
//!
//! | field | means | if it is missing |
//! |---|---|---|
//! | CORE | version of this protocol: 1 | no handshake |
//! | APP | the application's version that the plugin chose | no handshake |
//! | NET, ADDR | `unix` and a path, `tcp` and a loopback address | no handshake |
//! | PROTO | `grpc`, or `netrpc`, which is Go's alone | `netrpc` |
//! | CERT | the plugin's certificate, DER in base64 without padding | no TLS |
//! | MUX | whether connections of the broker share the first one | not supported |
//!
//! A Go plugin always writes six fields, with an empty one for no certificate; it writes the seventh only to a host that asked for multiplexing. Other
//! languages stop at five. Old plugins wrote other things in the sixth, so what is too short for a certificate counts as none.
//!
//! Plugins and their libraries print things before that line. [`Scanner`] passes over a few such lines and reports them; Go's own host stops there.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::environment::Offer;

/// The one version of this protocol.
pub const CORE_VERSION: u32 = 1;
/// The longest line that is looked at, in bytes: what Go's host reads.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// So many lines that are no handshake are passed over.
pub const STRAY_LINES_MAX: usize = 64;
/// What is shorter is no certificate, but what old plugins wrote in its place.
const CERTIFICATE_CHARS_MIN: usize = 50;

/// Go writes no padding; what has some is read all the same.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A handshake line, as it was written. Nothing about it is agreed yet: see [`Offer::accept`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The application's version.
    pub app: u32,
    /// Where the plugin listens.
    pub address: NetAddress,
    /// `grpc` or `netrpc`, or what else it says.
    pub protocol: String,
    /// The plugin's certificate, DER.
    pub certificate: Option<Vec<u8>>,
    /// Whether it multiplexes; `None` if the field was not written.
    pub multiplex: Option<bool>,
}

/// Where a side listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// What host and plugin agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The application's version.
    pub version: u32,
    /// Where the plugin listens.
    pub address: NetAddress,
    /// The plugin's certificate, DER; `Some` only if the host offered its own.
    pub certificate: Option<Vec<u8>>,
    /// Whether connections of the broker share the first one.
    pub multiplex: bool,
}

/// Why a line is no handshake, or one that this host can't follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Fewer than four fields.
    #[error("`{0}` is no handshake: it must have at least the fields `CORE|APP|NET|ADDR`")]
    NotAHandshake(String),
    /// Another version of this protocol.
    #[error(
        "the plugin speaks version `{0}` of the go-plugin protocol, and this host speaks {CORE_VERSION}; rebuild the plugin"
    )]
    Core(String),
    /// No number.
    #[error("`{0}` is no version of a protocol")]
    Version(String),
    /// Versions without one in common.
    #[error("the plugin offers version {plugin} of its protocol, and this host knows {}; name it in `versions`, or use another plugin", crate::version::print_list(.host))]
    NoCommonVersion {
        /// What the plugin chose.
        plugin: u32,
        /// What the host listed.
        host: Vec<u32>,
    },
    /// Neither unix nor tcp, or not an address.
    #[error("the plugin listens on `{network}` `{address}`, and that is no address: {why}")]
    Address {
        /// The field NET.
        network: String,
        /// The field ADDR.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// Not gRPC.
    #[error("the plugin speaks `{0}`, and this host speaks `grpc` only; build the plugin with a gRPC server")]
    Protocol(String),
    /// No base64.
    #[error("the plugin's certificate ({chars} characters) is no base64: {why}")]
    Certificate {
        /// Length of the field.
        chars: usize,
        /// What is wrong.
        why: String,
    },
    /// Neither true nor false.
    #[error("`{0}` is not a boolean, and the seventh field says whether the plugin multiplexes")]
    Multiplex(String),
    /// Asked for, and not there.
    #[error(
        "the plugin can't multiplex its broker's connections, and this host was told to; rebuild it with go-plugin 1.6 or later, or set `multiplex = false`"
    )]
    NoMultiplex,
    /// The host offered its certificate, and the plugin has none.
    #[error(
        "the plugin answered without a certificate although this host sent its own; rebuild it with go-plugin 1.0 or later, or set `auto_mtls = false`"
    )]
    NoCertificate,
    /// A certificate that nobody asked for.
    #[error("the plugin answered with a certificate although this host sent none; set `auto_mtls = true`")]
    UnaskedCertificate,
    /// A line that is too long.
    #[error(
        "the plugin wrote more than {LINE_BYTES_MAX} bytes without an end of line where its handshake should be"
    )]
    TooLong,
    /// Nothing but other lines.
    #[error(
        "the plugin wrote {STRAY_LINES_MAX} lines to its standard output, and none is a handshake; the first was `{first}`"
    )]
    TooManyStrayLines {
        /// The first of them.
        first: String,
    },
}

/// Finds the handshake in what a plugin writes to its standard output.
///
/// Memory is bounded by [`LINE_BYTES_MAX`] and the stray lines' own bounds.
#[derive(Debug, Default)]
pub struct Scanner {
    line: Vec<u8>,
    stray: Vec<String>,
}

// === impl Handshake ===

impl Handshake {
    /// Reads one line, with or without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, HandshakeError> {
        let line = line.trim();
        let fields: Vec<&str> = line.splitn(16, '|').collect();
        let &[core, app, network, address, ref rest @ ..] = fields.as_slice() else {
            return Err(HandshakeError::NotAHandshake(clip(line)));
        };
        if number(core) != Some(CORE_VERSION) {
            return Err(HandshakeError::Core(clip(core)));
        }
        let app = number(app).ok_or_else(|| HandshakeError::Version(clip(app)))?;
        let address = NetAddress::parse(network, address)?;
        let protocol = (*rest.first().unwrap_or(&"netrpc")).to_owned();
        let certificate = match rest.get(1) {
            Some(text) if text.len() > CERTIFICATE_CHARS_MIN => {
                Some(BASE64.decode(text).map_err(|error| HandshakeError::Certificate {
                    chars: text.len(),
                    why: error.to_string(),
                })?)
            }
            _ => None,
        };
        let multiplex = rest.get(2).map(|text| boolean(text)).transpose()?;
        Ok(Self {
            app,
            address,
            protocol,
            certificate,
            multiplex,
        })
    }
}

/// The line without its end: six fields, and the seventh if `multiplex` is set.
impl fmt::Display for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, address) = self.address.fields();
        let certificate = self.certificate.as_deref().unwrap_or_default();
        write!(
            f,
            "{CORE_VERSION}|{}|{network}|{address}|{}|{}",
            self.app,
            self.protocol,
            BASE64.encode(certificate)
        )?;
        match self.multiplex {
            Some(multiplex) => write!(f, "|{multiplex}"),
            None => Ok(()),
        }
    }
}

// === impl NetAddress ===

impl NetAddress {
    /// Reads the two fields of a handshake, or of a broker's message.
    ///
    /// # Errors
    /// If it is not `unix` with an absolute path or `tcp` with a number and a port.
    pub fn parse(network: &str, address: &str) -> Result<Self, HandshakeError> {
        let wrong = |why: &str| HandshakeError::Address {
            network: clip(network),
            address: clip(address),
            why: why.to_owned(),
        };
        match network {
            "unix" if !Path::new(address).is_absolute() => Err(wrong("the path must begin at the root")),
            "unix" if address.contains('\0') => Err(wrong("the path contains a zero byte")),
            "unix" => Ok(Self::Unix(PathBuf::from(address))),
            "tcp" => match address.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err(wrong("write it as `127.0.0.1:1234`; names are not looked up")),
            },
            _ => Err(wrong("it must be `unix` or `tcp`")),
        }
    }

    /// The two fields.
    #[must_use]
    pub fn fields(&self) -> (&'static str, String) {
        match self {
            Self::Unix(path) => ("unix", path.to_string_lossy().into_owned()),
            Self::Tcp(address) => ("tcp", address.to_string()),
        }
    }
}

impl fmt::Display for NetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, address) = self.fields();
        write!(f, "{network}:{address}")
    }
}

// === impl Offer: what the host makes of an answer ===

impl Offer {
    /// Checks a plugin's answer against what was offered.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn accept(&self, answer: Handshake) -> Result<Agreed, HandshakeError> {
        if !self.versions.contains(&answer.app) {
            return Err(HandshakeError::NoCommonVersion {
                plugin: answer.app,
                host: self.versions.clone(),
            });
        }
        if answer.protocol != "grpc" {
            return Err(HandshakeError::Protocol(clip(&answer.protocol)));
        }
        match (&self.certificate_pem, &answer.certificate) {
            (Some(_), None) => return Err(HandshakeError::NoCertificate),
            (None, Some(_)) => return Err(HandshakeError::UnaskedCertificate),
            _ => {}
        }
        if self.multiplex && answer.multiplex != Some(true) {
            return Err(HandshakeError::NoMultiplex);
        }
        Ok(Agreed {
            version: answer.app,
            address: answer.address,
            certificate: answer.certificate,
            multiplex: self.multiplex,
        })
    }
}

// === impl Scanner ===

impl Scanner {
    /// Takes what was read. `Some` once the line is there, with how many of the bytes belong to it and to what came before; the rest is the plugin's output.
    ///
    /// # Errors
    /// If the line is malformed although it looks like a handshake, or if there will be none.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Handshake, usize)>, HandshakeError> {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return Err(HandshakeError::TooLong);
            }
            self.line.extend_from_slice(part);
            taken += part.len() + usize::from(end.is_some());
            if end.is_none() {
                break;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            if looks_like_one(&line) {
                return Ok(Some((Handshake::parse(&line)?, taken)));
            }
            self.pass_over(&line)?;
        }
        Ok(None)
    }

    /// The lines that came before it, in order, shortened.
    pub fn take_stray(&mut self) -> Vec<String> {
        std::mem::take(&mut self.stray)
    }

    /// What came after the last end of line, if the output ends here.
    #[must_use]
    pub fn unfinished(&self) -> String {
        clip(&String::from_utf8_lossy(&self.line))
    }

    fn pass_over(&mut self, line: &str) -> Result<(), HandshakeError> {
        if line.trim().is_empty() {
            return Ok(());
        }
        self.stray.push(clip(line));
        if self.stray.len() < STRAY_LINES_MAX {
            return Ok(());
        }
        Err(HandshakeError::TooManyStrayLines {
            first: self.stray.swap_remove(0),
        })
    }
}

/// A number, and at least three more fields: what is so much like a handshake and is none must be an error, not a stray line.
fn looks_like_one(line: &str) -> bool {
    let line = line.trim();
    let core = line.split('|').next().unwrap_or_default();
    line.matches('|').count() >= 3 && !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// What Go's `strconv.ParseBool` takes.
pub(crate) fn boolean(text: &str) -> Result<bool, HandshakeError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(HandshakeError::Multiplex(clip(text))),
    }
}

/// Short enough for a message, in one line.
pub(crate) fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut short: String = text
        .trim_end()
        .chars()
        .take(CHARS_MAX)
        .map(|it| if it.is_control() { '\u{fffd}' } else { it })
        .collect();
    if short.len() < text.trim_end().len() && text.chars().count() > CHARS_MAX {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
