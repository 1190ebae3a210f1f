//! A plugin's standard output and error, as they come through `GRPCStdio`.
//!
//! Plugins since go-plugin 1.1 send what they print there and wait until it is read, so a host must always read. Older ones do not know the service, and
//! whatever goes wrong with it is no reason to give up the plugin.
//!
//! The plugin's side keeps the last [`KEPT_BYTES_MAX`] bytes until a host asks for the first time: hosts before 1.1 never do.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};

use crate::{
    client::{CallHeaders, Client},
    proto::{Channel, Empty, StdioData, path},
};

/// What is kept of the output while nobody reads.
pub(crate) const KEPT_BYTES_MAX: usize = 64 << 10;

/// A piece of a plugin's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// From its standard error; else from its standard output.
    pub is_stderr: bool,
    /// The bytes; not necessarily whole lines.
    pub data: Bytes,
}

/// Reads until the plugin has no more to say.
pub(crate) async fn consume(client: Client, mut output: Option<mpsc::Sender<OutputChunk>>) {
    let request = futures_util::stream::iter([Bytes::from(Empty {}.encode_to_vec())]);
    let Ok(mut stream) = client.stream(path::STDIO, &CallHeaders::default(), request).await else {
        return;
    };
    while let Ok(Some(message)) = stream.message().await {
        // A plugin that prints faster than this reads would keep the thread.
        tokio::task::coop::consume_budget().await;
        let Ok(message) = StdioData::decode(message) else {
            continue;
        };
        let is_stderr = match message.channel() {
            Channel::Stdout => false,
            Channel::Stderr => true,
            Channel::Invalid => continue,
        };
        let chunk = OutputChunk {
            is_stderr,
            data: message.data,
        };
        if let Some(to) = &output
            && to.send(chunk).await.is_err()
        {
            output = None;
        }
    }
}

/// What a plugin has printed and no host has read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Printed(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    state: Mutex<State>,
    came: Notify,
    went: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<StdioData>,
    bytes: usize,
    /// A host has asked for it, so nothing is thrown away from here on.
    is_read: bool,
}

impl Printed {
    /// Adds what was printed. Until a host asks, the oldest goes if it is too much; after that, this waits for the host.
    pub(crate) async fn push(&self, channel: Channel, data: Bytes) {
        loop {
            let went = self.0.went.notified();
            {
                let mut state = self.lock();
                if !state.is_read || state.bytes < KEPT_BYTES_MAX {
                    state.bytes += data.len();
                    state.chunks.push_back(StdioData {
                        channel: channel.into(),
                        data,
                    });
                    while state.bytes > KEPT_BYTES_MAX
                        && !state.is_read
                        && let Some(oldest) = state.chunks.pop_front()
                    {
                        state.bytes -= oldest.data.len();
                    }
                    break;
                }
            }
            went.await;
        }
        self.0.came.notify_one();
    }

    /// Everything from here on, encoded. Two readers share it between them.
    pub(crate) fn stream(&self) -> impl Stream<Item = Bytes> + Send + 'static {
        self.lock().is_read = true;
        futures_util::stream::unfold(self.clone(), |printed| async move {
            loop {
                let next = printed.pop();
                if let Some(chunk) = next {
                    printed.0.went.notify_waiters();
                    return Some((chunk.encode_to_vec().into(), printed));
                }
                printed.0.came.notified().await;
            }
        })
    }

    fn pop(&self) -> Option<StdioData> {
        let mut state = self.lock();
        let chunk = state.chunks.pop_front()?;
        state.bytes -= chunk.data.len();
        Some(chunk)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_printed_before_a_host_reads_is_kept_and_bounded() {
        let printed = Printed::default();
        for number in 0..3_u8 {
            printed
                .push(Channel::Stdout, vec![number; KEPT_BYTES_MAX / 2].into())
                .await;
        }
        let stream = printed.stream();
        futures_util::pin_mut!(stream);
        for expected in [1, 2] {
            let chunk = StdioData::decode(stream.next().await.unwrap()).unwrap();
            assert_eq!((chunk.channel(), chunk.data[0]), (Channel::Stdout, expected));
        }
        printed.push(Channel::Stderr, Bytes::from_static(b"late")).await;
        let chunk = StdioData::decode(stream.next().await.unwrap()).unwrap();
        assert_eq!((chunk.channel(), &*chunk.data), (Channel::Stderr, &b"late"[..]));
    }
}
