//! What the supervisor hears and says over the lane.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mortise_runtime::EndCause;
use mortise_wire::frame::Kind;
use tokio::{
    task::{JoinError, JoinHandle},
    time::{sleep_until, timeout},
};

use crate::{
    dialect::{Conversation, Over},
    inbox::LaneEnd,
    lane::Held,
    shared::Shared,
    watched::OwnedTask,
};

/// What a process has sent before its exit is read so long. Usually it is there already.
const READ_WAIT: Duration = Duration::from_millis(200);

/// The lane's two tasks; both end with it.
pub(crate) struct LaneConversation {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: JoinHandle<LaneEnd>,
    pub(crate) _writer: OwnedTask,
}

impl Conversation for LaneConversation {
    type Plugin = Shared;

    fn plugin(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn over(&mut self) -> Over {
        let calls = &self.shared.calls;
        loop {
            let due = calls.first_due();
            let stuck = async {
                match due {
                    Some((at, _)) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = &mut self.reader => return lane_ended(end),
                how = self.shared.lane.broken() => return Over::AtFault(EndCause::Protocol(how)),
                () = calls.due_changed() => {}
                () = stuck => {
                    // It may have answered at the last moment.
                    if let Some((at, method)) = calls.first_due() && at <= Instant::now() {
                        return Over::AtFault(EndCause::Stuck(self.shared.method_name(method)));
                    }
                }
            }
        }
    }

    fn ask_to_stop(&mut self) {
        self.shared.lane.send(Kind::Stop, 0, &[], Held::default());
    }

    async fn settle(&mut self) {
        if !self.reader.is_finished() {
            let _ = timeout(READ_WAIT, &mut self.reader).await;
        }
    }
}

impl Drop for LaneConversation {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lane_ended(end: Result<LaneEnd, JoinError>) -> Over {
    match end {
        Ok(LaneEnd::Closed) => Over::Closed,
        Ok(LaneEnd::Broken(how)) => Over::AtFault(EndCause::Protocol(how)),
        // Our reader panicked: the instance is of no use, and the plugin is not to blame.
        Err(error) => {
            let why = format!("the host's reader of its lane failed: {error}");
            Over::AtFault(EndCause::Protocol(why))
        }
    }
}
