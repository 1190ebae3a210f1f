//! What a denied call was about, read from its process.
//!
//! It may be another thing a moment later, so nothing that is allowed may depend on it; see `init`.

use std::ffi::c_int;

use crate::{report, sys, words};

/// The first argument that tells is a path at this place; the one before it, if any, is the directory that it starts from.
type PathArgument = (c_int, usize);

#[cfg(target_arch = "x86_64")]
mod table {
    use super::PathArgument;

    pub(super) const CONNECT: i32 = 42;
    /// open, creat, openat, openat2.
    pub(super) const OPENS: [PathArgument; 4] = [(2, 0), (85, 0), (257, 1), (437, 1)];
    /// mount, umount2, pivot_root, chroot, swapon, swapoff, acct, mknod, mknodat.
    pub(super) const PATHS: [PathArgument; 9] = [
        (165, 1),
        (166, 0),
        (155, 0),
        (161, 0),
        (167, 0),
        (168, 0),
        (163, 0),
        (133, 0),
        (259, 1),
    ];
}
#[cfg(target_arch = "aarch64")]
mod table {
    use super::PathArgument;

    pub(super) const CONNECT: i32 = 203;
    /// openat, openat2.
    pub(super) const OPENS: [PathArgument; 2] = [(56, 1), (437, 1)];
    /// mount, umount2, pivot_root, chroot, swapon, swapoff, acct, mknodat.
    pub(super) const PATHS: [PathArgument; 8] = [
        (40, 1),
        (39, 0),
        (41, 0),
        (51, 0),
        (224, 0),
        (225, 0),
        (89, 0),
        (33, 1),
    ];
}
/// Of these the path's predecessor is a directory's descriptor.
#[cfg(target_arch = "x86_64")]
const RELATIVE: [c_int; 3] = [257, 437, 259];
#[cfg(target_arch = "aarch64")]
const RELATIVE: [c_int; 3] = [56, 437, 33];

const AT_FDCWD: c_int = -100;
const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;

/// What a call was about. Paths are absolute and clean, and empty if they could not be read.
pub(crate) enum Target {
    /// A file was to be opened.
    Opened(Vec<u8>),
    /// A socket was to be connected to this address.
    Address(Vec<u8>),
    /// Something else at a path.
    Path(Vec<u8>),
    /// The arguments say it all.
    Arguments,
}

/// Where a socket's address leads.
pub(crate) enum SocketPath {
    Path(Vec<u8>),
    Abstract,
    /// Another family.
    Elsewhere,
    Unreadable,
}

impl Target {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Opened(bytes) | Self::Address(bytes) | Self::Path(bytes) => {
                &bytes[..bytes.len().min(words::TARGET_BYTES_MAX)]
            }
            Self::Arguments => &[],
        }
    }
}

/// Reads what a call is about, as far as its number says where that stands.
pub(crate) fn of(call: &sys::Notification) -> Target {
    let among = |table: &[PathArgument]| {
        let found = table.iter().find(|(number, _)| *number == call.number);
        found.map(|(_, nth)| path_of(call, *nth))
    };
    if call.number == table::CONNECT {
        let mut address = [0; words::TARGET_BYTES_MAX];
        let length = (call.arguments[2] as usize).min(address.len());
        let got = sys::read_memory(call.pid, call.arguments[1], &mut address[..length], false).unwrap_or(0);
        return Target::Address(address[..got].to_vec());
    }
    if let Some(path) = among(&table::OPENS) {
        return Target::Opened(path);
    }
    among(&table::PATHS).map_or(Target::Arguments, Target::Path)
}

/// Where an address leads; a relative path starts from the directory of the process.
pub(crate) fn socket_path(address: &[u8], pid: u32) -> SocketPath {
    let Some((family, rest)) = address.split_first_chunk::<2>() else {
        return SocketPath::Unreadable;
    };
    match u16::from_ne_bytes(*family) {
        AF_UNIX if rest.first().is_none_or(|it| *it == 0) => SocketPath::Abstract,
        AF_UNIX => match absolute(until_zero(rest), || base_of(pid, AT_FDCWD)) {
            Some(path) => SocketPath::Path(path),
            None => SocketPath::Unreadable,
        },
        // Undoes a connection.
        AF_UNSPEC => SocketPath::Unreadable,
        _ => SocketPath::Elsewhere,
    }
}

/// How an address of the jail's own loopback begins.
pub(crate) fn loopback(port: u16) -> [u8; 8] {
    let ([a, b], [c, d]) = (AF_INET.to_ne_bytes(), port.to_be_bytes());
    [a, b, c, d, 127, 0, 0, 1]
}

fn path_of(call: &sys::Notification, nth: usize) -> Vec<u8> {
    let mut path = [0; words::TARGET_BYTES_MAX];
    let length = sys::read_memory(call.pid, call.arguments[nth], &mut path, true).unwrap_or(0);
    let from = match nth.checked_sub(1) {
        Some(before) if RELATIVE.contains(&call.number) => call.arguments[before] as c_int,
        _ => AT_FDCWD,
    };
    absolute(until_zero(&path[..length]), || base_of(call.pid, from)).unwrap_or_default()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn absolute(path: &[u8], base: impl FnOnce() -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    match path {
        [] => None,
        [b'/', ..] => Some(clean(&[], path)),
        _ => base().map(|base| clean(&base, path)),
    }
}

/// The directory that a relative path starts from.
fn base_of(pid: u32, from: c_int) -> Option<Vec<u8>> {
    let link = match from {
        AT_FDCWD => format!("/proc/{pid}/cwd"),
        fd => format!("/proc/{pid}/fd/{fd}"),
    };
    let mut base = [0; 1024];
    let length = sys::read_link(&report::c_string(&link), &mut base).ok()?;
    base[..length].starts_with(b"/").then(|| base[..length].to_vec())
}

/// The path without `.`, `..` and doubled slashes; links are not followed, so this is good for a report and for nothing else.
fn clean(base: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|it| *it == b'/').chain(path.split(|it| *it == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut whole = vec![b'/'];
    whole.extend_from_slice(&parts.join(&b'/'));
    whole
}
