//! Frames from the plugin: where each belongs, and which of them it may not send.

use std::sync::Arc;

use mortise_runtime::{CallError, CallErrorKind, LogLine};
use mortise_wire::{
    Health, LogRecord, Status,
    frame::{self, Decoder, Frame, Kind},
};
use prost::Message;
use tokio::task::coop::consume_budget;

use crate::{calls::NotOpen, dialect::Plugin as _, host_calls::HostCalls, shared::Shared, transport::Inlet};

/// Takes the plugin's frames. Dropping it ends the calls that the plugin makes.
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    host_calls: HostCalls,
}

/// Why there is nothing more to read.
#[derive(Debug)]
pub(crate) enum LaneEnd {
    /// The plugin closed its end.
    Closed,
    /// It broke the protocol, and how.
    Broken(String),
}

impl Inbox {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            host_calls: HostCalls::new(shared.clone()),
            shared,
        }
    }

    /// Reads until the plugin closes the lane or breaks the protocol.
    ///
    /// Gives way to other tasks after each share of frames and reads: not every transport does by itself, and a plugin that sends faster than it is read would keep
    /// this thread for ever.
    pub(crate) async fn read(mut self, mut inlet: Inlet, mut decoder: Decoder) -> LaneEnd {
        loop {
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        if let Err(how) = self.take(frame) {
                            return LaneEnd::Broken(how);
                        }
                        consume_budget().await;
                    }
                    Ok(None) => break,
                    Err(error) => return LaneEnd::Broken(error.to_string()),
                }
            }
            match inlet.read(decoder.buffer_mut()).await {
                Ok(0) => {
                    let left = decoder.buffer_mut().len();
                    return match left {
                        0 => LaneEnd::Closed,
                        left => LaneEnd::Broken(format!("it closed its lane {left} bytes into a frame")),
                    };
                }
                // It may be a byte of a frame that is never whole.
                Ok(_) => consume_budget().await,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return LaneEnd::Broken(error.to_string());
                }
                // It went without reading what we sent.
                Err(_) => return LaneEnd::Closed,
            }
        }
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// How the plugin broke the protocol.
    pub(crate) fn take(&mut self, frame: Frame) -> Result<(), String> {
        let mut units = 0;
        if frame.kind.uses_lane_credit() {
            let taken = self.shared.lane.received(frame.body.len());
            units = taken.map_err(|error| error.to_string())?;
        }
        if frame.kind == Kind::HostCall {
            // It holds its credit until it is answered.
            return self.host_calls.begin(frame, units);
        }
        self.take_counted(frame)?;
        self.shared.lane.release(units);
        Ok(())
    }

    fn take_counted(&self, frame: Frame) -> Result<(), String> {
        let id = frame.call_id;
        match frame.kind {
            Kind::Reply => {
                let (bytes, max) = (frame.body.len(), self.shared.limits.payload_bytes_max);
                let answer = if bytes > max {
                    Err(CallError::new(
                        CallErrorKind::Exhausted,
                        format!(
                            "the reply of plugin `{}` has {bytes} bytes, and {max} is the limit",
                            self.shared.name()
                        ),
                    ))
                } else {
                    Ok(frame.body)
                };
                self.shared
                    .calls
                    .answer(id, answer)
                    .map_err(|why| describe(why, id))
            }
            Kind::Error => {
                let status: Status = decode(&frame, "status")?;
                self.shared
                    .calls
                    .answer(id, Err(CallError::returned(status)))
                    .map_err(|why| describe(why, id))
            }
            Kind::Item => {
                let max = self.shared.limits.payload_bytes_max;
                let body = frame.body;
                let taken = self.shared.calls.on_stream(id, |it| it.item(body, max));
                taken.map_err(|why| describe(why, id))?
            }
            Kind::Grant => {
                let units = frame::number(&frame).map_err(|error| error.to_string())?;
                let taken = self.shared.calls.on_stream(id, |it| it.granted(units));
                // The call may have ended while it was on its way; then it is nothing to anybody.
                match taken {
                    Err(NotOpen::AnsweredBefore) => Ok(()),
                    other => other.map_err(|why| describe(why, id))?,
                }
            }
            Kind::End => self.shared.calls.end_stream(id).map_err(|why| describe(why, id)),
            Kind::Pong => {
                let health: Health = decode(&frame, "health")?;
                self.shared
                    .calls
                    .answer_health(id, health)
                    .map_err(|why| describe(why, id))
            }
            Kind::Log => {
                self.log(decode(&frame, "log record")?);
                Ok(())
            }
            Kind::Credit => {
                let units = frame::number(&frame).map_err(|error| error.to_string())?;
                self.shared
                    .lane
                    .credited(units)
                    .map_err(|error| error.to_string())
            }
            other => Err(format!(
                "it sent {other:?}, which a plugin does not send once it is ready"
            )),
        }
    }

    fn log(&self, mut record: LogRecord) {
        let call = self.shared.calls.of_line(record.call_id);
        // The lane has numbers of its own; people know the host's.
        record.call_id = call.as_ref().map_or(0, |context| context.call_id);
        self.shared.services.log(LogLine {
            record: &record,
            call: call.as_ref(),
        });
    }
}

fn decode<M: Message + Default>(frame: &Frame, what: &str) -> Result<M, String> {
    M::decode(frame.body.clone())
        .map_err(|error| format!("the {what} in its frame {:?} does not parse: {error}", frame.kind))
}

fn describe(why: NotOpen, id: u64) -> String {
    match why {
        NotOpen::AnsweredBefore => format!("it answered call {id} twice"),
        NotOpen::NeverMade => format!("it answered call {id}, which was never made"),
        NotOpen::OtherKind => format!("its answer to {id} is of the wrong kind"),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        io::IoSlice,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use bytes::Bytes;
    use futures_util::poll;
    use mortise_manifest::Limits;
    use mortise_runtime::{BoxFuture, CallContext, HostServices};
    use mortise_shm::Port;
    use mortise_wire::{Code, Metadata};
    use tokio::{net::UnixStream, sync::Semaphore};

    use super::*;
    use crate::{
        calls::Calls,
        handshake, lane,
        transport::{self, Outlet},
    };

    /// Lines that wait in the plugin's ring.
    const LINES: usize = 1000;

    /// Counts lines.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl HostServices for Counting {
        fn log(&self, _: LogLine<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn call<'a>(
            &'a self,
            _: Option<&'a CallContext>,
            target: &'a str,
            _: Bytes,
        ) -> BoxFuture<'a, Result<Bytes, Status>> {
            let refused = Status::new(Code::Unimplemented, format!("nobody calls {target} here"));
            Box::pin(std::future::ready(Err(refused)))
        }
    }

    /// A plugin that has sent so much that nobody need wait for it.
    struct Flooded {
        inbox: Inbox,
        inlet: Inlet,
        seen: Arc<Counting>,
        _plugin: (Port, UnixStream),
    }

    impl Flooded {
        fn new() -> Self {
            let made = transport::shared::make().unwrap();
            let mut plugin = Port::join(made.fds.each_ref().map(|it| it.try_clone().unwrap())).unwrap();
            let (host, other) = UnixStream::pair().unwrap();
            let (reader, writer) = host.into_split();
            let (inlet, outlet) = made.begin(reader, writer).unwrap();
            let body = LogRecord {
                message: "x".to_owned(),
                ..LogRecord::default()
            }
            .encode_to_vec();
            let header = frame::header(Kind::Log, 0, u32::try_from(body.len()).unwrap());
            let lines = [&header[..], &body].concat().repeat(LINES);
            assert_eq!(
                plugin.sender.try_send(&[IoSlice::new(&lines)]).unwrap(),
                lines.len()
            );
            let seen = Arc::new(Counting::default());
            let shared = Shared {
                metadata: Arc::new(Metadata::default()),
                limits: Limits::default(),
                services: seen.clone(),
                calls: Calls::new(Duration::ZERO, Duration::ZERO),
                lane: lane::Sender::new(Outlet::Shm(outlet.into()), 8 * LINES as u32, 0),
                lane_name: frame::transport::SHM,
                slots: Arc::new(Semaphore::new(1)),
                client: None,
            };
            Self {
                inbox: Inbox::new(shared.into()),
                inlet: Inlet::Shm(inlet),
                seen,
                _plugin: (plugin, other),
            }
        }
    }

    /// Polls once, and then as often as it takes: something else can go on in between.
    async fn gives_way(reading: impl Future, seen: &Counting) {
        let mut reading = std::pin::pin!(reading);
        assert!(poll!(&mut reading).is_pending());
        let first = seen.0.load(Ordering::Relaxed);
        assert!((1..LINES).contains(&first), "{first} of {LINES} lines at once");
        while seen.0.load(Ordering::Relaxed) < LINES {
            tokio::task::yield_now().await;
            assert!(poll!(&mut reading).is_pending());
        }
    }

    #[tokio::test]
    async fn a_plugin_that_sends_without_end_does_not_keep_the_thread() {
        let Flooded {
            inbox,
            inlet,
            seen,
            _plugin,
        } = Flooded::new();
        gives_way(inbox.read(inlet, Decoder::new(u32::MAX)), &seen).await;
    }

    #[tokio::test]
    async fn nor_before_it_is_ready() {
        let Flooded {
            mut inbox,
            mut inlet,
            seen,
            _plugin,
        } = Flooded::new();
        let mut decoder = Decoder::new(u32::MAX);
        gives_way(
            handshake::await_ready(&mut inlet, &mut decoder, &mut inbox),
            &seen,
        )
        .await;
    }
}
