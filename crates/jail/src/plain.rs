//! Starting a program where there is no launcher: a child in a process group of its own, and nothing around it.

use std::{
    convert::Infallible,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Enclosure, Event, Executable, GroupUsage, Machine, Policy, Program, StartError};

/// There are no cgroups here.
#[derive(Debug)]
pub struct CgroupRoot(());

/// A program in a process group of its own. Dropping it ends the group.
#[derive(Debug)]
pub struct Jailed {
    pid: Pid,
    child: Option<Child>,
    enclosure: Enclosure,
}

/// Nothing is counted here.
#[derive(Clone, Debug, Default)]
pub struct Meter(());

impl Meter {
    /// Nothing.
    #[must_use]
    pub fn read(&self) -> GroupUsage {
        GroupUsage::default()
    }
}

/// Nothing is heard of a program here, so there is none.
#[derive(Debug)]
pub struct Events(Infallible);

/// Nothing was left: there are no cgroups here.
pub fn sweep(_: &Path) {}

/// There is none here.
#[derive(Debug)]
pub struct Launcher(Infallible);

impl Launcher {
    /// Starts none.
    ///
    /// # Errors
    /// Always.
    pub fn begin(_: &Machine, _: &Policy, _: Option<(&CgroupRoot, &str)>) -> Result<Self, StartError> {
        let why = "this system has no launcher";
        Err(StartError::Execute(io::Error::new(
            io::ErrorKind::Unsupported,
            why,
        )))
    }

    /// There is none.
    #[must_use]
    pub fn init(&self) -> Option<Pid> {
        match self.0 {}
    }

    /// There is none to ask.
    #[must_use]
    pub fn is_current(&mut self, _: &Machine, _: &Policy) -> bool {
        match self.0 {}
    }
}

/// Starts a program as [`start`] does.
///
/// # Errors
/// As [`start`].
pub fn start_in(
    _: &mut Option<Launcher>,
    machine: &Machine,
    policy: &Policy,
    cgroups: Option<(&CgroupRoot, &str)>,
    program: &Program<'_>,
) -> Result<Jailed, StartError> {
    start(machine, policy, cgroups, program)
}

/// Starts a program.
///
/// # Errors
/// `Missing` if the policy requires any layer: none is there. Open executables and inherited descriptors need the launcher.
pub fn start(
    machine: &Machine,
    policy: &Policy,
    _: Option<(&CgroupRoot, &str)>,
    program: &Program<'_>,
) -> Result<Jailed, StartError> {
    let enclosure = machine.layers();
    if let Some(layer) = policy.required.first() {
        return Err(StartError::Missing {
            layer: *layer,
            why: enclosure.why_not(*layer).unwrap_or_default().to_owned(),
        });
    }
    let path = match program.executable {
        Executable::Path(path) if program.inherited.is_empty() => path,
        _ => {
            let why =
                "an open executable or an inherited descriptor needs the launcher, which this system has not";
            return Err(StartError::Execute(io::Error::new(
                io::ErrorKind::Unsupported,
                why,
            )));
        }
    };
    let [input, output, error] = program
        .standard
        .map(|it| it.try_clone_to_owned().map(Stdio::from));
    let mut command = Command::new(path);
    if let Some((name, arguments)) = program.arguments.split_first() {
        command.arg0(name).args(arguments);
    }
    command
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&policy.directory)
        .stdin(input.map_err(StartError::Execute)?)
        .stdout(output.map_err(StartError::Execute)?)
        .stderr(error.map_err(StartError::Execute)?)
        .process_group(0);
    let child = spawn(&mut command).map_err(StartError::Execute)?;
    Ok(Jailed {
        pid: Pid::from_child(&child),
        child: Some(child),
        enclosure,
    })
}

/// Another thread's child may hold a just-written executable open for writing until it has called exec: waits for that.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            done => return done,
        }
    }
    command.spawn()
}

impl CgroupRoot {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// None.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        std::iter::empty()
    }

    /// There is nothing to remove.
    pub fn remove_empty(&self, _: usize, _: impl Fn(&str) -> bool) {}
}

impl Jailed {
    /// The process whose exit is waited for; `None` once it is reaped.
    #[must_use]
    pub fn init(&self) -> Option<Pid> {
        self.child.as_ref().map(|_| self.pid)
    }

    /// The program's own process.
    #[must_use]
    pub fn plugin(&self) -> Option<Pid> {
        Some(self.pid)
    }

    /// There are none here.
    ///
    /// # Errors
    /// `Unsupported`, always.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The layers that it has: none.
    #[must_use]
    pub fn enclosure(&self) -> &Enclosure {
        &self.enclosure
    }

    /// Nothing is counted here.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter(())
    }

    /// There is none.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        None
    }

    /// There are none here.
    ///
    /// # Errors
    /// `Unsupported`, always.
    pub fn events(&self) -> io::Result<Events> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Asks the program to end: SIGTERM to its process group.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the program and its group by force.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Whether it ended; then it is reaped, and the rest of its group is ended.
    ///
    /// # Errors
    /// If somebody else reaped it.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Err(io::ErrorKind::NotFound.into());
        };
        // While it is not reaped, its group can be no other's.
        let exited = !matches!(child.try_wait(), Ok(None));
        if !exited {
            return Ok(None);
        }
        let status = child.try_wait();
        self.child = None;
        status
    }

    fn signal(&self, signal: Signal) {
        if self.child.is_some() {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Events {
    /// Never an event.
    ///
    /// # Errors
    /// Never.
    pub fn next_event(&self) -> io::Result<Option<Event>> {
        match self.0 {}
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        match self.0 {}
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
