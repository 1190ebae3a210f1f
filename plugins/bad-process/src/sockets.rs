//! Attempts on the network and on other people's sockets.

use std::{
    io::{Read as _, Write as _},
    mem,
    net::TcpStream,
    os::unix::net::UnixStream,
};

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
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) }.into())?;
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

/// Asks the proxy of its environment for a connection, says `ping` and gives back what is answered.
pub(crate) fn connect_through_proxy(target: &str) -> Outcome {
    let proxy = std::env::var("HTTPS_PROXY").map_err(|_| libc::ENETUNREACH)?;
    let mut stream = TcpStream::connect(proxy.trim_start_matches("http://")).map_err(errno_of)?;
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").map_err(errno_of)?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).map_err(errno_of)? == 1 {
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(libc::EACCES);
    }
    stream.write_all(b"ping").map_err(errno_of)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).map_err(errno_of)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
