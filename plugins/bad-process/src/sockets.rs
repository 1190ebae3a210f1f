//! Attempts on the network and on other people's sockets.

use std::{mem, os::unix::net::UnixStream};

use crate::{Outcome, check, errno_of};

pub(crate) fn socket(family: i32, kind: i32) -> Outcome {
    socket_of(family, kind, 0)
}

pub(crate) fn socket_of(family: i32, kind: i32, protocol: i32) -> Outcome {
    // SAFETY: no pointer is involved; the descriptor is new.
    let fd = check(unsafe { libc::socket(family, kind, protocol) }.into())?;
    // SAFETY: as above.
    unsafe { libc::close(fd as i32) };
    Ok(format!("a socket of family {family}"))
}

pub(crate) fn connect_inet(ip: [u8; 4], port: u16) -> Outcome {
    // SAFETY: no pointer is involved; the descriptor is new.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) }.into())?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip),
        },
        sin_zero: [0; 8],
    };
    let size = mem::size_of_val(&address) as u32;
    // SAFETY: the address lives through the call.
    let connected = check(unsafe { libc::connect(fd as i32, (&raw const address).cast(), size) }.into());
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(fd as i32) };
    match connected {
        // On its way: nothing kept it.
        Ok(_) | Err(libc::EINPROGRESS) => Ok(format!("on the way to {ip:?}")),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn connect_unix(path: &str) -> Outcome {
    UnixStream::connect(path).map_err(errno_of)?;
    Ok(format!("connected to {path}"))
}

pub(crate) fn connect_abstract(name: &str) -> Outcome {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).map_err(errno_of)?;
    UnixStream::connect_addr(&address).map_err(errno_of)?;
    Ok(format!("connected to @{name}"))
}
