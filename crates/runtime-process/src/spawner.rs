//! How a plugin's process begins and ends.
//!
//! Invariants
//! - S1: one thread starts every process and lives until the last of them is reaped: a parent-death signal is tied to the thread.
//! - S2: a process is always owned by a [`Process`]; dropping it kills its group, and this thread reaps it. So a future that is dropped at
//!   any point, or a whole tokio runtime that ends, leaves no process and no zombie.
//! - S3: nothing is signalled after it was reaped. Until then its id, and so its group's, can't be used again for another.
//! - S4: the private directory is removed after the process is reaped.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::{memory, run_dir::RunDir};

/// How often a killed process is looked at until it can be reaped. Only then does this thread wake by itself.
const REAP_INTERVAL: Duration = Duration::from_millis(5);
/// Another thread's child may hold our just-written executable open for writing until it has called exec: wait for that.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// What to start.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) data_bytes_max: u64,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    pub(crate) exit: ExitSource,
    pub(crate) lane: UnixStream,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A process that is not reaped yet, and its directory.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// `None` once it is reaped or handed to the spawner for that.
    child: Option<Child>,
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
}

/// The way to the thread that starts processes. The thread ends when the last clone and the last [`Process`] are gone and everything is reaped.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

/// Tells that a process has exited; it is not reaped by that.
#[derive(Debug)]
pub(crate) enum ExitSource {
    /// Readable once it has exited.
    #[cfg(target_os = "linux")]
    Pidfd(OwnedFd),
    /// Where there is no pidfd, a thread waits for it.
    Thread(oneshot::Receiver<()>),
}

/// An [`ExitSource`] inside a tokio runtime.
#[derive(Debug)]
pub(crate) enum ExitWatch {
    #[cfg(target_os = "linux")]
    Pidfd(AsyncFd<OwnedFd>),
    Thread(oneshot::Receiver<()>),
}

#[derive(Debug)]
enum Job {
    Spawn(Box<Plan>, mpsc::Sender<Job>, oneshot::Sender<io::Result<Spawned>>),
    /// It was killed: reap it, then remove its directory.
    Bury(Child, PathBuf),
    /// It was reaped: remove its directory.
    Remove(PathBuf),
}

// === impl Spawner ===

impl Spawner {
    pub(crate) fn start(run_dir: RunDir) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("mortise-spawn".to_owned())
            .spawn(move || run(&inbox, &run_dir))?;
        Ok(Self { jobs })
    }

    /// Starts a process on the spawner's thread.
    ///
    /// Cancel safe: if nobody waits for it any more, what was started is killed and reaped.
    pub(crate) async fn spawn(&self, plan: Plan) -> io::Result<Spawned> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.jobs
            .send(Job::Spawn(plan.into(), self.jobs.clone(), reply))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Signals the whole group, as long as it is certain to be this plugin's (S3).
    pub(crate) fn signal(&self, signal: Signal) {
        if self.child.is_some() {
            // It fails only if the group is empty already.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Reaps a process that has exited, and ends whatever else is in its group. `None` if it has not exited, or if somebody else reaped it.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        let mut child = self.child.take()?;
        match child.try_wait() {
            Ok(Some(status)) => {
                let _ = self.jobs.send(Job::Remove(std::mem::take(&mut self.dir)));
                Some(status)
            }
            // Not yet, or a handler of the embedding program's reaps every child.
            Ok(None) | Err(_) => {
                let _ = self.jobs.send(Job::Bury(child, std::mem::take(&mut self.dir)));
                None
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(child) = self.child.take() {
            let _ = self.jobs.send(Job::Bury(child, std::mem::take(&mut self.dir)));
        }
    }
}

// === impl ExitSource ===

impl ExitSource {
    /// Begins to watch.
    pub(crate) fn watch(self) -> io::Result<ExitWatch> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pidfd(pidfd) => {
                #[allow(
                    deprecated,
                    reason = "its replacement is unsafe for types that may lie about their descriptor; an OwnedFd does not"
                )]
                let watched = AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE);
                watched.map(ExitWatch::Pidfd)
            }
            Self::Thread(exited) => Ok(ExitWatch::Thread(exited)),
        }
    }
}

impl ExitWatch {
    /// Resolves once the process has exited. Cancel safe; it may be asked again.
    pub(crate) async fn exited(&mut self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pidfd(pidfd) => {
                // It stays readable: readiness is not cleared. The only failure is a tokio runtime that is shutting down.
                let _ = pidfd.readable().await;
            }
            Self::Thread(exited) => {
                if !exited.is_terminated() {
                    let _ = exited.await;
                }
            }
        }
    }
}

// === the thread ===

fn run(inbox: &mpsc::Receiver<Job>, run_dir: &RunDir) {
    let mut dying: Vec<(Child, PathBuf)> = Vec::new();
    let mut open = true;
    while open || !dying.is_empty() {
        let job = match (open, dying.is_empty()) {
            (true, true) => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            (true, false) => inbox.recv_timeout(REAP_INTERVAL),
            (false, _) => {
                thread::sleep(REAP_INTERVAL);
                Err(mpsc::RecvTimeoutError::Timeout)
            }
        };
        match job {
            Ok(Job::Spawn(plan, jobs, reply)) => {
                // If nobody waits for it any more, dropping it kills it and sends it back here.
                let _ = reply.send(spawn(&plan, run_dir, jobs));
            }
            Ok(Job::Bury(child, dir)) => dying.push((child, dir)),
            Ok(Job::Remove(dir)) => remove(&dir),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => open = false,
        }
        dying.retain_mut(|(child, dir)| {
            let alive = matches!(child.try_wait(), Ok(None));
            if !alive {
                remove(dir);
            }
            alive
        });
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a plugin's private directory could not be removed; the next host tries again");
    }
}

fn spawn(plan: &Plan, run_dir: &RunDir, jobs: mpsc::Sender<Job>) -> io::Result<Spawned> {
    let dir = run_dir.make()?;
    let started = spawn_in(plan, &dir);
    let (mut child, lane) = match started {
        Ok(started) => started,
        Err(error) => {
            remove(&dir);
            return Err(error);
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pid = Pid::from_child(&child);
    let process = Process {
        pid,
        child: Some(child),
        dir,
        jobs,
    };
    // From here on `process` kills and reaps on every way out.
    memory::limit(pid, plan.data_bytes_max)?;
    let exit = watch(pid)?;
    let piped = || io::Error::other("the child has no pipes");
    Ok(Spawned {
        process,
        exit,
        lane,
        stdout: stdout.ok_or_else(piped)?.into(),
        stderr: stderr.ok_or_else(piped)?.into(),
    })
}

fn spawn_in(plan: &Plan, dir: &Path) -> io::Result<(Child, UnixStream)> {
    for attempt in 0.. {
        // Both ends close on exec; the child gets its end as descriptor 0, in the child alone.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let spawned = Command::new(&plan.program)
            .args(&plan.args)
            .env_clear()
            .envs(plan.env.iter().map(|(name, value)| (name, value)))
            .env("TMPDIR", dir)
            .env("HOME", dir)
            .current_dir(dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        match spawned {
            Ok(child) => return Ok((child, ours)),
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_RETRIES => {
                thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ExecutableFileBusy.into())
}

/// The pid can't be another's yet: the child is not reaped.
fn watch(pid: Pid) -> io::Result<ExitSource> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{io::Errno, process::PidfdFlags};
        match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => return Ok(ExitSource::Pidfd(pidfd)),
            // Kernels before 5.10 do not know the flag, before 5.3 not the call.
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (tell, exited) = oneshot::channel();
    thread::Builder::new()
        .name("mortise-wait".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), look).is_err_and(|error| error == rustix::io::Errno::INTR) {}
            let _ = tell.send(());
        })?;
    Ok(ExitSource::Thread(exited))
}
