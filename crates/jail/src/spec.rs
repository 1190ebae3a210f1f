//! The ground and the specification that the launcher carries out, made from a policy and what the machine has.
//!
//! The [`Ground`] is what programs have in common. It is made first, and may be made before the program is known: whoever then has a program compares its
//! ground with the one that was made.

use std::{
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{
    Layer, Mode, Network, Policy, User,
    landlock::{self, Access, Handled},
    machine::{Machine, Traits},
    policy::PROXY_PORT,
    seccomp, words,
};

/// What is started: the program and what it finds.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// `None`: the first inherited descriptor.
    pub(crate) program: Option<&'a Path>,
    pub(crate) arguments: &'a [OsString],
    pub(crate) environment: &'a [(OsString, OsString)],
    pub(crate) inherited: &'a [u32],
}

/// What is made before the program is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) bytes: Vec<u8>,
    /// Device and inode of each file that it shows: a file that was replaced meanwhile is another ground. A folder shows what is in it then.
    files: Vec<(u64, u64)>,
}

/// Values in the launcher's order.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
    /// A text had a zero inside.
    broken: bool,
}

struct Entry {
    kind: u32,
    flags: u32,
    source: PathBuf,
    target: PathBuf,
    access: Option<Access>,
    /// Every program has it, whatever it was granted.
    common: bool,
}

/// Where the launcher finds what it needs of the jail's own tree.
struct Places {
    directory: PathBuf,
    program: PathBuf,
}

/// Paths that libraries look for as a matter of course: that they are not there is not worth a report.
const QUIET: [&str; 13] = [
    "/dev",
    "/proc",
    "/sys/kernel/mm/transparent_hugepage",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/malloc.conf",
];
/// Devices that programs rely on. None gives anything of the machine.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
const HOST_NAME: &[u8] = b"plugin";

/// The ground for a program, and the specification.
pub(crate) fn encode(machine: &Machine, policy: &Policy, run: &Run<'_>) -> io::Result<(Ground, Vec<u8>)> {
    let traits = machine.traits(policy);
    let (entries, places) = if traits.has(Layer::MountNamespace) {
        entries(policy, run)?
    } else {
        let places = Places {
            directory: policy.directory.clone(),
            program: run.program.unwrap_or(Path::new("")).to_owned(),
        };
        (Vec::new(), places)
    };
    let handled = if traits.has(Layer::Landlock) {
        landlock::handled(machine.landlock_abi())
    } else {
        landlock::handled(0)
    };
    let shown: Vec<PathBuf> = entries.iter().map(|it| it.target.clone()).collect();
    let proc = policy.mode == Mode::On && !entries.is_empty();
    let without_tree = if proc { Vec::new() } else { bare_rules(policy, run) };
    let (common, own) = divide(entries);
    let ground = encode_ground(machine, &traits, &common, handled)?;
    let user = match policy.user {
        User::Own(id) if traits.has(Layer::User) => id,
        _ => words::KEEP_ID,
    };
    let mut to = Writer::default();
    to.u32(user);
    to.u32(user);
    to.entries(&own);
    to.list(rlimits(policy, &traits).iter(), |to, (resource, value)| {
        to.u32(*resource);
        to.u64(*value);
    });
    to.u32(proxy_port(policy).into());
    let mut rules = rules_of(&own);
    rules.extend(proc.then(|| (PathBuf::from("/proc"), Access::Read)));
    rules.extend(without_tree);
    to.rules(&rules, handled);
    let program = if traits.has(Layer::Seccomp) {
        seccomp::filter(seccomp::Shape {
            inet: policy.network == Network::Proxy,
            listener: traits.has(Layer::DenialEvents),
            paths: traits.has(Layer::MountNamespace),
        })
    } else {
        Vec::new()
    };
    to.bytes(&program);
    let shown = shown.iter().map(PathBuf::as_path);
    to.list(QUIET.iter().map(Path::new).chain(shown), |to, path| {
        to.bytes(path.as_os_str().as_bytes());
    });
    to.text(places.directory.as_os_str());
    to.text(places.program.as_os_str());
    to.list(run.arguments.iter(), |to, it| to.text(it));
    to.list(run.environment.iter(), |to, (name, value)| {
        let mut both = name.clone();
        both.push("=");
        both.push(value);
        to.text(&both);
    });
    to.list(run.inherited.iter(), |to, it| to.u32(*it));
    Ok((ground, to.finish()?))
}

fn encode_ground(
    machine: &Machine,
    traits: &Traits,
    common: &[Entry],
    handled: Handled,
) -> io::Result<Ground> {
    use std::os::unix::fs::MetadataExt as _;
    let mut to = Writer::default();
    to.u32(wants(traits));
    let maps = if traits.has(Layer::UserNamespace) {
        machine.id_maps()
    } else {
        (String::new(), String::new())
    };
    to.bytes(maps.0.as_bytes());
    to.bytes(maps.1.as_bytes());
    to.bytes(HOST_NAME);
    to.entries(common);
    to.u64(handled.files);
    to.u64(handled.net);
    to.u64(handled.scoped);
    to.rules(&rules_of(common), handled);
    let files = common
        .iter()
        .filter(|it| it.kind == words::ENTRY_BIND)
        .filter_map(|it| fs::metadata(&it.source).ok())
        .filter(|it| !it.is_dir())
        .map(|it| (it.dev(), it.ino()));
    Ok(Ground {
        files: files.collect(),
        bytes: to.finish()?,
    })
}

/// What the ground shows, and what is added for this program. If something of this program's is above something that all have, it must be
/// there first, and then the ground shows nothing.
fn divide(entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    let is_above =
        |own: &Entry, common: &Entry| own.target != common.target && common.target.starts_with(&own.target);
    let covered = entries
        .iter()
        .filter(|it| !it.common)
        .any(|own| entries.iter().any(|it| it.common && is_above(own, it)));
    entries.into_iter().partition(|it| it.common && !covered)
}

/// The port of the proxy, 0 for none.
fn proxy_port(policy: &Policy) -> u16 {
    match (policy.mode, policy.network) {
        (Mode::On, Network::Proxy) => PROXY_PORT,
        _ => 0,
    }
}

fn wants(traits: &Traits) -> u32 {
    let layers = [
        (Layer::UserNamespace, words::WANT_USER_NS),
        (Layer::MountNamespace, words::WANT_MOUNT_NS),
        (Layer::PidNamespace, words::WANT_PID_NS),
        (Layer::NetNamespace, words::WANT_NET_NS),
        (Layer::IpcNamespace, words::WANT_IPC_NS),
        (Layer::UtsNamespace, words::WANT_UTS_NS),
        (Layer::CgroupNamespace, words::WANT_CGROUP_NS),
        (Layer::Landlock, words::WANT_LANDLOCK),
        (Layer::Seccomp, words::WANT_SECCOMP),
        (Layer::DenialEvents, words::WANT_NOTIFY),
        (Layer::Capabilities, words::WANT_DROP_CAPABILITIES),
        (Layer::NoNewPrivileges, words::WANT_NO_NEW_PRIVILEGES),
    ];
    let mut wants = layers
        .into_iter()
        .filter(|(layer, _)| traits.has(*layer))
        .fold(0, |all, (_, bit)| all | bit);
    if traits.denies_setgroups {
        wants |= words::WANT_DENY_SETGROUPS;
    }
    if traits.asks_for_offer {
        wants |= words::WANT_OFFER;
    }
    wants
}

fn rlimits(policy: &Policy, traits: &Traits) -> Vec<(u32, u64)> {
    let bounds = &policy.bounds;
    let mut limits = vec![
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NOFILE, bounds.files_max),
        (libc::RLIMIT_FSIZE, bounds.file_bytes_max),
        (libc::RLIMIT_MEMLOCK, 64 << 10),
        (libc::RLIMIT_MSGQUEUE, 0),
    ];
    if let Some(bytes) = bounds.data_bytes_max {
        limits.push((libc::RLIMIT_DATA, bytes));
    }
    // It counts all processes of a user, so it says something only about a user who has no others, or none in this namespace. One is the launcher's. A cgroup
    // with the same bound comes first: only that one counts what it refuses.
    if matches!(policy.user, User::Own(_)) || traits.counts_own_tasks {
        let spare = 1 + u64::from(traits.has(Layer::PidsCgroup));
        limits.push((libc::RLIMIT_NPROC, bounds.tasks_max.saturating_add(spare)));
    }
    if !traits.has(Layer::Limits) {
        limits.retain(|(resource, _)| matches!(*resource, libc::RLIMIT_CORE | libc::RLIMIT_DATA));
    }
    limits
}

fn entries(policy: &Policy, run: &Run<'_>) -> io::Result<(Vec<Entry>, Places)> {
    let bind = |source: PathBuf, target: &Path, flags, access| Entry {
        kind: words::ENTRY_BIND,
        flags,
        source,
        target: target.to_owned(),
        access: Some(access),
        common: false,
    };
    let directory = fs::canonicalize(&policy.directory)?;
    let writable = writable(policy);
    let mut entries = Vec::new();
    for path in &policy.system {
        // `/bin` is a link to `usr/bin` on most systems.
        match fs::read_link(path) {
            Ok(to) => entries.push(made(words::ENTRY_SYMLINK, &to, path)),
            Err(_) => {
                if let Ok(whole) = fs::canonicalize(path) {
                    entries.push(bind(whole, path, 0, Access::Execute));
                }
            }
        }
    }
    for device in DEVICES {
        let path = Path::new("/dev").join(device);
        let flags = words::BIND_WRITABLE | words::BIND_DEVICE | words::BIND_NO_EXEC;
        if let Ok(whole) = fs::canonicalize(&path) {
            entries.push(bind(whole, &path, flags, Access::Write));
        }
    }
    entries.extend(made_up());
    entries.iter_mut().for_each(|it| it.common = true);
    for (paths, flags, access) in [
        (&policy.read, words::BIND_NO_EXEC, Access::Read),
        (
            &policy.write,
            words::BIND_NO_EXEC | words::BIND_WRITABLE,
            Access::Write,
        ),
    ] {
        for path in paths {
            // What does not exist is left out; a link is shown as what it leads to. A device that all have stays usable as one.
            if let Ok(whole) = resolve(path, &writable)
                && !DEVICES.iter().any(|it| Path::new("/dev").join(it) == *path)
            {
                entries.push(bind(whole, path, flags | words::BIND_OPTIONAL, access));
            }
        }
    }
    // By whatever way the program was named, it is where that leads.
    let mut program = PathBuf::new();
    if let Some(path) = run.program {
        program = resolve(path, &writable)?;
        if !policy.system.iter().any(|it| program.starts_with(it)) {
            entries.push(bind(program.clone(), &program, 0, Access::Execute));
        }
    }
    let flags = words::BIND_NO_EXEC | words::BIND_WRITABLE;
    let own = if is_straight(&policy.directory) {
        &policy.directory
    } else {
        &directory
    };
    entries.push(bind(directory.clone(), own, flags, Access::Write));
    // For programs that know no TMPDIR.
    if !entries.iter().any(|it| it.target.starts_with("/tmp")) {
        entries.push(made(words::ENTRY_SYMLINK, own, Path::new("/tmp")));
    }
    settle(&mut entries);
    let place = |whole: &Path| {
        let shown = entries
            .iter()
            .find(|it| it.kind == words::ENTRY_BIND && it.source == whole);
        shown.map_or_else(|| whole.to_owned(), |it| it.target.clone())
    };
    let places = Places {
        directory: place(&directory),
        program: place(&program),
    };
    Ok((entries, places))
}

/// What is nowhere on the host: devices' other names, and files that say nothing of it.
fn made_up() -> impl Iterator<Item = Entry> {
    let proc = made(words::ENTRY_PROC, Path::new("proc"), Path::new("/proc"));
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ]
    .map(|(name, to)| made(words::ENTRY_SYMLINK, Path::new(to), &Path::new("/dev").join(name)));
    let files = [
        ("/etc/passwd", "plugin:x:65534:65534:plugin:/:/bin/false\n"),
        ("/etc/group", "plugin:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ]
    .map(|(path, text)| Entry {
        access: Some(Access::Read),
        ..made(words::ENTRY_FILE, Path::new(text), Path::new(path))
    });
    [proc].into_iter().chain(links).chain(files)
}

/// Gives each bound entry the place at which the jail's own tree can have it, and brings all into the order in which they are made.
///
/// Nothing can be put below a link, and a folder that is bound brings its own: below those the place is where the path leads, without a link on
/// the way. So it is for a path that goes back up, which may mean another folder once there are links in front of it.
fn settle(entries: &mut [Entry]) {
    let above: Vec<(PathBuf, Option<PathBuf>)> = entries
        .iter()
        .filter_map(|it| match it.kind {
            words::ENTRY_SYMLINK => Some((it.target.clone(), None)),
            words::ENTRY_BIND => Some((it.target.clone(), Some(it.source.clone()))),
            _ => None,
        })
        .collect();
    for entry in entries.iter_mut().filter(|it| it.kind == words::ENTRY_BIND) {
        let nearest = above
            .iter()
            .filter(|(place, _)| entry.target != *place && entry.target.starts_with(place))
            .max_by_key(|(place, _)| place.as_os_str().len());
        let inside = match nearest {
            _ if !is_straight(&entry.target) => None,
            None => continue,
            Some((_, None)) => None,
            Some((place, Some(source))) => entry.source.strip_prefix(source).ok().map(|it| place.join(it)),
        };
        entry.target = inside.unwrap_or_else(|| entry.source.clone());
    }
    // What is above is bound before what is below it; of several for one path the last said counts.
    entries.sort_by(|a, b| a.target.cmp(&b.target));
}

fn is_straight(path: &Path) -> bool {
    path.components()
        .all(|it| matches!(it, Component::RootDir | Component::Normal(_)))
}

/// What the program may write to. A link in there says where it wants to be, and not what the operator granted.
fn writable(policy: &Policy) -> Vec<PathBuf> {
    let all = policy.write.iter().chain([&policy.directory]);
    all.filter_map(|it| fs::canonicalize(it).ok()).collect()
}

/// Links that are followed for one path, as the kernel counts them.
const LINKS_MAX: usize = 40;

/// Where an absolute path leads. No link is followed that lies in one of `writable`.
fn resolve(path: &Path, writable: &[PathBuf]) -> io::Result<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        let parts = path.components().rev().filter(|it| *it != Component::CurDir);
        parts.map(|it| it.as_os_str().to_owned()).collect()
    };
    let (mut whole, mut links) = (PathBuf::new(), 0);
    let mut left = parts(&std::path::absolute(path)?);
    while let Some(part) = left.pop() {
        if part == ".." {
            whole.pop();
            continue;
        }
        // The root takes the place of all there is.
        let here = whole.join(&part);
        if !fs::symlink_metadata(&here)?.is_symlink() {
            whole = here;
            continue;
        }
        links += 1;
        if links > LINKS_MAX || writable.iter().any(|it| here.starts_with(it)) {
            let why = format!(
                "`{}` is a link that is not followed: the program may have made it",
                here.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        left.extend(parts(&fs::read_link(&here)?));
    }
    Ok(whole)
}

fn made(kind: u32, source: &Path, target: &Path) -> Entry {
    Entry {
        kind,
        flags: 0,
        source: source.to_owned(),
        target: target.to_owned(),
        access: None,
        common: false,
    }
}

/// The same as the mounts say, once more by Landlock.
fn rules_of(entries: &[Entry]) -> Vec<(PathBuf, Access)> {
    let shown = entries
        .iter()
        .filter_map(|it| Some((it.target.clone(), it.access?)));
    shown.collect()
}

/// Without mounts of our own Landlock's rules are all there is.
fn bare_rules(policy: &Policy, run: &Run<'_>) -> Vec<(PathBuf, Access)> {
    if policy.mode == Mode::Off {
        return Vec::new();
    }
    let writable = writable(policy);
    let all = |paths: &[PathBuf], access| -> Vec<(PathBuf, Access)> {
        let whole = paths.iter().filter_map(|it| resolve(it, &writable).ok());
        whole.map(|it| (it, access)).collect()
    };
    let system = policy.system.iter().filter_map(|it| fs::canonicalize(it).ok());
    let mut rules: Vec<_> = system.map(|it| (it, Access::Execute)).collect();
    rules.extend(all(&policy.read, Access::Read));
    rules.extend(all(&policy.write, Access::Write));
    rules.extend(
        fs::canonicalize(&policy.directory)
            .ok()
            .map(|it| (it, Access::Write)),
    );
    rules.extend(
        run.program
            .and_then(|it| resolve(it, &writable).ok())
            .map(|it| (it, Access::Execute)),
    );
    rules.extend(DEVICES.map(|it| (Path::new("/dev").join(it), Access::Write)));
    // Of other processes it shows what the kernel lets anybody see; there is no finer rule that would outlive a fork.
    rules.push((PathBuf::from("/proc"), Access::Read));
    rules
}

// === impl Writer ===

impl Writer {
    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match u32::try_from(bytes.len()) {
            Ok(length) => self.u32(length),
            Err(_) => self.broken = true,
        }
        self.bytes.extend(bytes);
    }

    fn text(&mut self, text: &OsStr) {
        match CString::new(text.as_bytes()) {
            Ok(text) => self.bytes(text.as_bytes_with_nul()),
            Err(_) => self.broken = true,
        }
    }

    fn entries(&mut self, entries: &[Entry]) {
        self.list(entries.iter(), |to, entry| {
            to.u32(entry.kind);
            to.u32(entry.flags);
            to.text(entry.source.as_os_str());
            to.text(entry.target.as_os_str());
        });
    }

    fn rules(&mut self, rules: &[(PathBuf, Access)], handled: Handled) {
        self.list(rules.iter(), |to, (path, access)| {
            to.text(path.as_os_str());
            to.u64(access.rights(handled, path.is_dir() || path.starts_with("/proc")));
        });
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        if self.broken {
            let why = "a path, an argument or a variable has a zero inside";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(self.bytes)
    }

    fn list<T>(&mut self, list: impl Iterator<Item = T>, mut one: impl FnMut(&mut Self, T)) {
        let list: Vec<T> = list.collect();
        match u32::try_from(list.len()) {
            Ok(length) => self.u32(length),
            Err(_) => self.broken = true,
        }
        for it in list {
            one(self, it);
        }
    }
}
