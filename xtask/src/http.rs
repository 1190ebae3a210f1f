//! Just enough HTTP/1.1 to be a client of a host on this machine: one keep-alive connection, JSON in, JSON out.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connection over which JSON-RPC requests are sent one after the other.
pub(crate) struct Connection<S: Read + Write> {
    stream: BufReader<S>,
    path: &'static str,
    next_id: u64,
}

impl Connection<TcpStream> {
    /// Connects to the HTTP endpoint of a host.
    pub(crate) fn tcp(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no host answers at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            stream: BufReader::new(stream),
            path: "/rpc",
            next_id: 1,
        })
    }
}

impl Connection<UnixStream> {
    /// Connects to the control socket of a host.
    pub(crate) fn unix(path: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("no host answers at {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self {
            stream: BufReader::new(stream),
            path: "/",
            next_id: 1,
        })
    }
}

impl<S: Read + Write> Connection<S> {
    /// Calls a JSON-RPC method and returns its result.
    ///
    /// # Errors
    /// If the connection breaks, the answer belongs to another request, or the host answers with an error.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut answer = self.post(&serde_json::to_vec(&request)?)?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        if answer["id"] != id {
            bail!(
                "{method}: request {id} got the answer of request {}",
                answer["id"]
            );
        }
        Ok(answer["result"].take())
    }

    fn post(&mut self, body: &[u8]) -> Result<Value> {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.path,
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.stream.get_mut().write_all(body)?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut bytes = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the host closed the connection in the middle of an answer");
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    bytes = Some(value.trim().parse::<usize>()?);
                }
                Some(_) => {}
                None => break,
            }
        }
        let bytes = bytes.with_context(|| format!("an answer without a length: {status}"))?;
        let mut answer = vec![0; bytes];
        self.stream.read_exact(&mut answer)?;
        serde_json::from_slice(&answer).with_context(|| {
            format!(
                "an answer that is no JSON: {status}{}",
                String::from_utf8_lossy(&answer)
            )
        })
    }
}

/// Asks with GET whether the host is ready.
pub(crate) fn ready(address: &str) -> bool {
    let ask = || -> Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
