//! Connecting to a plugin that somebody else started, and that runs already.
//!
//! What is needed of it is four values, in the JSON form in which Terraform's `TF_REATTACH_PROVIDERS` has them:
//!
//! ```json
//! {"Protocol":"grpc","ProtocolVersion":6,"Pid":4711,"Test":true,"Addr":{"Network":"unix","String":"/run/plugin42"}}
//! ```
//!
//! There is no TLS, no pinned digest and no multiplexing, because there was no handshake; its standard output and error are whoever started it's. The process is held by a pidfd from before the connection is made, and
//! the kernel is asked whether it is the one that listens: a process that got the same id later is neither taken for the plugin nor killed for it.

use std::io;

use rustix::process::Pid;
use serde_json::Value;

use crate::{
    AddressPolicy, ConnectOptions, Connection, PeerCheck,
    connection::ConnectError,
    handshake::{Agreed, NetAddress, clip},
    process::Held,
};

/// Where a running plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reattach {
    /// The application's version.
    pub version: u32,
    /// Where it listens.
    pub address: NetAddress,
    /// Its process.
    pub pid: u32,
    /// It is somebody else's to end, say a debugger's.
    pub test: bool,
}

/// A plugin that this host did not start.
#[derive(Debug)]
pub struct Reattached {
    /// The way to it.
    pub connection: Connection,
    process: Held,
    test: bool,
}

/// Why there is no way to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReattachError {
    /// The text is wrong.
    #[error("`{text}` does not say where a plugin runs: {why}")]
    Malformed {
        /// The text, shortened.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such process, or it can't be held.
    #[error("process {pid} can't be reattached")]
    Process {
        /// Its id.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

// === impl Reattach ===

impl Reattach {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, ReattachError> {
        let wrong = |why: String| ReattachError::Malformed {
            text: clip(text),
            why,
        };
        let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let number = |key: &str| {
            value[key]
                .as_u64()
                .and_then(|it| u32::try_from(it).ok())
                .ok_or_else(|| wrong(format!("`{key}` must be a number")))
        };
        let text_of = |value: &Value, key: &str| match value[key].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(wrong(format!("`{key}` must be a string"))),
        };
        let protocol = text_of(&value, "Protocol")?;
        if protocol != "grpc" {
            return Err(wrong(format!(
                "it speaks `{}`, and this host speaks `grpc` only",
                clip(&protocol)
            )));
        }
        let (network, address) = (
            text_of(&value["Addr"], "Network")?,
            text_of(&value["Addr"], "String")?,
        );
        Ok(Self {
            version: number("ProtocolVersion")?,
            address: NetAddress::parse(&network, &address).map_err(|error| wrong(error.to_string()))?,
            pid: number("Pid")?,
            test: value["Test"].as_bool().unwrap_or(false),
        })
    }

    /// Connects. `options.identity` and the policy's directory are not used.
    ///
    /// # Errors
    /// If the process is gone, another one listens there, or it does not serve.
    pub async fn connect(&self, options: ConnectOptions) -> Result<Reattached, ReattachError> {
        let failed = |source: io::Error| ReattachError::Process {
            pid: self.pid,
            source,
        };
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        // Before the connection: from here on the id can't become another's unseen.
        let process = Held::open(pid).map_err(failed)?;
        let options = ConnectOptions {
            identity: None,
            policy: AddressPolicy {
                directory: None,
                peer: Some(PeerCheck::group(self.pid)),
                tcp: false,
            },
            ..options
        };
        let agreed = Agreed {
            version: self.version,
            address: self.address.clone(),
            certificate: None,
            multiplex: false,
        };
        let connection = Connection::open(&agreed, options).await?;
        Ok(Reattached {
            connection,
            process,
            test: self.test,
        })
    }
}

// === impl Reattached ===

impl Reattached {
    /// Resolves when its process has ended.
    pub async fn exited(&self) {
        self.process.ended().await;
    }

    /// Asks it to end, and kills it if it has not after `grace`. One that belongs to a debugger is left alone.
    pub async fn stop(&self, grace: std::time::Duration) {
        if self.test {
            return;
        }
        self.connection.shutdown().await;
        if tokio::time::timeout(grace, self.exited()).await.is_err() {
            self.process.kill();
            self.exited().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terraforms_form_is_read() {
        let text = r#"{"Protocol":"grpc","ProtocolVersion":6,"Pid":4711,"Test":true,"Addr":{"Network":"unix","String":"/run/plugin42"}}"#;
        let expected = Reattach {
            version: 6,
            address: NetAddress::Unix("/run/plugin42".into()),
            pid: 4711,
            test: true,
        };
        assert_eq!(Reattach::parse(text).unwrap(), expected);
        for (wrong, why) in [
            ("{", "EOF"),
            ("{}", "`Protocol` must be a string"),
            (&text.replace("grpc", "netrpc"), "speaks `netrpc`"),
            (&text.replace("4711", "-1"), "`Pid` must be a number"),
            (&text.replace("unix", "vsock"), "must be `unix` or `tcp`"),
        ] {
            let error = Reattach::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
