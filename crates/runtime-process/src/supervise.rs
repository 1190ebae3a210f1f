//! One task per instance that decides when it is over. It alone owns the process.
//!
//! ```text
//!  running --exit---------------------------------------> ended(Exited | Signalled)
//!     | ----conversation closed, no exit in EXIT_WAIT---> kill --> ended(Protocol)
//!     | ----conversation at fault-----------------------> kill --> ended(Protocol | Stuck)
//!     | ----more memory or disk than allowed------------> kill --> ended(OutOfMemory | OutOfDisk)
//!     | ----instance dropped----------------------------> kill
//!     '-----stop--> it is asked, `stop` --> SIGTERM, `term` --> SIGKILL
//! ```
//!
//! What is at fault depends on what is spoken: on the lane a breach of the protocol, or a call that overran its deadline by too much. Under go-plugin
//! neither: gRPC keeps its streams apart, and a call that is late is cancelled in the plugin.
//!
//! An exit by SIGKILL after which the cgroup has counted a kill for want of memory is told as `OutOfMemory`.
//!
//! "Kill" is SIGKILL to the process and all it started. Callers are answered before the process is waited for: it may take its time.
//!
//! Invariants
//! - P1: `ended` is told once and only if nobody asked for the stop; `stopped` is told on every way out.
//! - P2: when either is told, the process is reaped or has been handed to the spawner for that, and every call is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mortise_runtime::{CallError, CallErrorKind, EndCause, StopReport};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    ProcessConfig,
    dialect::{Conversation, Over, Plugin as _},
    memory,
    watched::Watched,
};

/// A process that said its last word has so long to exit.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// What the instance asks of its supervisor. A closed channel says: end it.
#[derive(Debug)]
pub(crate) enum Command {
    Stop { grace: Duration },
}

/// A process with everything that must be given back when it ends.
pub(crate) struct Supervisor<C> {
    pub(crate) conversation: C,
    pub(crate) child: Watched,
    pub(crate) config: Arc<ProcessConfig>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// The process is reaped, or about to be: its id means nothing any more.
    pub(crate) gone: Arc<AtomicBool>,
    pub(crate) ended: watch::Sender<Option<EndCause>>,
    pub(crate) stopped: watch::Sender<Option<StopReport>>,
}

/// What happened to a running instance.
enum Verdict {
    Exited,
    Stop(Duration),
    Dropped,
    /// It is at fault and must be killed.
    Kill(EndCause),
}

impl<C: Conversation> Supervisor<C> {
    pub(crate) async fn run(mut self) {
        let mut report = StopReport::default();
        match self.watch().await {
            Verdict::Exited => {
                // What it answered before it went are answers.
                self.conversation.settle().await;
                let cause = self.end().await;
                self.fail(&cause);
                self.ended.send_replace(Some(cause));
            }
            Verdict::Kill(cause) => {
                self.fail(&cause);
                self.child.kill().await;
                self.end().await;
                self.ended.send_replace(Some(cause));
            }
            Verdict::Dropped => {
                self.close("was dropped");
                self.child.kill().await;
                self.end().await;
            }
            Verdict::Stop(grace) => {
                report = self.stop(grace).await;
                self.conversation.settle().await;
                self.end().await;
                self.close("was stopped");
            }
        }
        self.stopped.send_replace(Some(report));
    }

    async fn watch(&mut self) -> Verdict {
        let mut sample = interval(memory::SAMPLE_INTERVAL);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disk = self.child.process.disk(self.config.disk_bytes_max);
        loop {
            tokio::select! {
                biased;
                () = self.child.exit.exited() => return Verdict::Exited,
                command = self.commands.recv() => return match command {
                    Some(Command::Stop { grace }) => Verdict::Stop(grace),
                    None => Verdict::Dropped,
                },
                over = self.conversation.over() => return match over {
                    Over::AtFault(cause) => Verdict::Kill(cause),
                    Over::Closed if self.child.exits_within(EXIT_WAIT).await => Verdict::Exited,
                    Over::Closed => {
                        Verdict::Kill(EndCause::Protocol("it closed its lane and went on running".to_owned()))
                    }
                },
                why = disk.over() => return Verdict::Kill(EndCause::OutOfDisk(why)),
                _ = sample.tick() => if let Some(why) = self.over_memory() {
                    return Verdict::Kill(EndCause::OutOfMemory(why));
                },
            }
        }
    }

    fn memory_bytes_max(&self) -> u64 {
        self.conversation.plugin().limits().memory_bytes_max
    }

    fn over_memory(&self) -> Option<String> {
        let used = memory::used_bytes(self.child.process.pid())?;
        let max = self.memory_bytes_max();
        (used > max).then(|| format!("it used {used} bytes of memory, and {max} is its limit"))
    }

    /// Takes in what a process that has exited, or was killed, left behind.
    async fn end(&mut self) -> EndCause {
        self.gone.store(true, Ordering::Release);
        match self.child.end().await {
            EndCause::OutOfMemory(how) => {
                let max = self.memory_bytes_max();
                EndCause::OutOfMemory(format!("{how}: {max} bytes of memory is its limit"))
            }
            cause => cause,
        }
    }

    /// The stop ladder. An instance that is dropped meanwhile goes straight to its end.
    async fn stop(&mut self, grace: Duration) -> StopReport {
        self.conversation.ask_to_stop();
        let mut report = StopReport::default();
        if self.exits_within(grace).await {
            return report;
        }
        self.child.process.terminate();
        report.forced = Some(format!(
            "it did not exit within {grace:?} of being asked and was sent SIGTERM"
        ));
        let term = self.conversation.plugin().limits().term;
        if self.exits_within(term).await {
            return report;
        }
        report.forced = Some(format!(
            "it did not exit within {grace:?} of being asked and {term:?} after SIGTERM, and was killed"
        ));
        if !self.child.kill().await {
            let pid = self.child.process.pid().as_raw_nonzero();
            report.left = Some(format!(
                "process {pid} hangs in the kernel; it is reaped when it comes back"
            ));
        }
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

    /// Answers every call: the plugin is at fault.
    fn fail(&self, cause: &EndCause) {
        let plugin = self.conversation.plugin();
        let name = plugin.name();
        let message = format!("plugin `{name}` failed: {cause}{}", self.child.tail.last_words());
        plugin.close(
            CallError::new(CallErrorKind::GuestFault, message)
                .with_hint("see the plugin's last log lines; other plugins are not affected"),
        );
    }

    /// Answers every call: somebody ended it.
    fn close(&self, how: &str) {
        let plugin = self.conversation.plugin();
        let why = format!("the instance of plugin `{}` {how}", plugin.name());
        plugin.close(CallError::new(CallErrorKind::Draining, why));
    }
}
