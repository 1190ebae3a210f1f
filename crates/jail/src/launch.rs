//! Starts the launcher, tells it what to do, and waits until the program runs or a step has failed.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
    },
    process::Pid,
};

use crate::{
    Enclosure, Executable, Layer, Machine, Policy, Presence, Program, StartError,
    cgroup::{Cgroup, CgroupRoot, Controller},
    jailed::{END_WAIT, Jailed},
    spec::{self, Ground, Run},
    words,
};

/// What a kernel offers, as the launcher found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// The ABI, or a negative errno.
    pub(crate) landlock: i32,
    /// 0 or a negative errno.
    pub(crate) notification: i32,
}

/// What the launcher says.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) sender: Option<Pid>,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Longest time from start to execution. Usually a millisecond or two; a machine that is out of breath takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

static LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));

/// A launcher that is at work, or that waits for its program. Dropping it ends it.
///
/// Most of what a start takes does not depend on the program: namespaces, cgroups, the file tree of the system. So a launcher can be started before there is
/// a program for it; it then waits, with nothing of any program in it. What it costs meanwhile is a process of about 0.7 MiB, of which
/// 0.1 MiB is its own, and its cgroups.
#[derive(Debug)]
pub struct Launcher {
    begun: Begun,
    ground: Ground,
    /// Tells when this process's mounts change: the launcher has a copy of how they were.
    mounts: Option<File>,
    cgroup: Option<Cgroup>,
}

/// Starts a program in what `policy` asks for and `machine` has. Blocks for some milliseconds.
///
/// The calling *thread* must live as long as the program: the kernel ends the program when the thread ends that started it.
///
/// # Errors
/// `Missing` if a required layer is not there; then, and whenever it fails, nothing is left running.
pub fn start(
    machine: &Machine,
    policy: &Policy,
    cgroups: Option<(&CgroupRoot, &str)>,
    program: &Program<'_>,
) -> Result<Jailed, StartError> {
    start_in(&mut None, machine, policy, cgroups, program)
}

/// Starts a program as [`start`] does, in the launcher that waits at `ready` if there is one and it is for such programs. Then it takes about half as long.
///
/// # Errors
/// As [`start`].
pub fn start_in(
    ready: &mut Option<Launcher>,
    machine: &Machine,
    policy: &Policy,
    cgroups: Option<(&CgroupRoot, &str)>,
    program: &Program<'_>,
) -> Result<Jailed, StartError> {
    let (ground, specification) = describe(machine, policy, program)?;
    if let Some(launcher) = ready.take_if(|it| it.ground == ground && it.is_usable()) {
        match launcher.tell_and_await(machine, policy, program, &specification) {
            // Somebody ended it while it waited.
            Err(StartError::Launcher { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {}
            done => return done,
        }
    }
    let launcher = Launcher::launch(ground, cgroups)?;
    launcher.tell_and_await(machine, policy, program, &specification)
}

impl Launcher {
    /// Starts a launcher for programs like those that `policy` is about, and waits until it waits for one. What `policy` says of files of the program's own, of
    /// its user and of its bounds has no influence.
    ///
    /// The calling thread must live as long as the program that is then started.
    ///
    /// # Errors
    /// As [`start`], but for what only a program can cause.
    pub fn begin(
        machine: &Machine,
        policy: &Policy,
        cgroups: Option<(&CgroupRoot, &str)>,
    ) -> Result<Self, StartError> {
        let (ground, _) =
            spec::encode(machine, policy, &NO_PROGRAM).map_err(doing("describing the ground"))?;
        let mut launcher = Self::launch(ground, cgroups)?;
        launcher.begun.await_message(words::READY)?;
        launcher.begun.reap_first();
        Ok(launcher)
    }

    /// Its process, as this process numbers it.
    #[must_use]
    pub fn init(&self) -> Option<Pid> {
        self.begun.init
    }

    /// Whether it is alive and still what a new launcher would be: nothing was mounted since, and no file was replaced that it shows.
    #[must_use]
    pub fn is_current(&mut self, machine: &Machine, policy: &Policy) -> bool {
        self.is_usable()
            && spec::encode(machine, policy, &NO_PROGRAM).is_ok_and(|(ground, _)| ground == self.ground)
    }

    fn launch(ground: Ground, cgroups: Option<(&CgroupRoot, &str)>) -> Result<Self, StartError> {
        let step = |step: &'static str| {
            move |source| StartError::Step {
                step: step.to_owned(),
                layer: None,
                source,
            }
        };
        // Opened first: a mount that is made from here on is noticed.
        let mounts = File::open("/proc/self/mountinfo").ok();
        let cgroup = cgroups
            .map(|(root, name)| root.make(name))
            .transpose()
            .map_err(step("making its cgroups"))?;
        let doors = match &cgroup {
            Some(cgroup) => cgroup.doors().map_err(step("opening its cgroups"))?,
            None => Vec::new(),
        };
        let doors: Vec<_> = doors.iter().map(File::as_fd).collect();
        let begun = Begun::launch(&ground.bytes, &doors)?;
        Ok(Self {
            begun,
            ground,
            mounts,
            cgroup,
        })
    }

    fn tell_and_await(
        mut self,
        machine: &Machine,
        policy: &Policy,
        program: &Program<'_>,
        specification: &[u8],
    ) -> Result<Jailed, StartError> {
        let enclosure = enclosure(machine, policy, self.cgroup.as_ref());
        if let Some((layer, why)) = policy
            .required
            .iter()
            .find_map(|it| Some((*it, enclosure.why_not(*it)?)))
        {
            return Err(StartError::Missing {
                layer,
                why: why.to_owned(),
            });
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.set(&policy.bounds).map_err(|source| StartError::Step {
                step: "limiting its cgroups".to_owned(),
                layer: None,
                source,
            })?;
        }
        let mut descriptors = program.standard.to_vec();
        if let Executable::Open(fd) = program.executable {
            descriptors.push(fd);
        }
        descriptors.extend(program.inherited.iter().map(|(fd, _)| *fd));
        self.begun.tell(specification, &descriptors)?;
        self.begun.await_message(words::RUNNING)?;
        self.begun.reap_first();
        let own_pids = machine.traits(policy).has(Layer::PidNamespace);
        self.begun.into_jailed(self.cgroup, enclosure, own_pids)
    }

    fn is_usable(&mut self) -> bool {
        let (Some(mounts), Some(control)) = (&self.mounts, &self.begun.control) else {
            return false;
        };
        let mut fds = [
            PollFd::new(control, PollFlags::empty()),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        let nothing_heard = poll(&mut fds, Some(&Timespec::default())) == Ok(0);
        // A change is told only once.
        if !nothing_heard {
            self.mounts = None;
        }
        nothing_heard
    }
}

const NO_PROGRAM: Run<'static> = Run {
    program: None,
    arguments: &[],
    environment: &[],
    inherited: &[],
};

fn describe(
    machine: &Machine,
    policy: &Policy,
    program: &Program<'_>,
) -> Result<(Ground, Vec<u8>), StartError> {
    let numbers: Vec<u32> = program.inherited.iter().map(|(_, number)| *number).collect();
    let run = Run {
        program: match program.executable {
            Executable::Path(path) => Some(path),
            Executable::Open(_) => None,
        },
        arguments: program.arguments,
        environment: program.environment,
        inherited: &numbers,
    };
    spec::encode(machine, policy, &run).map_err(doing("describing the program"))
}

/// Starts a program that does nothing and waits for its end.
pub(crate) fn try_out(machine: &Machine, policy: &Policy) -> Result<Offer, StartError> {
    let file = launcher().map_err(doing("writing the launcher"))?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(doing("opening `/dev/null`"))?;
    let null = null.as_fd();
    let program = Program {
        executable: Executable::Open(file.as_fd()),
        arguments: &["mortise-probe", "exit"].map(OsString::from),
        environment: &[],
        standard: [null, null, null],
        inherited: &[],
    };
    let (ground, specification) = describe(machine, policy, &program)?;
    let mut launcher = Launcher::launch(ground, None)?;
    let offer = launcher.begun.await_offer()?;
    drop(launcher.tell_and_await(machine, policy, &program, &specification)?);
    Ok(offer)
}

/// What a program that is started now has of all layers.
fn enclosure(machine: &Machine, policy: &Policy, cgroup: Option<&Cgroup>) -> Enclosure {
    let traits = machine.traits(policy);
    let of_cgroup = |controller, bounded: bool| match cgroup {
        None => Err("it is in no cgroup of its own".to_owned()),
        Some(cgroup) => match cgroup.why_not(controller) {
            Some(why) => Err(why.to_owned()),
            None if bounded => Ok(()),
            None => Err("no such bound was asked for".to_owned()),
        },
    };
    Enclosure::new(|layer| {
        let bounds = &policy.bounds;
        let there = match layer {
            Layer::MemoryCgroup => of_cgroup(Controller::Memory, bounds.memory_bytes_max.is_some()),
            Layer::CpuCgroup => of_cgroup(Controller::Cpu, bounds.cpu_percent.is_some()),
            Layer::PidsCgroup => of_cgroup(Controller::Pids, true),
            layer if traits.has(layer) => Ok(()),
            layer => Err(machine.why_not(layer, policy)),
        };
        match there {
            Ok(()) if layer == Layer::CpuCgroup => {
                let percent = bounds.cpu_percent.unwrap_or_default();
                Presence::Present(format!("{}, {percent} % of one core", machine.how(layer)))
            }
            Ok(()) => Presence::Present(machine.how(layer)),
            Err(why) => Presence::Absent(why),
        }
    })
}

fn doing(doing: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Launcher { doing, source }
}

// === the launcher's file ===

/// The launcher, in a sealed memory file that is made once.
fn launcher() -> io::Result<&'static OwnedFd> {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(file) = FILE.get() {
        return Ok(file);
    }
    let name = "mortise-launcher";
    // Kernels before 6.3 do not know EXEC; there every memory file may be executed.
    let made = match memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC,
    ) {
        Err(Errno::INVAL) => memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING),
        made => made,
    };
    let file = match made {
        Ok(memory) => {
            let mut file = File::from(memory);
            file.write_all(LAUNCHER)?;
            let memory = OwnedFd::from(file);
            fcntl_add_seals(
                &memory,
                SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
            )?;
            memory
        }
        // `vm.memfd_noexec` forbids it: an unlinked file does as well where the file system lets it be executed.
        Err(Errno::ACCESS) => unlinked()?,
        Err(errno) => return Err(errno.into()),
    };
    Ok(FILE.get_or_init(|| file))
}

/// The launcher in a file that only this user can have opened for a moment, and nobody can write to any more.
fn unlinked() -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut path = std::env::temp_dir();
    path.push(format!("mortise-launcher-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o500)
        .open(&path)?;
    let opened = file.write_all(LAUNCHER).and_then(|()| File::open(&path));
    let _ = std::fs::remove_file(&path);
    opened.map(OwnedFd::from)
}

// === a start that is under way ===

/// The launcher's processes. Dropping it ends and reaps them.
#[derive(Debug)]
struct Begun {
    /// `None` once a [`Jailed`] has it and everything else.
    control: Option<OwnedFd>,
    init: Option<Pid>,
    plugin: Option<Pid>,
    listener: Option<OwnedFd>,
    offer: Option<Offer>,
    first: Option<std::process::Child>,
}

impl Begun {
    fn launch(ground: &[u8], cgroups: &[BorrowedFd<'_>]) -> Result<Self, StartError> {
        use std::os::fd::AsRawFd as _;
        let launcher = launcher().map_err(doing("writing the launcher"))?;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| doing("making its socket")(errno.into()))?;
        // Messages then say which process they come from, as this process numbers it.
        sockopt::set_socket_passcred(&ours, true)
            .map_err(|errno| doing("making its socket")(errno.into()))?;
        let mut begun = Self {
            control: Some(ours),
            init: None,
            plugin: None,
            listener: None,
            offer: None,
            first: None,
        };
        begun.tell(ground, cgroups)?;
        let first = Command::new(format!("/proc/self/fd/{}", launcher.as_raw_fd()))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(doing("starting it"))?;
        begun.first = Some(first);
        Ok(begun)
    }

    fn control(&self) -> Result<&OwnedFd, StartError> {
        self.control.as_ref().ok_or_else(gone)
    }

    /// Sends a message, its bytes in a memory file.
    fn tell(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), StartError> {
        match tell(self.control()?, bytes, descriptors) {
            // It has ended, and said why if it could.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.await_message(words::READY).and(Err(gone()))
            }
            told => told.map_err(doing("telling it what to do")),
        }
    }

    fn await_offer(&mut self) -> Result<Offer, StartError> {
        self.await_message(words::OFFER)?;
        self.offer.ok_or_else(gone)
    }

    /// Waits until it says this, and keeps what it says meanwhile.
    fn await_message(&mut self, wanted: u32) -> Result<(), StartError> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            let message = self
                .next_message(until)
                .map_err(doing("setting up the program"))?
                .ok_or_else(gone)?;
            let kind = message.kind;
            self.take(message)?;
            if kind == wanted {
                return Ok(());
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), StartError> {
        match message.kind {
            words::OFFER => {
                self.offer = Some(Offer {
                    landlock: number(&message.body, 0),
                    notification: number(&message.body, 1),
                });
            }
            words::INIT => self.init = Pid::from_raw(number(&message.body, 0)),
            words::PLUGIN => self.plugin = message.sender,
            words::LISTENER => self.listener = message.descriptor,
            words::FAILED => {
                return Err(step_failed(
                    number(&message.body, 0),
                    number(&message.body, 1),
                    number(&message.body, 2),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// The first process has done its work, or gives up by itself.
    fn reap_first(&mut self) {
        if let Some(mut first) = self.first.take() {
            let _ = first.wait();
        }
    }

    fn next_message(&self, until: Instant) -> io::Result<Option<Message>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let control = self.control.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let mut fds = [PollFd::new(control, PollFlags::IN)];
            let left = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            });
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return receive(control),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn into_jailed(
        mut self,
        cgroup: Option<Cgroup>,
        enclosure: Enclosure,
        own_pids: bool,
    ) -> Result<Jailed, StartError> {
        if self.init.is_none() || self.plugin.is_none() {
            return Err(gone());
        }
        let control = self.control.take().ok_or_else(gone)?;
        Ok(Jailed::new(
            control,
            self.init,
            self.plugin,
            self.listener.take(),
            cgroup,
            enclosure,
            own_pids,
        ))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
        let Some(control) = self.control.take() else {
            return;
        };
        self.reap_first();
        // It has told of *init* before it ended.
        while self.init.is_none() {
            match receive(&control) {
                Ok(Some(message)) => drop(self.take(message)),
                _ => return,
            }
        }
        if let Some(init) = self.init {
            let _ = kill_process(init, Signal::KILL);
            let begun = Instant::now();
            // One that hangs in the kernel, at a granted path on a dead mount, is left: others are to be started meanwhile.
            while matches!(
                waitpid(Some(init), WaitOptions::NOHANG),
                Ok(None) | Err(Errno::INTR)
            ) && begun.elapsed() < END_WAIT
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn gone() -> StartError {
    doing("setting up the program")(io::ErrorKind::UnexpectedEof.into())
}

/// Hands over bytes in a memory file, and descriptors.
fn tell(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    use std::io::Seek as _;
    if descriptors.len() >= words::DESCRIPTORS_MAX {
        let why = format!(
            "it is given {} descriptors, and {} is the most",
            descriptors.len(),
            words::DESCRIPTORS_MAX - 1
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut file = File::from(memfd_create("mortise-spec", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    let mut all = vec![file.as_fd()];
    all.extend(descriptors);
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(words::DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&all)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(b"start")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The next message, or `None` if the launcher is gone.
pub(crate) fn receive(control: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; words::RECORD_BYTES_MAX];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = match recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
        Ok(got) => got.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let (mut sender, mut descriptor) = (None, None);
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => descriptor = fds.last(),
            RecvAncillaryMessage::ScmCredentials(who) => sender = Some(who.pid),
            _ => {}
        }
    }
    let Some((kind, body)) = bytes[..got].split_first_chunk::<4>() else {
        return Ok(None);
    };
    Ok(Some(Message {
        kind: u32::from_le_bytes(*kind),
        body: body.to_vec(),
        sender,
        descriptor,
    }))
}

/// The `nth` 32-bit number of a message; 0 if it is shorter.
pub(crate) fn number(body: &[u8], nth: usize) -> i32 {
    let at = body.chunks_exact(4).nth(nth).and_then(|it| it.try_into().ok());
    at.map_or(0, i32::from_le_bytes)
}

fn step_failed(step: i32, errno: i32, which: i32) -> StartError {
    let source = io::Error::from_raw_os_error(errno);
    let (what, layer) = match step.unsigned_abs() {
        words::STEP_EXEC => return StartError::Execute(source),
        words::STEP_SPEC => ("reading what to do", None),
        words::STEP_CGROUP => ("joining its cgroups", None),
        words::STEP_NAMESPACES => ("making its namespaces", None),
        words::STEP_ID_MAP => ("mapping user ids", Some(Layer::UserNamespace)),
        words::STEP_ROOT => ("making its file tree", Some(Layer::MountNamespace)),
        words::STEP_BIND => ("showing it a file", Some(Layer::MountNamespace)),
        words::STEP_PROC => ("mounting its `/proc`", Some(Layer::PidNamespace)),
        words::STEP_HOST_NAME => ("setting its host name", Some(Layer::UtsNamespace)),
        words::STEP_LOOPBACK => ("making its loopback network", Some(Layer::NetNamespace)),
        words::STEP_SUPERVISE => ("supervising it", None),
        words::STEP_DESCRIPTORS => ("giving it its descriptors", None),
        words::STEP_RLIMIT => ("limiting it", Some(Layer::Limits)),
        words::STEP_DIRECTORY => ("entering its directory", None),
        words::STEP_CAPABILITIES => ("dropping capabilities", Some(Layer::Capabilities)),
        words::STEP_USER => ("changing its user", Some(Layer::User)),
        words::STEP_NO_NEW_PRIVILEGES => ("giving up new privileges", Some(Layer::NoNewPrivileges)),
        words::STEP_LANDLOCK => ("setting up Landlock", Some(Layer::Landlock)),
        words::STEP_SECCOMP => ("installing its system call filter", Some(Layer::Seccomp)),
        words::STEP_NOTIFY => ("handing over the filter's listener", Some(Layer::DenialEvents)),
        _ => ("an unknown step", None),
    };
    let step = match which {
        0 => what.to_owned(),
        which => format!("{what} (number {which})"),
    };
    StartError::Step { step, layer, source }
}
