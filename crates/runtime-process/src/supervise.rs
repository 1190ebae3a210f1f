//! One task per instance that decides when it is over. It alone owns the process.
//!
//! ```text
//!  running --exit--------------------------------> ended(Exited | Signalled)
//!     | ----lane closed, no exit in EXIT_WAIT----> kill --> ended(Protocol)
//!     | ----protocol broken----------------------> kill --> ended(Protocol)
//!     | ----a call is stuck----------------------> kill --> ended(Stuck)
//!     | ----more memory or disk than allowed-----> kill --> ended(OutOfMemory | OutOfDisk)
//!     | ----instance dropped---------------------> kill
//!     '-----stop--> Stop frame, grace --> SIGTERM, term_grace --> SIGKILL
//! ```
//!
//! An exit by SIGKILL after which the cgroup has counted a kill for want of memory is told as `OutOfMemory`.
//!
//! "Kill" is SIGKILL to the process and all it started. Callers are answered before the process is waited for: it may take its time.
//!
//! Invariants
//! - P1: `ended` is told once and only if nobody asked for the stop; `stopped` is told on every way out.
//! - P2: when either is told, the process is reaped or has been handed to the spawner for that, and every call is answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mortise_jail::Meter;
use mortise_runtime::{CallError, CallErrorKind, EndCause, StopReport};
use mortise_wire::frame::Kind;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::{sleep, sleep_until, timeout},
};

use crate::{
    disk,
    heard::Ending,
    inbox::LaneEnd,
    instance::Shared,
    lane::Held,
    memory,
    output::Tail,
    spawner::{ExitWatch, Process},
};

/// A process that closed its lane has so long to exit.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// A process that was sent SIGKILL is waited for so long. One that hangs in a system call may take longer; the spawner reaps it.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// What a process has written before its exit is read so long. Usually it is there already.
const DRAIN_WAIT: Duration = Duration::from_millis(200);

/// What the instance asks of its supervisor. A closed channel says: end it.
#[derive(Debug)]
pub(crate) enum Command {
    Stop { grace: Duration },
}

/// A process with everything that must be given back when it ends.
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) child: Watched,
    pub(crate) reader: JoinHandle<LaneEnd>,
    /// Ends with the supervisor.
    pub(crate) _writer: OwnedTask,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) ended: watch::Sender<Option<EndCause>>,
    pub(crate) stopped: watch::Sender<Option<StopReport>>,
    pub(crate) term_grace: Duration,
    pub(crate) disk_bytes_max: u64,
}

/// A process, its exit, its output and what is heard of it.
pub(crate) struct Watched {
    pub(crate) process: Process,
    pub(crate) meter: Meter,
    pub(crate) exit: ExitWatch,
    pub(crate) ending: Ending,
    pub(crate) output: Vec<OwnedTask>,
    pub(crate) tail: Tail,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

/// What happened to a running instance.
enum Verdict {
    Exited,
    Stop(Duration),
    Dropped,
    /// It is at fault and must be killed.
    Kill(EndCause, Option<String>),
}

// === impl Supervisor ===

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let reading = self.reader.abort_handle();
        let _ends_with_us = AbortOnDrop(reading);
        match self.watch().await {
            Verdict::Exited => {
                let cause = self.exited().await;
                self.fail(&cause, None);
                self.ended.send_replace(Some(cause));
            }
            Verdict::Kill(cause, why) => {
                self.fail(&cause, why.as_deref());
                self.kill().await;
                self.ended.send_replace(Some(cause));
            }
            Verdict::Dropped => {
                self.close("was dropped");
                self.kill().await;
            }
            Verdict::Stop(grace) => {
                let report = self.stop(grace).await;
                self.close("was stopped");
                self.stopped.send_replace(Some(report));
                return;
            }
        }
        self.stopped.send_replace(Some(StopReport::default()));
    }

    async fn watch(&mut self) -> Verdict {
        let mut sample = tokio::time::interval(memory::SAMPLE_INTERVAL);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut disk = disk::Watch::new(self.child.process.dir(), self.disk_bytes_max);
        loop {
            let due = self.shared.calls.first_due();
            let stuck = async {
                match due {
                    Some((at, _)) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.child.exit.exited() => return Verdict::Exited,
                command = self.commands.recv() => return match command {
                    Some(Command::Stop { grace }) => Verdict::Stop(grace),
                    None => Verdict::Dropped,
                },
                end = &mut self.reader => return self.lane_ended(end).await,
                () = self.shared.calls.due_changed() => {}
                () = stuck => {
                    // It may have answered at the last moment.
                    if let Some((at, method)) = self.shared.calls.first_due() && at <= Instant::now() {
                        return Verdict::Kill(EndCause::Stuck(self.shared.method_name(method)), None);
                    }
                }
                why = disk.over() => return Verdict::Kill(EndCause::OutOfDisk(why), None),
                _ = sample.tick() => if let Some(why) = self.over_memory() {
                    return Verdict::Kill(EndCause::OutOfMemory(why), None);
                },
            }
        }
    }

    async fn lane_ended(&mut self, end: Result<LaneEnd, tokio::task::JoinError>) -> Verdict {
        match end {
            Ok(LaneEnd::Broken(how)) => Verdict::Kill(EndCause::Protocol(how), None),
            Ok(LaneEnd::Closed) => {
                if timeout(EXIT_WAIT, self.child.exit.exited()).await.is_ok() {
                    return Verdict::Exited;
                }
                Verdict::Kill(
                    EndCause::Protocol("it closed its lane and went on running".to_owned()),
                    None,
                )
            }
            // Our reader panicked: the instance is of no use, and the plugin is not to blame.
            Err(error) => {
                let why = format!("the host's reader of its lane failed: {error}");
                Verdict::Kill(EndCause::Protocol(why), None)
            }
        }
    }

    fn over_memory(&self) -> Option<String> {
        let used = memory::used_bytes(self.child.process.pid())?;
        let max = self.shared.limits.memory_bytes_max;
        (used > max).then(|| format!("it used {used} bytes of memory, and {max} is its limit"))
    }

    /// Takes in what a process that has exited left behind.
    async fn exited(&mut self) -> EndCause {
        self.shared.gone.store(true, Ordering::Release);
        // Answers that it sent before it went are answers; and what broke the protocol is the better reason.
        if !self.reader.is_finished() {
            let _ = timeout(DRAIN_WAIT, &mut self.reader).await;
        }
        match self.child.end(Duration::ZERO).await {
            EndCause::OutOfMemory(how) => {
                let max = self.shared.limits.memory_bytes_max;
                EndCause::OutOfMemory(format!("{how}: {max} bytes of memory is its limit"))
            }
            cause => cause,
        }
    }

    async fn kill(&mut self) {
        self.child.process.kill();
        let _ = timeout(KILL_WAIT, self.child.exit.exited()).await;
        self.reap();
        self.child.drain().await;
    }

    /// The stop ladder. An instance that is dropped meanwhile goes straight to its end.
    async fn stop(&mut self, grace: Duration) -> StopReport {
        self.shared.lane.send(Kind::Stop, 0, &[], Held::default());
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
        self.reap();
        if !self.reader.is_finished() {
            let _ = timeout(DRAIN_WAIT, &mut self.reader).await;
        }
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

    fn reap(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
        self.child.process.reap();
    }

    /// Answers every call: the plugin is at fault.
    fn fail(&self, cause: &EndCause, why: Option<&str>) {
        let name = self.shared.name();
        let why = why.map_or_else(|| cause.to_string(), |why| format!("{cause} because {why}"));
        let message = format!("plugin `{name}` failed: {why}{}", self.child.tail.last_words());
        let error = CallError::new(CallErrorKind::GuestFault, message)
            .with_hint("see the plugin's last log lines; other plugins are not affected");
        self.close_with(error);
    }

    /// Answers every call: somebody ended it.
    fn close(&self, how: &str) {
        let why = format!("the instance of plugin `{}` {how}", self.shared.name());
        self.close_with(CallError::new(CallErrorKind::Draining, why));
    }

    fn close_with(&self, error: CallError) {
        self.shared.calls.close(error);
        self.shared.slots.close();
    }
}

// === impl Watched ===

impl Watched {
    /// Reads what the process wrote before its exit.
    pub(crate) async fn drain(&mut self) {
        let all = async {
            for task in &mut self.output {
                let _ = (&mut task.0).await;
            }
        };
        let _ = timeout(DRAIN_WAIT, all).await;
        self.output.clear();
    }

    /// Waits for the end of a process that is about to exit, or ends it: how it ended. Everything that was heard of it is in.
    pub(crate) async fn end(&mut self, wait: Duration) -> EndCause {
        if timeout(wait, self.exit.exited()).await.is_err() {
            self.process.kill();
            let _ = timeout(KILL_WAIT, self.exit.exited()).await;
        }
        // The cgroups count until they are removed, which is after the process is reaped.
        let used = self.meter.read();
        let status = self.process.reap();
        self.drain().await;
        match self.ending.cause(status) {
            EndCause::Signalled(SIGKILL) if used.out_of_memory_kills.is_some_and(|it| it > 0) => {
                let why = "the kernel ended it, because all its processes together used too much";
                EndCause::OutOfMemory(why.to_owned())
            }
            cause => cause,
        }
    }
}

/// The signal that nothing survives, on every system.
const SIGKILL: i32 = 9;

// === impl OwnedTask ===

impl OwnedTask {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
