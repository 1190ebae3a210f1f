//! How a plugin's process begins and ends.
//!
//! Invariants
//! - S1: one thread starts every process and lives until the last of them is reaped: a parent-death signal is tied to the thread.
//! - S2: a process is always owned by a [`Process`]; dropping it kills it with all it started, and this thread reaps it. So a future that is dropped at
//!   any point, or a whole tokio runtime that ends, leaves no process and no zombie.
//! - S3: nothing is signalled after it was reaped. Until then its id, and so its group's, can't be used again for another.
//! - S4: the private directory and the cgroups are removed after the process is reaped. What a plugin has left in its directory is removed by a thread of its own,
//!   under another name: it may take long, and no other plugin waits for it.
//! - S5: at most one launcher waits for a program that is still to come; it is made while nothing else is to be done, and is gone when the last
//!   [`Spawner`] is. A start that finds none, or one that is not for its kind of program, makes its own and is like any other.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use mortise_jail::{
    CgroupRoot, Enclosure, Events, Executable, Jailed, Launcher, Machine, Meter, Mode, Policy, Program,
    StartError, User,
};
use rustix::process::Pid;
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::{
    disk,
    run_dir::{self, RunDir},
};

/// How often a killed process is looked at until it can be reaped. Only then does this thread wake by itself.
const REAP_INTERVAL: Duration = Duration::from_millis(5);
/// After a start the next launcher is made when nothing was asked for so long: a program that has just been started has the processors to itself.
const READY_AFTER: Duration = Duration::from_millis(100);
/// How long the end of the last [`Spawner`] waits until the waiting launcher is gone and what was killed is reaped. It takes milliseconds unless the
/// thread is busy.
const RETIRE_WAIT: Duration = Duration::from_millis(250);
/// How many cgroups of others are removed at most: each takes up to a millisecond, and a program may be waiting to be started.
const LEFTOVERS_MAX: usize = 64;

/// What to start.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    /// Without its name, which comes first.
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Variables that hold the path of the private directory.
    pub(crate) env_of_dir: Vec<OsString>,
    pub(crate) input: Input,
    /// What it may do; the spawner fills in the directory and, for a host that is root, a user.
    pub(crate) policy: Policy,
}

/// What a process reads from its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The lane: one end of a socket pair.
    Lane,
    /// Nothing.
    Null,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    pub(crate) exit: ExitSource,
    /// What is heard of it, where anything is.
    pub(crate) events: Option<Events>,
    /// Listens on the jail's own loopback, if the plugin may connect anywhere.
    pub(crate) listener: Option<OwnedFd>,
    /// The host's end of the lane, if it was to have one.
    pub(crate) lane: Option<UnixStream>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A process that is not reaped yet, and its directory.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// `None` once it is reaped or handed to the spawner for that.
    jailed: Option<Jailed>,
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
}

/// The way to the thread that starts processes. The thread ends when the last clone and the last [`Process`] are gone and everything is reaped.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    jobs: mpsc::Sender<Job>,
    /// Dropped with the last clone.
    _retiree: Arc<Retiree>,
}

/// Sends the waiting launcher away when it is dropped.
#[derive(Debug)]
struct Retiree(mpsc::Sender<Job>);

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
    Spawn(
        Box<Plan>,
        mpsc::Sender<Job>,
        oneshot::Sender<Result<Spawned, StartError>>,
    ),
    /// It was killed: reap it, then remove its directory.
    Bury(Jailed, PathBuf),
    /// It was reaped: remove its cgroups and its directory.
    Remove(Jailed, PathBuf),
    /// There will be no more programs.
    Retire(mpsc::Sender<()>),
}

/// What the thread has.
struct Yard {
    // Dropped first: it has a directory among the cgroups.
    waiting: Waiting,
    /// Dropped before the directory that it works in.
    remover: Remover,
    run_dir: RunDir,
    machine: &'static Machine,
    cgroups: Option<CgroupRoot>,
    /// Whether others' leftovers were looked for.
    is_clear: bool,
}

/// Removes directories that are not empty, one after the other. Dropping it waits until it is through.
#[derive(Default)]
struct Remover {
    /// There from the first directory on.
    thread: Option<(mpsc::Sender<Chore>, thread::JoinHandle<()>)>,
    /// How many there were.
    count: u32,
}

enum Chore {
    Remove(PathBuf),
    /// Tells that all before is done.
    Tell(mpsc::Sender<()>),
}

/// The launcher that waits for the next program.
struct Waiting {
    launcher: Option<Launcher>,
    /// When to see to it that there is one; `None` if it was seen to.
    due: Option<Instant>,
    /// What the last program was like: the next will be like it most likely.
    like: Policy,
    /// How many there were.
    count: u32,
}

// === impl Spawner ===

impl Spawner {
    pub(crate) fn start(run_dir: RunDir) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("mortise-spawn".to_owned())
            .spawn(move || {
                let mut yard = Yard::open(run_dir);
                yard.run(&inbox);
            })?;
        let retiree = Retiree(jobs.clone());
        Ok(Self {
            jobs,
            _retiree: retiree.into(),
        })
    }

    /// Starts a process on the spawner's thread.
    ///
    /// Cancel safe: if nobody waits for it any more, what was started is killed and reaped.
    pub(crate) async fn spawn(&self, plan: Plan) -> Result<Spawned, StartError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StartError::Execute(io::Error::other("the thread that starts processes is gone"));
        self.jobs
            .send(Job::Spawn(plan.into(), self.jobs.clone(), reply))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Retiree {
    fn drop(&mut self) {
        let (gone, is_gone) = mpsc::channel();
        if self.0.send(Job::Retire(gone)).is_ok() {
            let _ = is_gone.recv_timeout(RETIRE_WAIT);
        }
    }
}

// === impl Process ===

impl Process {
    /// The plugin's own process. Only a number: what is signalled is what this owns.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks at what it has on the disk.
    pub(crate) fn disk(&self, bytes_max: u64) -> disk::Watch {
        // All that the plugin starts is below the first process, also what is left by its parent.
        let first = self.jailed.as_ref().and_then(Jailed::init).unwrap_or(self.pid);
        disk::Watch::new(&self.dir, first, bytes_max)
    }

    /// The layers around it.
    pub(crate) fn enclosure(&self) -> Enclosure {
        self.jailed
            .as_ref()
            .map(|it| it.enclosure().clone())
            .unwrap_or_default()
    }

    /// Counts what it uses.
    pub(crate) fn meter(&self) -> Meter {
        self.jailed.as_ref().map(Jailed::meter).unwrap_or_default()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        if let Some(jailed) = &self.jailed {
            jailed.terminate();
        }
    }

    /// Ends it and all it started.
    pub(crate) fn kill(&self) {
        if let Some(jailed) = &self.jailed {
            jailed.kill();
        }
    }

    /// Reaps a process that has exited. `None` if it has not, or if somebody else reaped it.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        self.kill();
        let mut jailed = self.jailed.take()?;
        let dir = std::mem::take(&mut self.dir);
        match jailed.try_wait() {
            Ok(Some(status)) => {
                let _ = self.jobs.send(Job::Remove(jailed, dir));
                Some(status)
            }
            // Not yet, or a handler of the embedding program's reaps every child.
            Ok(None) | Err(_) => {
                let _ = self.jobs.send(Job::Bury(jailed, dir));
                None
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(jailed) = self.jailed.take() {
            let _ = self.jobs.send(Job::Bury(jailed, std::mem::take(&mut self.dir)));
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

impl Yard {
    /// Finds out what the machine has, and where cgroups may be made.
    fn open(run_dir: RunDir) -> Self {
        let machine = Machine::probe();
        let made = run_dir.unique_name().and_then(|name| {
            let root = machine.cgroup_root(&name);
            run_dir.remember(root.places())?;
            Ok(root)
        });
        let cgroups = made
            .inspect_err(|error| tracing::warn!(%error, "plugins get no cgroups: the run directory can't be written to"))
            .ok();
        let waiting = Waiting {
            launcher: None,
            due: Some(Instant::now()),
            like: Policy::new(run_dir.path()),
            count: 0,
        };
        Self {
            waiting,
            remover: Remover::default(),
            run_dir,
            machine,
            cgroups,
            is_clear: false,
        }
    }

    fn run(&mut self, inbox: &mpsc::Receiver<Job>) {
        let mut dying: Vec<(Jailed, PathBuf)> = Vec::new();
        let mut retiring: Vec<mpsc::Sender<()>> = Vec::new();
        let mut open = true;
        while open || !dying.is_empty() {
            let pause = match (dying.is_empty(), self.waiting.due) {
                (false, _) => Some(REAP_INTERVAL),
                (true, Some(due)) => Some(due.saturating_duration_since(Instant::now())),
                (true, None) => None,
            };
            let job = match (open, pause) {
                (true, None) => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                (true, Some(pause)) => inbox.recv_timeout(pause),
                (false, _) => {
                    thread::sleep(REAP_INTERVAL);
                    Err(mpsc::RecvTimeoutError::Timeout)
                }
            };
            match job {
                Ok(Job::Spawn(plan, jobs, reply)) => {
                    // If nobody waits for it any more, dropping it kills it and sends it back here.
                    let _ = reply.send(self.spawn(*plan, jobs));
                }
                Ok(Job::Bury(jailed, dir)) => dying.push((jailed, dir)),
                Ok(Job::Remove(jailed, dir)) => self.remove(jailed, &dir),
                Ok(Job::Retire(gone)) => {
                    self.waiting.launcher = None;
                    self.waiting.due = None;
                    retiring.push(gone);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if self.waiting.due.is_some_and(|due| due <= Instant::now()) {
                        self.make_ready();
                        self.clear_up();
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => open = false,
            }
            for (mut jailed, dir) in std::mem::take(&mut dying) {
                if matches!(jailed.try_wait(), Ok(None)) {
                    dying.push((jailed, dir));
                } else {
                    self.remove(jailed, &dir);
                }
            }
            if dying.is_empty() {
                for gone in retiring.drain(..) {
                    self.remover.tell(gone);
                }
            }
        }
    }

    /// Sees to it that a launcher waits. Takes about as long as a start.
    fn make_ready(&mut self) {
        let waiting = &mut self.waiting;
        waiting.due = None;
        let is_current = |it: &mut Launcher| it.is_current(self.machine, &waiting.like);
        if waiting.launcher.as_mut().is_some_and(is_current) {
            return;
        }
        waiting.launcher = None;
        waiting.count += 1;
        let name = format!("ready-{}", waiting.count);
        let cgroups = self.cgroups.as_ref().map(|root| (root, name.as_str()));
        match Launcher::begin(self.machine, &waiting.like, cgroups) {
            Ok(launcher) => waiting.launcher = Some(launcher),
            Err(error) => tracing::debug!(%error, "no launcher waits for the next program"),
        }
    }

    /// Removes empty cgroups of hosts that are gone and whose run directory is too: nobody else ever would. Once, while nothing else is to be done.
    fn clear_up(&mut self) {
        if let (Some(root), false) = (&self.cgroups, std::mem::replace(&mut self.is_clear, true)) {
            root.remove_empty(LEFTOVERS_MAX, run_dir::is_of_the_dead);
        }
    }

    fn spawn(&mut self, plan: Plan, jobs: mpsc::Sender<Job>) -> Result<Spawned, StartError> {
        let (dir, number) = self.run_dir.make().map_err(StartError::Execute)?;
        self.waiting.like = Policy {
            directory: self.run_dir.path().to_owned(),
            read: Vec::new(),
            write: Vec::new(),
            ..plan.policy.clone()
        };
        let spawned = self.spawn_in(plan, &dir, number, jobs);
        self.waiting.due = Some(Instant::now() + READY_AFTER);
        if spawned.is_err() {
            self.remover.remove(&dir);
        }
        spawned
    }

    fn spawn_in(
        &mut self,
        mut plan: Plan,
        dir: &Path,
        number: u32,
        jobs: mpsc::Sender<Job>,
    ) -> Result<Spawned, StartError> {
        dir.clone_into(&mut plan.policy.directory);
        plan.policy.user = self.user(&plan, dir, number).map_err(StartError::Execute)?;
        let (lane, input) = open_input(plan.input).map_err(StartError::Execute)?;
        let (stdout, its_stdout) = pipe()?;
        let (stderr, its_stderr) = pipe()?;
        let mut arguments = vec![plan.program.clone().into_os_string()];
        arguments.append(&mut plan.args);
        let of_dir = plan.env_of_dir.into_iter().map(|name| (name, dir.into()));
        let environment: Vec<_> = plan.env.into_iter().chain(of_dir).collect();
        let program = Program {
            executable: Executable::Path(&plan.program),
            arguments: &arguments,
            environment: &environment,
            standard: [input.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()],
            inherited: &[],
        };
        let name = number.to_string();
        let cgroups = self.cgroups.as_ref().map(|root| (root, name.as_str()));
        let waiting = &mut self.waiting.launcher;
        let mut jailed = mortise_jail::start_in(waiting, self.machine, &plan.policy, cgroups, &program)?;
        let pid = jailed.plugin().or(jailed.init());
        let pid = pid.ok_or_else(|| StartError::Execute(io::Error::other("the process has no id")))?;
        let exit = watch(&jailed).map_err(StartError::Execute)?;
        let events = match jailed.events() {
            Ok(events) => Some(events),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(error) => return Err(StartError::Execute(error)),
        };
        Ok(Spawned {
            listener: jailed.take_listener(),
            process: Process {
                pid,
                jailed: Some(jailed),
                dir: dir.to_owned(),
                jobs,
            },
            exit,
            events,
            lane,
            stdout,
            stderr,
        })
    }

    /// Removes the cgroups of something that was reaped, and its directory.
    fn remove(&mut self, jailed: Jailed, dir: &Path) {
        drop(jailed);
        self.remover.remove(dir);
    }

    /// A user of its own, if the host can give it one that can read the program. A plugin that was granted files has the host's: the grant would say nothing
    /// about a user that nobody knows.
    fn user(&self, plan: &Plan, dir: &Path, number: u32) -> io::Result<User> {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let policy = &plan.policy;
        let granted = !policy.read.is_empty() || !policy.write.is_empty();
        let readable = fs::metadata(&plan.program).is_ok_and(|it| it.permissions().mode() & 0o005 == 0o005);
        let jailed = policy.mode == Mode::On && self.machine.layers().has(mortise_jail::Layer::User);
        match self.machine.own_user(number) {
            Some(user) if jailed && readable && !granted => {
                chown(dir, Some(user), Some(user))?;
                Ok(User::Own(user))
            }
            _ => Ok(User::Host),
        }
    }
}

// === impl Remover ===

impl Remover {
    /// Removes a plugin's directory, at once if nothing is in it.
    fn remove(&mut self, dir: &Path) {
        if fs::remove_dir(dir).is_ok() {
            return;
        }
        self.count += 1;
        let dead = dir.with_file_name(format!("dead-{}", self.count));
        let dir = match fs::rename(dir, &dead) {
            Ok(()) => dead,
            Err(_) => dir.to_owned(),
        };
        match self.chores() {
            Some(chores) => {
                // It lives until this is dropped.
                let _ = chores.send(Chore::Remove(dir));
            }
            None => remove_dir(&dir),
        }
    }

    /// Tells when all that was to be removed is.
    fn tell(&self, done: mpsc::Sender<()>) {
        match &self.thread {
            Some((chores, _)) => {
                let _ = chores.send(Chore::Tell(done));
            }
            None => {
                let _ = done.send(());
            }
        }
    }

    fn chores(&mut self) -> Option<&mpsc::Sender<Chore>> {
        if self.thread.is_none() {
            let (chores, inbox) = mpsc::channel();
            let thread = thread::Builder::new()
                .name("mortise-remove".to_owned())
                .spawn(move || {
                    for chore in inbox {
                        match chore {
                            Chore::Remove(dir) => remove_dir(&dir),
                            Chore::Tell(done) => {
                                // Whoever asked may wait no longer.
                                let _ = done.send(());
                            }
                        }
                    }
                });
            self.thread = thread.ok().map(|thread| (chores, thread));
        }
        self.thread.as_ref().map(|(chores, _)| chores)
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        if let Some((chores, thread)) = self.thread.take() {
            drop(chores);
            let _ = thread.join();
        }
    }
}

fn remove_dir(dir: &Path) {
    if let Err(error) = run_dir::remove_tree(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a plugin's private directory could not be removed; the next host tries again");
    }
}

/// The host's end and the process's.
fn open_input(input: Input) -> io::Result<(Option<UnixStream>, OwnedFd)> {
    match input {
        Input::Lane => {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((Some(ours), theirs.into()))
        }
        Input::Null => Ok((None, File::open("/dev/null")?.into())),
    }
}

/// Both ends close on exec.
fn pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    let (reader, writer) = io::pipe().map_err(StartError::Execute)?;
    Ok((reader.into(), writer.into()))
}

/// The pid can't be another's yet: the child is not reaped.
fn watch(jailed: &Jailed) -> io::Result<ExitSource> {
    #[cfg(target_os = "linux")]
    match jailed.pidfd() {
        Ok(pidfd) => return Ok(ExitSource::Pidfd(pidfd)),
        // Kernels before 5.3 have none.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) => {}
        Err(error) => return Err(error),
    }
    let pid = jailed.init().ok_or(io::ErrorKind::NotFound)?;
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
