//! A process from its start to its end: its exit, its output and what is heard of it.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};

use mortise_jail::Meter;
use mortise_runtime::{EndCause, HostServices};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    heard::{self, Ending},
    output::Tail,
    proxy,
    spawner::{ExitWatch, Process, Spawned},
};

/// A process that was sent SIGKILL is waited for so long. One that hangs in a system call may take longer; the spawner reaps it.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// What a process has written before its exit is read so long. Usually it is there already.
const DRAIN_WAIT: Duration = Duration::from_millis(200);
/// The signal that nothing survives, on every system.
const SIGKILL: i32 = 9;

/// A process, its exit, its output and what is heard of it.
pub(crate) struct Watched {
    pub(crate) process: Process,
    pub(crate) meter: Meter,
    pub(crate) exit: ExitWatch,
    pub(crate) tail: Tail,
    ending: Ending,
    output: Vec<OwnedTask>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

// === impl Watched ===

impl Watched {
    /// Makes a process that was just started known to this executor. `read` begins to read its standard output and error.
    ///
    /// Gives the host's end of its lane too, if it has one.
    pub(crate) fn new(
        spawned: Spawned,
        services: &Arc<dyn HostServices>,
        read: impl FnOnce(OwnedFd, OwnedFd, &Tail) -> [OwnedTask; 2],
    ) -> io::Result<(Self, Option<UnixStream>)> {
        let Spawned {
            process,
            exit,
            events,
            listener,
            lane,
            stdout,
            stderr,
        } = spawned;
        let (tail, ending) = (Tail::default(), Ending::default());
        let mut output = Vec::from(read(stdout, stderr, &tail));
        if let Some(events) = events {
            let heard = heard::listen(events, ending.clone(), services.clone());
            output.push(OwnedTask::reading("what it is denied", heard));
        }
        if let Some(listener) = listener {
            let served = proxy::serve(listener, services.clone());
            output.push(OwnedTask::reading("its way to the network", served));
        }
        let watched = Self {
            meter: process.meter(),
            process,
            exit: exit.watch()?,
            tail,
            ending,
            output,
        };
        Ok((watched, lane))
    }

    /// Waits until the process has exited, but no longer than `time`.
    pub(crate) async fn exits_within(&mut self, time: Duration) -> bool {
        timeout(time, self.exit.exited()).await.is_ok()
    }

    /// Ends the process and all it started. False if it hangs in the kernel.
    pub(crate) async fn kill(&mut self) -> bool {
        self.process.kill();
        self.exits_within(KILL_WAIT).await
    }

    /// Reaps the process, and takes in all that was written and heard of it before: how it ended.
    pub(crate) async fn end(&mut self) -> EndCause {
        // The cgroups count until they are removed, which is after the process is reaped.
        let used = self.meter.read();
        let status = self.process.reap();
        let all = async {
            for task in &mut self.output {
                let _ = (&mut task.0).await;
            }
        };
        let _ = timeout(DRAIN_WAIT, all).await;
        self.output.clear();
        match self.ending.cause(status) {
            EndCause::Signalled(SIGKILL) if used.out_of_memory_kills.is_some_and(|it| it > 0) => {
                let why = "the kernel ended it, because all its processes together used too much";
                EndCause::OutOfMemory(why.to_owned())
            }
            cause => cause,
        }
    }
}

// === impl OwnedTask ===

impl OwnedTask {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// Takes in something of a plugin, named `what` in the log if it can't be any more.
    pub(crate) fn reading(
        what: &'static str,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Self {
        Self::spawn(async move {
            if let Err(error) = task.await {
                tracing::warn!(what, %error, "something of a plugin can't be followed any more");
            }
        })
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
