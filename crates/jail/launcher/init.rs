//! The process between host and plugin: process 1 of the plugin's pid namespace, or a subreaper where there is none.
//!
//! It lays the ground, waits until it is told which plugin it is for, starts that, and then waits for four things: signals, the end of the control socket, denied system calls, and the
//! plugin's end. Denied calls are *always* answered with a refusal, whatever was read from the plugin's memory: what is read is only reported, so it does
//! no harm that the plugin can change it meanwhile. Only `open` is let through if its path lies below something visible; whether that is
//! allowed then is not decided here but by the mounts and Landlock.

use std::ffi::c_int;

use crate::{
    CONTROL, Descriptors, plugin,
    report::{self, Failure, Record},
    spec::{Ground, Spec},
    sys,
    target::{self, SocketPath, Target},
    tree, words,
};

/// Reports of denials at once; then one more every [`REPORT_MS`].
const REPORTS_MAX: u32 = 64;
const REPORT_MS: u64 = 50;
/// What is answered to a denied call.
const DENIED_ERRNO: i32 = sys::EPERM;
/// What is answered to a denied `open`.
const HIDDEN_ERRNO: i32 = sys::EACCES;
/// SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const CONTINUE: u32 = 1;
/// Capabilities that this process keeps inside its user namespace: to signal the plugin (KILL) and to read the targets of denied calls (SYS_PTRACE).
const KEPT_CAPABILITIES: u64 = 1 << 5 | 1 << 19;

/// Runs until the plugin has ended, and with it everything that it started.
pub(crate) fn run(ground: &Ground<'_>, go: c_int) -> ! {
    match lay(ground, go).and_then(|laid| supervise(ground, laid)) {
        Ok(()) => sys::exit(0),
        Err(failure) => {
            report::failed(CONTROL, &failure);
            sys::exit(1)
        }
    }
}

/// What is there before the plugin is known.
struct Laid {
    signals: c_int,
    /// Landlock's rules so far.
    ruleset: Option<c_int>,
}

fn lay(ground: &Ground<'_>, go: c_int) -> Result<Laid, Failure> {
    let failed = |errno| Failure::at(words::STEP_SUPERVISE, errno);
    let signals = sys::take_signals().map_err(failed)?;
    sys::control_process(sys::PR_SET_PDEATHSIG, last_signal(ground) as _).map_err(failed)?;
    // Our starter writes once our ids are mapped. Its end without that is ours.
    await_go(go);
    sys::new_session();
    sys::control_process(sys::PR_SET_CHILD_SUBREAPER, 1).map_err(failed)?;
    if ground.wants(words::WANT_UTS_NS) {
        sys::set_host_name(ground.host_name).map_err(|errno| Failure::at(words::STEP_HOST_NAME, errno))?;
    }
    if ground.wants(words::WANT_MOUNT_NS) {
        tree::begin(&ground.entries)?;
    }
    let ruleset = ground
        .wants(words::WANT_LANDLOCK)
        .then(|| plugin::make_ruleset(ground))
        .transpose()?;
    if ground.wants(words::WANT_DROP_CAPABILITIES) {
        plugin::give_up_later_capabilities()?;
    }
    // And again once we are in our cgroups.
    await_go(go);
    sys::close_fd(go);
    if ground.wants(words::WANT_CGROUP_NS) {
        sys::leave_namespaces(sys::CLONE_NEWCGROUP)
            .map_err(|errno| Failure::at(words::STEP_NAMESPACES, errno))?;
    }
    Record::new(words::READY).send(CONTROL, None).map_err(failed)?;
    Ok(Laid { signals, ruleset })
}

fn await_go(go: c_int) {
    if sys::read_some(go, &mut [0]) != Ok(1) {
        sys::exit(1);
    }
}

/// With a pid namespace the kernel ends everything with us; without one we must do it ourselves, so we ask for a signal that we see.
fn last_signal(ground: &Ground<'_>) -> c_int {
    if ground.wants(words::WANT_PID_NS) {
        sys::SIGKILL
    } else {
        sys::SIGQUIT
    }
}

/// Waits for the specification and carries it out.
fn supervise(ground: &Ground<'_>, laid: Laid) -> Result<(), Failure> {
    let failed = |errno| Failure::at(words::STEP_SUPERVISE, errno);
    let not_told = |errno| Failure::at(words::STEP_SPEC, errno);
    let (length, fds) = sys::receive(CONTROL, &mut [0; 8]).map_err(not_told)?;
    if length == 0 {
        // The host is gone, or has no plugin for us.
        sys::exit(0);
    }
    let [specification, rest @ ..] = fds.as_slice() else {
        return Err(not_told(sys::EINVAL));
    };
    let bytes = sys::read_all(*specification).map_err(not_told)?;
    sys::close_fd(*specification);
    let spec = &Spec::read(&bytes).ok_or_else(|| not_told(sys::EINVAL))?;
    let descriptors = &Descriptors::sort(rest).ok_or_else(|| not_told(sys::EINVAL))?;
    if spec.proxy_port != 0 {
        let socket = sys::listen_on_loopback(spec.proxy_port as u16)
            .map_err(|errno| Failure::at(words::STEP_LOOPBACK, errno))?;
        Record::new(words::LISTENER)
            .send(CONTROL, Some(socket))
            .map_err(failed)?;
        sys::close_fd(socket);
    }
    if ground.wants(words::WANT_MOUNT_NS) {
        tree::complete(&spec.entries)?;
    }
    let (child, status, listeners) =
        start(ground, spec, descriptors, laid.ruleset).map_err(failed)?;
    // Nobody else may look into this process or send it descriptors.
    let _ = sys::control_process(sys::PR_SET_DUMPABLE, 0);
    if let Some(ruleset) = laid.ruleset {
        sys::close_fd(ruleset);
    }
    if ground.wants(words::WANT_DROP_CAPABILITIES) {
        sys::set_capabilities(KEPT_CAPABILITIES)
            .or_else(|_| sys::set_capabilities(0))
            .map_err(|errno| Failure::at(words::STEP_CAPABILITIES, errno))?;
        sys::control_process(sys::PR_SET_PDEATHSIG, last_signal(ground) as _).map_err(failed)?;
    }
    let listener = executed(ground, status, listeners)?;
    for fd in descriptors.standard.iter().chain(&descriptors.inherited) {
        sys::close_fd(*fd);
    }
    Record::new(words::RUNNING).send(CONTROL, None).map_err(failed)?;
    let watch = Watch {
        spec,
        child,
        signals: laid.signals,
        listener,
        reports_left: REPORTS_MAX,
        reported_ms: 0,
        suppressed: 0,
    };
    watch.until_the_end(ground.wants(words::WANT_PID_NS));
    Ok(())
}

/// Forks the plugin: its id, the descriptor that tells how it went, and the one over which the filter's listener comes.
fn start(
    ground: &Ground<'_>,
    spec: &Spec<'_>,
    descriptors: &Descriptors,
    ruleset: Option<c_int>,
) -> sys::Result<(c_int, c_int, c_int)> {
    let (status, its_status) = sys::socket_pair()?;
    let (listeners, its_listeners) = sys::socket_pair()?;
    let child = sys::fork(0)?;
    if child == 0 {
        let start = plugin::Start {
            ground,
            spec,
            descriptors,
            ruleset,
        };
        plugin::run(&start, its_status, its_listeners);
    }
    sys::close_fd(its_status);
    sys::close_fd(its_listeners);
    Ok((child, status, listeners))
}

/// Waits until the plugin was executed.
fn executed(ground: &Ground<'_>, status: c_int, listeners: c_int) -> Result<Option<c_int>, Failure> {
    let mut said = [0; 12];
    let failed = |errno| Failure::at(words::STEP_EXEC, errno);
    let mut listener = None;
    if ground.wants(words::WANT_SECCOMP) && ground.wants(words::WANT_NOTIFY) {
        let (_, fds) = sys::receive(listeners, &mut [0; 8]).map_err(failed)?;
        listener = fds.first().copied();
    }
    if let Some(listener) = listener {
        sys::wake_in_turn(listener);
    }
    sys::close_fd(listeners);
    let (length, _) = sys::receive(status, &mut said).map_err(failed)?;
    sys::close_fd(status);
    match length {
        0 => Ok(listener),
        _ => Err(Failure::from_bytes(said)),
    }
}

/// What is waited for once the plugin runs.
struct Watch<'a> {
    spec: &'a Spec<'a>,
    child: c_int,
    signals: c_int,
    listener: Option<c_int>,
    reports_left: u32,
    reported_ms: u64,
    suppressed: u32,
}

impl Watch<'_> {
    fn until_the_end(mut self, own_pids: bool) {
        let ended = self.wait();
        // A process 1 that ends takes all others along, and ends only when they have.
        if !own_pids {
            end_all_below();
        }
        if let Some(status) = ended {
            self.tell_suppressed();
            let (how, value) = match status & 0x7f {
                0 => (0_u32, (status >> 8) & 0xff),
                signal => (1, signal),
            };
            let _ = Record::new(words::EXITED)
                .with(&how.to_le_bytes())
                .with(&value.to_le_bytes())
                .send(CONTROL, None);
        }
    }

    /// The plugin's status; `None` if it has to end because nobody wants it any more.
    fn wait(&mut self) -> Option<c_int> {
        loop {
            let entry = |fd, events| sys::PollFd {
                fd,
                events,
                revents: 0,
            };
            // A negative descriptor is passed over.
            let mut fds = [
                entry(self.signals, sys::POLLIN),
                entry(CONTROL, 0),
                entry(self.listener.unwrap_or(-1), sys::POLLIN),
            ];
            match sys::wait_for(&mut fds) {
                Ok(()) | Err(sys::EINTR) => {}
                Err(_) => return None,
            }
            if fds[0].revents & sys::POLLIN != 0
                && let Some(end) = self.take_signals()
            {
                return end;
            }
            if fds[1].revents & (sys::POLLHUP | sys::POLLERR) != 0 {
                return None;
            }
            if fds[2].revents & sys::POLLIN != 0 {
                self.answer();
            } else if fds[2].revents & (sys::POLLHUP | sys::POLLERR) != 0 {
                // Nothing that the filter watches runs any more.
                self.listener = None;
            }
        }
    }

    /// `Some` if it is over.
    fn take_signals(&mut self) -> Option<Option<c_int>> {
        let mut end = None;
        while let Some(info) = sys::next_signal(self.signals) {
            match info.signal as c_int {
                sys::SIGCHLD => {}
                sys::SIGQUIT => return Some(None),
                // The plugin leads a group of its own; the group is what the host means.
                signal @ (sys::SIGTERM | sys::SIGINT) => sys::signal(-self.child, signal),
                _ => {}
            }
        }
        while let Ok(Some((pid, status))) = sys::reap(false) {
            if pid == self.child {
                end = Some(Some(status));
            }
        }
        end
    }

    fn answer(&mut self) {
        let Some(listener) = self.listener else { return };
        let Ok(call) = sys::next_notification(listener) else {
            return;
        };
        let target = target::of(&call);
        // If the caller is gone, what was read may be anybody's.
        if !sys::still_waits(listener, call.id) {
            return;
        }
        let verdict = self.verdict(&call, &target);
        if verdict.is_some() {
            self.report(&call, &target);
        }
        let response = sys::Response {
            id: call.id,
            value: 0,
            error: verdict.map_or(0, |errno| -errno),
            flags: if verdict.is_some() { 0 } else { CONTINUE },
        };
        // It fails if the caller is gone.
        let _ = sys::answer(listener, &response);
    }

    /// The errno that a call gets; `None` leaves it to the kernel.
    fn verdict(&self, call: &sys::Notification, target: &Target) -> Option<sys::Errno> {
        match target {
            Target::Opened(path) => (!self.is_visible(path)).then_some(HIDDEN_ERRNO),
            Target::Address(address) => match target::socket_path(address, call.pid) {
                SocketPath::Path(path) => (!self.is_visible(&path)).then_some(HIDDEN_ERRNO),
                SocketPath::Unreadable => None,
                SocketPath::Abstract => Some(DENIED_ERRNO),
                SocketPath::Elsewhere => {
                    let proxy = target::loopback(self.spec.proxy_port as u16);
                    let is_proxy = self.spec.proxy_port != 0 && address.starts_with(&proxy);
                    (!is_proxy).then_some(HIDDEN_ERRNO)
                }
            },
            Target::Path(_) | Target::Arguments => Some(DENIED_ERRNO),
        }
    }

    /// Whether a path may be looked for: it lies below something that the jail shows. An unreadable one is left to the kernel.
    fn is_visible(&self, path: &[u8]) -> bool {
        let below = |whole: &&[u8]| {
            path.strip_prefix(*whole)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || whole.ends_with(b"/"))
        };
        path.is_empty() || self.spec.visible.iter().any(|it| below(&it))
    }

    fn report(&mut self, call: &sys::Notification, target: &Target) {
        let now = sys::now_ms();
        let earned = (now - self.reported_ms) / REPORT_MS;
        if earned > 0 {
            self.reports_left = REPORTS_MAX.min(self.reports_left.saturating_add(earned.min(1 << 20) as u32));
            self.reported_ms = now;
        }
        if self.reports_left == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return;
        }
        self.tell_suppressed();
        let [first, second, third, ..] = call.arguments;
        let record = Record::new(words::DENIED)
            .with(&call.number.to_le_bytes())
            .with(&first.to_le_bytes())
            .with(&second.to_le_bytes())
            .with(&third.to_le_bytes())
            .with(target.bytes());
        match record.try_send(CONTROL) {
            Ok(()) => self.reports_left -= 1,
            Err(_) => self.suppressed = self.suppressed.saturating_add(1),
        }
    }

    fn tell_suppressed(&mut self) {
        if self.suppressed > 0
            && Record::new(words::SUPPRESSED)
                .with(&self.suppressed.to_le_bytes())
                .try_send(CONTROL)
                .is_ok()
        {
            self.suppressed = 0;
        }
    }
}

/// Kills every process below this one until there is none: orphans become our children, so each round sees those of the round before.
fn end_all_below() {
    loop {
        let mut some = false;
        let children = sys::open_file(c"/proc/thread-self/children", sys::O_RDONLY)
            .and_then(|fd| {
                let text = sys::read_all(fd);
                sys::close_fd(fd);
                text
            })
            .unwrap_or_default();
        for pid in String::from_utf8_lossy(&children).split_whitespace() {
            if let Ok(pid) = pid.parse() {
                sys::signal(pid, sys::SIGKILL);
                some = true;
            }
        }
        match sys::reap(some) {
            // Something ended: there may be new children.
            Ok(_) => {}
            // No children at all.
            Err(_) => return,
        }
        if !some {
            sys::pause_ms(1);
        }
    }
}
