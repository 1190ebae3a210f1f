//! One task per instance that decides when it is over, for this dialect. It alone owns the process.
//!
//! ```text
//!  running --exit----------------------> ended(Exited | Signalled)
//!     | ----more memory than allowed---> kill --> ended(Signalled)
//!     | ----instance dropped-----------> kill
//!     '-----stop--> Shutdown, grace --> SIGTERM, term_grace --> SIGKILL
//! ```
//!
//! The invariants are those of the other dialect's supervisor. A call that overruns its deadline is cancelled in the plugin and never stuck: gRPC's streams are independent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mortise_runtime::{CallError, CallErrorKind, EndCause, StopReport};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::instance::Shared;
use crate::{
    memory,
    supervise::{Command, Watched},
};

/// A process that was sent SIGKILL is waited for so long. One that hangs in a system call may take longer; the spawner reaps it.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// A process with everything that must be given back when it ends.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) child: Watched,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) ended: watch::Sender<Option<EndCause>>,
    pub(super) stopped: watch::Sender<Option<StopReport>>,
    pub(super) term_grace: Duration,
}

enum Verdict {
    Exited,
    Stop(Duration),
    Dropped,
    Kill(String),
}

// === impl Supervisor ===

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut report = StopReport::default();
        match self.watch().await {
            Verdict::Exited => {
                self.shared.gone.store(true, Ordering::Release);
                let cause = self.child.end(Duration::ZERO).await;
                self.fail(&cause, None);
                self.ended.send_replace(Some(cause));
            }
            Verdict::Kill(why) => {
                let cause = EndCause::Signalled(Signal::KILL.as_raw());
                self.fail(&cause, Some(&why));
                self.kill().await;
                self.ended.send_replace(Some(cause));
            }
            Verdict::Dropped => {
                self.close("was dropped");
                self.kill().await;
            }
            Verdict::Stop(grace) => {
                report = self.stop(grace).await;
                self.close("was stopped");
            }
        }
        self.stopped.send_replace(Some(report));
    }

    async fn watch(&mut self) -> Verdict {
        let mut sample = interval(memory::SAMPLE_INTERVAL);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.child.exit.exited() => return Verdict::Exited,
                command = self.commands.recv() => return match command {
                    Some(Command::Stop { grace }) => Verdict::Stop(grace),
                    None => Verdict::Dropped,
                },
                _ = sample.tick() => {
                    let used = memory::used_bytes(self.child.process.pid());
                    let max = self.shared.limits.memory_bytes_max;
                    if let Some(used) = used.filter(|used| *used > max) {
                        return Verdict::Kill(format!("it used {used} bytes of memory, and {max} is its limit"));
                    }
                }
            }
        }
    }

    /// The stop ladder. An instance that is dropped meanwhile goes straight to its end.
    async fn stop(&mut self, grace: Duration) -> StopReport {
        let shared = self.shared.clone();
        // Asked beside the waiting: how the question goes says nothing, and it may hang.
        let asking = tokio::spawn(async move { shared.connection.shutdown().await });
        let mut report = StopReport::default();
        if !self.exits_within(grace).await {
            self.child.process.terminate();
            report.forced = Some(format!(
                "it did not exit within {grace:?} of being asked and was sent SIGTERM"
            ));
            if !self.exits_within(self.term_grace).await {
                self.child.process.kill();
                report.forced = Some(format!(
                    "it did not exit within {grace:?} of being asked and {:?} after SIGTERM, and was killed",
                    self.term_grace
                ));
                if timeout(KILL_WAIT, self.child.exit.exited()).await.is_err() {
                    let pid = self.child.process.pid().as_raw_nonzero();
                    report.left = Some(format!(
                        "process {pid} hangs in the kernel; it is reaped when it comes back"
                    ));
                }
            }
        }
        asking.abort();
        self.shared.gone.store(true, Ordering::Release);
        self.child.process.reap();
        self.child.drain().await;
        report
    }

    async fn exits_within(&mut self, time: Duration) -> bool {
        let dropped = async {
            // A second stop changes nothing.
            while self.commands.recv().await.is_some() {}
        };
        tokio::select! {
            biased;
            () = self.child.exit.exited() => true,
            () = sleep(time) => false,
            () = dropped => false,
        }
    }

    async fn kill(&mut self) {
        self.child.process.kill();
        let _ = timeout(KILL_WAIT, self.child.exit.exited()).await;
        self.shared.gone.store(true, Ordering::Release);
        self.child.process.reap();
        self.child.drain().await;
    }

    /// Answers every call: the plugin is at fault.
    fn fail(&self, cause: &EndCause, why: Option<&str>) {
        let name = self.shared.name();
        let why = why.map_or_else(|| cause.to_string(), |why| format!("{cause} because {why}"));
        let message = format!("plugin `{name}` failed: {why}{}", self.child.tail.last_words());
        let error = CallError::new(CallErrorKind::GuestFault, message)
            .with_hint("see the plugin's last log lines; other plugins are not affected");
        self.shared.over.send_replace(Some(error));
    }

    /// Answers every call: somebody ended it.
    fn close(&self, how: &str) {
        let why = format!("the instance of plugin `{}` {how}", self.shared.name());
        let error = CallError::new(CallErrorKind::Draining, why);
        self.shared.over.send_replace(Some(error));
    }
}
