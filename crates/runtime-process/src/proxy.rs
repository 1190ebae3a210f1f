//! The way to the network for a plugin that was granted some: an HTTP proxy on its own loopback that knows one method, CONNECT.
//!
//! The plugin's network namespace is empty but for this socket, whose other end is here. So an unmodified program that honours `HTTPS_PROXY` reaches what it was
//! granted, by name: the host resolves, checks every address and dials ([`HostServices::connect`]), and the plugin never sees an address. What is inside the
//! connection is between the plugin and the other side; the host copies bytes. It never hands the socket over: a socket keeps its network namespace, and with
//! `connect(AF_UNSPEC)` the plugin could take it apart and connect it to whatever the host reaches (ADR 2).
//!
//! A request for `http://` in absolute form is refused with 501: the host would have to read and write the plugin's HTTP. Programs that need plain HTTP can
//! CONNECT to port 80.

use std::{io, os::fd::OwnedFd, sync::Arc};

use mortise_runtime::{Denied, HostServices};
use mortise_wire::Code;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Duration, sleep, timeout},
};

/// Connections of one plugin at once; further ones wait to be accepted. Each takes two of the host's descriptors for as long as both ends like.
const CONNECTIONS_MAX: usize = 64;
/// After a connection that could not be accepted it waits so long: what was missing is not there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest request.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// A request that is not complete by then is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Connect { host: String, port: u16 },
    Bad(&'static str),
    Other,
}

/// Serves until the plugin's network is gone, or the future is dropped; all connections end with it.
pub(crate) async fn serve(listener: OwnedFd, services: Arc<dyn HostServices>) -> io::Result<()> {
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let plugin = match listener.accept().await {
            Ok((plugin, _)) => plugin,
            // No descriptor to be had just now, or a connection that was gone before it was taken: neither says anything about the next.
            Err(error) => {
                tracing::debug!(%error, "a connection of a plugin could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let services = services.clone();
        open.spawn(async move {
            let _permit = permit;
            // Whatever happens to one connection is the plugin's to notice.
            let _ = one(plugin, &*services).await;
        });
        while open.try_join_next().is_some() {}
    }
}

async fn one(mut plugin: TcpStream, services: &dyn HostServices) -> io::Result<()> {
    let head = timeout(HEAD_TIMEOUT, read_head(&mut plugin)).await??;
    let (host, port) = match parse(&head) {
        Asked::Connect { host, port } => (host, port),
        Asked::Bad(why) => return refuse(&mut plugin, "400 Bad Request", why).await,
        Asked::Other => {
            return refuse(
                &mut plugin,
                "501 Not Implemented",
                "this proxy knows CONNECT alone",
            )
            .await;
        }
    };
    match services.connect(&host, port).await {
        Ok(stream) => {
            stream.set_nonblocking(true)?;
            let mut other = TcpStream::from_std(stream)?;
            plugin
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await?;
            copy_bidirectional(&mut plugin, &mut other).await.map(drop)
        }
        Err(status) => {
            let line = match status.kind() {
                Code::PermissionDenied => {
                    let target = format!("{}:{port}", host.escape_debug());
                    services.denied(Denied {
                        capability: "net.connect",
                        target: &target,
                        how: "CONNECT",
                    });
                    "403 Forbidden"
                }
                _ => "502 Bad Gateway",
            };
            refuse(&mut plugin, line, &status.message).await
        }
    }
}

async fn refuse(plugin: &mut TcpStream, line: &str, why: &str) -> io::Result<()> {
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{why}\n"
    );
    plugin.write_all(answer.as_bytes()).await?;
    plugin.shutdown().await
}

/// Reads up to the empty line and not a byte further: what follows belongs to the connection.
async fn read_head(plugin: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let mut seen = [0; 1024];
        let peeked = plugin.peek(&mut seen).await?;
        if peeked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = head.len();
        head.extend_from_slice(&seen[..peeked]);
        let end = head.windows(4).position(|it| it == b"\r\n\r\n").map(|at| at + 4);
        let taken = end.unwrap_or(head.len()) - before;
        plugin.read_exact(&mut seen[..taken]).await?;
        if let Some(end) = end {
            head.truncate(end);
            return Ok(head);
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn parse(head: &[u8]) -> Asked {
    let line = head.split(|it| *it == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Asked::Bad("the request is no text");
    };
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "CONNECT" {
        return Asked::Other;
    }
    let Some((host, port)) = target.rsplit_once(':') else {
        return Asked::Bad("CONNECT wants `host:port`");
    };
    match port.parse() {
        Ok(port) if port > 0 && !host.is_empty() => Asked::Connect {
            host: host.to_owned(),
            port,
        },
        _ => Asked::Bad("CONNECT wants `host:port`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_with_host_and_port() {
        let connect = |host: &str, port| Asked::Connect {
            host: host.to_owned(),
            port,
        };
        for (head, expected) in [
            ("CONNECT a.org:443 HTTP/1.1\r\n\r\n", connect("a.org", 443)),
            (
                "CONNECT [::1]:80 HTTP/1.1\r\nHost: x\r\n\r\n",
                connect("[::1]", 80),
            ),
            (
                "CONNECT a.org HTTP/1.1\r\n\r\n",
                Asked::Bad("CONNECT wants `host:port`"),
            ),
            (
                "CONNECT :80 HTTP/1.1\r\n\r\n",
                Asked::Bad("CONNECT wants `host:port`"),
            ),
            (
                "CONNECT a:99999 HTTP/1.1\r\n\r\n",
                Asked::Bad("CONNECT wants `host:port`"),
            ),
            ("GET http://a.org/ HTTP/1.1\r\n\r\n", Asked::Other),
            ("", Asked::Other),
        ] {
            assert_eq!(parse(head.as_bytes()), expected, "{head}");
        }
    }
}
