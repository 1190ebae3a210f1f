//! Where a host is willing to connect to because a plugin said so.
//!
//! A plugin names addresses twice: in its handshake, and for every service that it offers through the broker. A host that connects wherever it is told lends
//! the plugin its own rights: the socket of a container daemon is an address too. So a socket must lie in the plugin's private directory, whatever links lead there, and
//! whoever listens must be the plugin, which the kernel tells. TCP has no such word of the kernel's; it is taken on the loopback interface only and with mutual TLS only.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::{Pid, getpgid};
use tokio::net::{TcpStream, UnixStream, unix::UCred};

use crate::{handshake::NetAddress, transport::Wire};

/// What a side connects to.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Sockets must lie in here; `None` for anywhere.
    pub directory: Option<PathBuf>,
    /// Who must listen there.
    pub peer: Option<PeerCheck>,
    /// Whether TCP is taken: only where TLS proves who listens.
    pub tcp: bool,
}

/// Decides about the process at the other end of a unix socket.
#[derive(Clone)]
pub struct PeerCheck(Arc<Check>);

type Check = dyn Fn(&UCred) -> Result<(), String> + Send + Sync;

// === impl PeerCheck ===

impl PeerCheck {
    /// A check of one's own. The text says why not.
    pub fn new(check: impl Fn(&UCred) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// The process `leader` or one of its process group, whatever user it runs as: a jail may have given it one of its own. `leader` must not be reaped yet.
    #[must_use]
    pub fn group(leader: u32) -> Self {
        Self::new(move |peer| {
            let pid = peer.pid().and_then(Pid::from_raw);
            let group = pid.and_then(|pid| getpgid(Some(pid)).ok());
            let is_it = |pid: Option<Pid>| {
                pid.is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == leader)
            };
            if is_it(pid) || is_it(group) {
                return Ok(());
            }
            let found = pid.map_or_else(
                || "an unknown process".to_owned(),
                |pid| format!("process {}", pid.as_raw_nonzero()),
            );
            Err(format!("{found} listens there, and the plugin is {leader}"))
        })
    }

    /// Decides about the peer of `stream`.
    ///
    /// # Errors
    /// `PermissionDenied`, with the reason.
    pub fn check(&self, stream: &UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        (self.0)(&peer).map_err(|why| io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

impl fmt::Debug for PeerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerCheck")
    }
}

// === impl AddressPolicy ===

impl AddressPolicy {
    /// Connects, if it may.
    ///
    /// # Errors
    /// `PermissionDenied` where it may not, with the reason; else what the system says.
    pub(crate) async fn connect(&self, address: &NetAddress) -> io::Result<Wire> {
        match address {
            NetAddress::Unix(path) => {
                let path = self.permitted(path)?;
                let stream = UnixStream::connect(path).await?;
                self.peer.as_ref().map_or(Ok(()), |peer| peer.check(&stream))?;
                Ok(Wire::new(stream))
            }
            NetAddress::Tcp(at) if !self.tcp => Err(denied(format!(
                "`{at}` is TCP, which is taken with mutual TLS only; set `auto_mtls = true`"
            ))),
            NetAddress::Tcp(at) if !at.ip().is_loopback() => {
                Err(denied(format!("`{at}` is not on the loopback interface")))
            }
            NetAddress::Tcp(at) => {
                let stream = TcpStream::connect(at).await?;
                stream.set_nodelay(true)?;
                Ok(Wire::new(stream))
            }
        }
    }

    /// The path without any links.
    fn permitted(&self, path: &Path) -> io::Result<PathBuf> {
        let Some(directory) = &self.directory else {
            return Ok(path.to_owned());
        };
        let (directory, real) = (directory.canonicalize()?, path.canonicalize()?);
        if real.starts_with(&directory) {
            Ok(real)
        } else {
            Err(denied(format!(
                "the socket `{}` is outside the plugin's directory `{}`",
                path.display(),
                directory.display()
            )))
        }
    }
}

fn denied(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn why(result: io::Result<Wire>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn only_sockets_inside_the_directory() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let listen = |dir: &tempfile::TempDir| {
            let path = dir.path().join("socket");
            (UnixListener::bind(&path).unwrap(), path)
        };
        let ((_inside, inside), (_outside, outside)) = (listen(&own), listen(&other));
        let link = own.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let policy = AddressPolicy {
            directory: Some(own.path().to_owned()),
            ..AddressPolicy::default()
        };
        policy.connect(&NetAddress::Unix(inside)).await.map(drop).unwrap();
        for path in [outside, link, own.path().join("../x")] {
            let refused = policy.connect(&NetAddress::Unix(path)).await;
            let error = refused.err().unwrap();
            assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
                ),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn whoever_listens_must_be_the_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let with = |leader| AddressPolicy {
            peer: Some(PeerCheck::group(leader)),
            ..AddressPolicy::default()
        };
        let address = NetAddress::Unix(path);
        with(std::process::id())
            .connect(&address)
            .await
            .map(drop)
            .unwrap();
        let refused = why(with(1).connect(&address).await);
        assert_eq!(
            refused,
            format!(
                "process {} listens there, and the plugin is 1",
                std::process::id()
            )
        );
    }

    #[tokio::test]
    async fn tcp_needs_loopback_and_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = NetAddress::Tcp(listener.local_addr().unwrap());
        assert!(why(AddressPolicy::default().connect(&address).await).contains("with mutual TLS only"));
        let policy = AddressPolicy {
            tcp: true,
            ..AddressPolicy::default()
        };
        policy.connect(&address).await.map(drop).unwrap();
        let elsewhere = NetAddress::Tcp("192.0.2.1:80".parse().unwrap());
        assert_eq!(
            why(policy.connect(&elsewhere).await),
            "`192.0.2.1:80` is not on the loopback interface"
        );
    }
}
