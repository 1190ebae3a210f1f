//! Frames from the plugin: where each belongs, and which of them it may not send.

use std::sync::Arc;

use mortise_runtime::{CallError, CallErrorKind, LogLine};
use mortise_wire::{
    Health, LogRecord, Status,
    frame::{self, Decoder, Frame, Kind},
};
use prost::Message;

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
    pub(crate) async fn read(mut self, mut inlet: Inlet, mut decoder: Decoder) -> LaneEnd {
        loop {
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        if let Err(how) = self.take(frame) {
                            return LaneEnd::Broken(how);
                        }
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
                Ok(_) => {}
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
