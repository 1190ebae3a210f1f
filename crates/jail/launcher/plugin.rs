//! The plugin's own process, from fork to exec: everything is given up here, in an order in which each step is still allowed to.

use std::ffi::{CStr, c_int};

use crate::{
    CONTROL, Descriptors,
    report::{Failure, Record},
    spec::{Ground, Spec},
    sys, words,
};

/// All that a plugin's process needs to become the plugin.
pub(crate) struct Start<'a> {
    pub(crate) ground: &'a Ground<'a>,
    pub(crate) spec: &'a Spec<'a>,
    pub(crate) descriptors: &'a Descriptors,
    /// Landlock's rules as far as they are the ground's.
    pub(crate) ruleset: Option<c_int>,
}

/// Above every number that a plugin is given; so nothing is overwritten while descriptors are put in place.
const ASIDE: c_int = 100;
/// Another process may hold a just-written executable open for writing until it has called exec: wait for that.
const BUSY_RETRIES: u32 = 100;

/// Becomes the plugin. `status` tells *init* what went wrong, and by its end that nothing did; `listener` takes the filter's listener.
pub(crate) fn run(start: &Start<'_>, status: c_int, listener: c_int) -> ! {
    let status = sys::move_up(status, ASIDE).unwrap_or(status);
    let Err(failure) = prepare(start, listener);
    let _ = sys::send(status, &failure.to_bytes(), None, true);
    sys::exit(1)
}

fn prepare(start: &Start<'_>, listener: c_int) -> Result<std::convert::Infallible, Failure> {
    let failed = |step| move |errno| Failure::at(step, errno);
    let Start { ground, spec, .. } = start;
    sys::new_session();
    let aside = put_descriptors(start, listener).map_err(failed(words::STEP_DESCRIPTORS))?;
    for (number, (resource, value)) in spec.rlimits.iter().enumerate() {
        sys::set_limit(*resource, *value).map_err(|errno| Failure::nth(words::STEP_RLIMIT, errno, number))?;
    }
    sys::set_umask(0o077);
    sys::change_dir(spec.directory).map_err(failed(words::STEP_DIRECTORY))?;
    if let Some(ruleset) = aside.ruleset {
        allow_own(ruleset, start)?;
    }
    give_up_identity(start)?;
    // It may have been forgotten with the identity.
    sys::control_process(sys::PR_SET_PDEATHSIG, sys::SIGKILL as _).map_err(failed(words::STEP_SUPERVISE))?;
    if ground.wants(words::WANT_NO_NEW_PRIVILEGES) {
        sys::control_process(sys::PR_SET_NO_NEW_PRIVS, 1).map_err(failed(words::STEP_NO_NEW_PRIVILEGES))?;
    }
    if let Some(ruleset) = aside.ruleset {
        sys::enforce(ruleset).map_err(failed(words::STEP_LANDLOCK))?;
        sys::close_fd(ruleset);
    }
    // The message's credentials tell the host our id.
    Record::new(words::PLUGIN)
        .send(aside.control, None)
        .map_err(failed(words::STEP_SUPERVISE))?;
    sys::let_signals_through();
    if ground.wants(words::WANT_SECCOMP) {
        let wants_listener = ground.wants(words::WANT_NOTIFY);
        let made = sys::filter(spec.filter, wants_listener).map_err(failed(words::STEP_SECCOMP))?;
        if let Some(made) = made {
            sys::send(aside.listener, b"l", Some(made), true).map_err(failed(words::STEP_NOTIFY))?;
            sys::close_fd(made);
        }
    }
    let program = aside.program.as_deref().unwrap_or(spec.program);
    for _ in 0..BUSY_RETRIES {
        match sys::execute(program, &spec.arguments, &spec.environment) {
            sys::ETXTBSY => {
                sys::pause_ms(2);
            }
            errno => return Err(Failure::at(words::STEP_EXEC, errno)),
        }
    }
    Err(Failure::at(words::STEP_EXEC, sys::ETXTBSY))
}

/// What this process needs until it executes, out of the plugin's way.
struct Aside {
    control: c_int,
    listener: c_int,
    ruleset: Option<c_int>,
    /// The program, if it is a descriptor.
    program: Option<std::ffi::CString>,
}

/// Puts the plugin's descriptors where it expects them. All others close when it is executed.
fn put_descriptors(start: &Start<'_>, listener: c_int) -> sys::Result<Aside> {
    let Start { spec, descriptors, .. } = start;
    let control = sys::move_up(CONTROL, ASIDE)?;
    let listener = sys::move_up(listener, ASIDE)?;
    let ruleset = start
        .ruleset
        .map(|it| sys::move_up(it, ASIDE))
        .transpose()?;
    let lift = |fd: &c_int| sys::move_up(*fd, ASIDE);
    let standard: Vec<c_int> = descriptors
        .standard
        .iter()
        .map(lift)
        .collect::<sys::Result<_>>()?;
    let mut inherited: Vec<c_int> = descriptors
        .inherited
        .iter()
        .map(lift)
        .collect::<sys::Result<_>>()?;
    let program = spec.program.is_empty().then(|| inherited.remove(0));
    for (number, fd) in standard.iter().enumerate() {
        sys::duplicate(*fd, number as c_int)?;
    }
    sys::close_on_exec_from(3)?;
    for (fd, number) in inherited.iter().zip(&spec.inherited) {
        sys::duplicate(*fd, *number as c_int)?;
        sys::keep_on_exec(*number as c_int)?;
    }
    Ok(Aside {
        control,
        listener,
        ruleset,
        program: program.map(|fd| crate::report::c_string(&format!("/proc/self/fd/{fd}"))),
    })
}

/// Landlock's rules about what the ground shows.
pub(crate) fn make_ruleset(ground: &Ground<'_>) -> Result<c_int, Failure> {
    let attributes = [ground.handled_files, ground.handled_net, ground.scoped];
    // The kernel refuses bytes that it does not know unless they are zero, so trailing zeros may as well be left out.
    let size = match attributes {
        [_, 0, 0] => 8,
        [_, _, 0] => 16,
        _ => 24,
    };
    let ruleset = sys::new_ruleset(&attributes, size).map_err(|it| Failure::at(words::STEP_LANDLOCK, it))?;
    allow(ruleset, &ground.file_rules)?;
    Ok(ruleset)
}

/// Adds this plugin's own.
fn allow_own(ruleset: c_int, start: &Start<'_>) -> Result<(), Failure> {
    allow(ruleset, &start.spec.file_rules)?;
    let port = start.spec.proxy_port;
    if start.ground.handled_net != 0 && port != 0 {
        sys::allow_connect(ruleset, port as u16)
            .map_err(|errno| Failure::at(words::STEP_LANDLOCK, errno))?;
    }
    Ok(())
}

fn allow(ruleset: c_int, rules: &[(&CStr, u64)]) -> Result<(), Failure> {
    for (number, (path, access)) in rules.iter().enumerate() {
        let failed = |errno| Failure::nth(words::STEP_LANDLOCK, errno, number + 1);
        let parent = match sys::open_place(path) {
            Ok(parent) => parent,
            // What is not there needs no rule.
            Err(sys::ENOENT | sys::EACCES) => continue,
            Err(errno) => return Err(failed(errno)),
        };
        let added = sys::allow_below(ruleset, parent, *access);
        sys::close_fd(parent);
        added.map_err(failed)?;
    }
    Ok(())
}

/// Whatever is executed from here on gets no capability by it. It takes none away from a process that executes nothing, as *init*.
pub(crate) fn give_up_later_capabilities() -> Result<(), Failure> {
    for capability in 0..64 {
        match sys::control_process(sys::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // Past the last that this kernel knows.
            Err(sys::EINVAL) => break,
            // Without CAP_SETPCAP, which also means that there is nothing to drop from.
            Err(sys::EPERM) => break,
            Err(errno) => return Err(Failure::at(words::STEP_CAPABILITIES, errno)),
        }
    }
    sys::clear_ambient();
    Ok(())
}

fn give_up_identity(start: &Start<'_>) -> Result<(), Failure> {
    let Start { ground, spec, .. } = start;
    let drops = ground.wants(words::WANT_DROP_CAPABILITIES);
    if drops {
        // NOROOT on, NO_SETUID_FIXUP and KEEP_CAPS off, all three locked: user 0 is nobody special to this process and its children.
        // Refused without CAP_SETPCAP; then there are no capabilities either.
        let _ = sys::control_process(sys::PR_SET_SECUREBITS, 0b10_1011);
    }
    let failed = |errno| Failure::at(words::STEP_USER, errno);
    if spec.group != words::KEEP_ID {
        sys::drop_groups().map_err(failed)?;
        sys::become_group(spec.group).map_err(failed)?;
    }
    if spec.user != words::KEEP_ID {
        sys::become_user(spec.user).map_err(failed)?;
    }
    if drops {
        sys::set_capabilities(0).map_err(|errno| Failure::at(words::STEP_CAPABILITIES, errno))?;
    }
    Ok(())
}
