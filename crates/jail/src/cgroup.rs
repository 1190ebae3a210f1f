//! Cgroups, version 1, 2 and both at once: limits on all processes of a program together, what they use, and a way to end them.
//!
//! A [`CgroupRoot`] is one host's place in the hierarchies: a directory below the cgroup that the host itself is in. It makes one
//! [`Cgroup`] for each program.
//!
//! Version 2 is one hierarchy for all controllers, and a process is in one cgroup of it; so there is one place for all that it is to limit. And it has its
//! rule that a cgroup with processes in it does not limit those below it, but for the root of all. So where the host is anywhere else, the place is *beside*
//! its cgroup: run the host in a group of its own below a delegated one (systemd: `Delegate=yes`, `DelegateSubgroup=host`). The kernel does not refuse every
//! way around that rule: a cgroup with processes in it may be told to pass `cpu` and `pids` on. From then on it is the root of a group of *threads*, to
//! which no process can be added below, and the host's own cgroup is another thing than it was. So that is never asked of it.
//!
//! Whoever dies without removing his places leaves them: [`CgroupRoot::places`] is to be written down, and [`sweep`] removes them
//! together with the processes in them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::GroupUsage;

/// After this long a program whose processor time was used up gets more, in microseconds. The kernel's own default.
const PERIOD_US: u64 = 100_000;

/// What a cgroup can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

/// Where the host may make cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Directories below which cgroups can be made, each with what it limits.
    found: Vec<Hierarchy>,
    /// Why a controller is in none of them.
    missing: BTreeMap<Controller, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    base: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One host's places, which are there while it has programs. Only one thread at a time may make and drop programs of one host.
#[derive(Debug)]
pub struct CgroupRoot {
    places: Vec<Hierarchy>,
    missing: BTreeMap<Controller, String>,
}

/// The cgroups of one program. Dropping it ends what is in them and removes them.
#[derive(Debug)]
pub(crate) struct Cgroup {
    places: Vec<Hierarchy>,
    missing: BTreeMap<Controller, String>,
}

/// Ends and removes what a dead host left at `place`.
pub fn sweep(place: &Path) {
    for child in directories(place) {
        sweep(&child);
    }
    end_all(place);
    remove(place);
}

// === impl Controller ===

impl Controller {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

// === impl Hierarchies ===

impl Hierarchies {
    /// Looks where the host is and what it may make there. Every place is tried for real and left as it was, but for controllers that are passed on now.
    pub(crate) fn probe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mounts = mounts(&read("/proc/self/mountinfo"));
        let own = own(&read("/proc/self/cgroup"));
        let mut all = Self::default();
        for controller in Controller::ALL {
            match place_in_one(controller, &mounts, &own) {
                Ok(base) => all.add(controller, base),
                Err(why) => drop(all.missing.insert(controller, why)),
            }
        }
        // Version 1 counts time in a hierarchy of its own, often but not always mounted with `cpu`.
        if let Some(base) = candidates(&mounts, &own, |it| {
            it.controllers.iter().any(|it| it == "cpuacct")
        })
        .into_iter()
        .next()
            && !all.found.iter().any(|it| it.base == base)
            && try_make(&base, Version::One).is_ok()
        {
            all.found.push(Hierarchy {
                base,
                version: Version::One,
                controllers: Vec::new(),
            });
        }
        // A controller is in one version only.
        let wanted = Controller::ALL
            .into_iter()
            .filter(|it| !mounts.iter().any(|mount| mount.is_one_with(*it)));
        let bases = candidates(&mounts, &own, |it| it.version == Version::Two);
        all.add_second(&wanted.collect::<Vec<_>>(), &bases);
        all
    }

    /// Looks for controllers in version 2, at the first of `bases` that has any.
    fn add_second(&mut self, wanted: &[Controller], bases: &[PathBuf]) {
        // Nearest first: the reason at the host's own cgroup is the one that somebody can do something about, unless it just has nothing to pass on.
        let mut reasons: BTreeMap<Controller, Refused> = BTreeMap::new();
        for base in bases.iter().filter(|_| !wanted.is_empty()) {
            let Passed { on, not } = pass_on(base, wanted);
            if !on.is_empty() {
                self.missing.retain(|it, _| !on.contains(it));
                self.found.push(Hierarchy {
                    base: base.clone(),
                    version: Version::Two,
                    controllers: on,
                });
                self.missing
                    .extend(not.into_iter().map(|(it, refused)| (it, refused.why)));
                return;
            }
            for (controller, refused) in not {
                if reasons.get(&controller).is_none_or(|it| !it.is_offered) {
                    reasons.insert(controller, refused);
                }
            }
        }
        self.missing
            .extend(reasons.into_iter().map(|(it, refused)| (it, refused.why)));
        // It is worth having for `cgroup.kill` even if it limits nothing. What passes nothing on may have processes in it.
        let with_kill = |base: &&PathBuf| try_make(base, Version::Two).is_ok_and(|has_kill| has_kill);
        if let Some(base) = bases.iter().find(with_kill) {
            self.found.push(Hierarchy {
                base: base.clone(),
                version: Version::Two,
                controllers: Vec::new(),
            });
        }
    }

    /// Why a controller can't be had; `None` if it can.
    pub(crate) fn why_not(&self, controller: Controller) -> Option<&str> {
        self.missing.get(&controller).map(String::as_str)
    }

    pub(crate) fn version(&self, controller: Controller) -> &'static str {
        let found = self.found.iter().find(|it| it.controllers.contains(&controller));
        match found.map(|it| it.version) {
            Some(Version::Two) => "version 2",
            _ => "version 1",
        }
    }

    fn add(&mut self, controller: Controller, base: PathBuf) {
        match self.found.iter_mut().find(|it| it.base == base) {
            Some(same) => same.controllers.push(controller),
            None => self.found.push(Hierarchy {
                base,
                version: Version::One,
                controllers: vec![controller],
            }),
        }
    }
}

// === impl CgroupRoot ===

impl CgroupRoot {
    /// The places of a host called `name`; nothing is made before the first program is.
    pub(crate) fn new(hierarchies: &Hierarchies, name: &str) -> Self {
        let places = hierarchies.found.iter().map(|it| Hierarchy {
            base: it.base.join(name),
            ..it.clone()
        });
        Self {
            places: places.collect(),
            missing: hierarchies.missing.clone(),
        }
    }

    /// Directories that are removed with this, or by [`sweep`] if the host can't.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|it| it.base.as_path())
    }

    /// Removes, beside its own places, at most `max` places of others that `is_of_the_dead` says so of by their names. One with a process in it or
    /// below it stays: the kernel refuses.
    pub fn remove_empty(&self, max: usize, is_of_the_dead: impl Fn(&str) -> bool) {
        let beside = self.places.iter().filter_map(|it| it.base.parent());
        let others = beside.flat_map(directories).filter(|it| {
            let name = it.file_name().unwrap_or_default();
            is_of_the_dead(&name.to_string_lossy())
        });
        for other in others.take(max) {
            for below in directories(&other) {
                let _ = fs::remove_dir(below);
            }
            let _ = fs::remove_dir(other);
        }
    }

    /// Makes the cgroups of one program. They have no limits yet.
    pub(crate) fn make(&self, name: &str) -> io::Result<Cgroup> {
        let mut made = Cgroup {
            places: Vec::new(),
            missing: self.missing.clone(),
        };
        for place in &self.places {
            make_dir(&place.base)?;
            if place.version == Version::Two {
                enable(&place.base, &place.controllers)?;
            }
            let own = Hierarchy {
                base: place.base.join(name),
                ..place.clone()
            };
            make_dir(&own.base)?;
            // From here on it is removed on every way out.
            made.places.push(own);
        }
        Ok(made)
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        for place in &self.places {
            let _ = fs::remove_dir(&place.base);
        }
    }
}

// === impl Cgroup ===

impl Cgroup {
    /// Open files to which the number of a process is written that is to join.
    pub(crate) fn doors(&self) -> io::Result<Vec<File>> {
        let open = |place: &Hierarchy| {
            OpenOptions::new()
                .write(true)
                .open(place.base.join("cgroup.procs"))
        };
        self.places.iter().map(open).collect()
    }

    /// Why a controller does not limit it; `None` if it does.
    pub(crate) fn why_not(&self, controller: Controller) -> Option<&str> {
        self.missing.get(&controller).map(String::as_str)
    }

    /// What its processes use now.
    pub(crate) fn usage(&self) -> GroupUsage {
        let mut usage = GroupUsage::default();
        for place in &self.places {
            let number = |file: &str| read_number(&place.base.join(file));
            let keyed = |file: &str, key: &str| read_keyed(&place.base.join(file), key);
            let two = place.version == Version::Two;
            // Time is counted by a controller of its own in version 1, and in version 2 without any.
            let cpu_time = if two {
                keyed("cpu.stat", "usage_usec").map(Duration::from_micros)
            } else {
                number("cpuacct.usage").map(Duration::from_nanos)
            };
            usage.cpu_time = usage.cpu_time.or(cpu_time);
            for controller in &place.controllers {
                match (controller, two) {
                    (Controller::Memory, true) => {
                        usage.memory_bytes = number("memory.current");
                        usage.out_of_memory_kills = keyed("memory.events", "oom_kill");
                    }
                    (Controller::Memory, false) => {
                        usage.memory_bytes = number("memory.usage_in_bytes");
                        usage.out_of_memory_kills = keyed("memory.oom_control", "oom_kill");
                    }
                    (Controller::Cpu, true) => {
                        usage.throttled_periods = keyed("cpu.stat", "nr_throttled");
                        usage.throttled_time = keyed("cpu.stat", "throttled_usec").map(Duration::from_micros);
                    }
                    (Controller::Cpu, false) => {
                        usage.throttled_periods = keyed("cpu.stat", "nr_throttled");
                        usage.throttled_time = keyed("cpu.stat", "throttled_time").map(Duration::from_nanos);
                    }
                    (Controller::Pids, _) => {
                        usage.tasks = number("pids.current");
                        usage.tasks_refused = keyed("pids.events", "max");
                    }
                }
            }
        }
        usage
    }

    /// Ends every process in it. With version 2 the kernel does it at once; else round after round until none is left.
    pub(crate) fn kill(&self) {
        let two = self.places.iter().find(|it| it.version == Version::Two);
        if two.is_some_and(|it| fs::write(it.base.join("cgroup.kill"), "1").is_ok()) {
            return;
        }
        if let Some(place) = self.places.first() {
            end_all(&place.base);
        }
    }

    /// Sets the limits on all that is in it.
    pub(crate) fn set(&self, bounds: &crate::Bounds) -> io::Result<()> {
        for place in &self.places {
            let put = |file: &str, value: String| write_value(&place.base.join(file), &value);
            let two = place.version == Version::Two;
            for controller in &place.controllers {
                match (controller, two) {
                    (Controller::Memory, two) => {
                        let Some(bytes) = bounds.memory_bytes_max else {
                            continue;
                        };
                        if two {
                            put("memory.max", bytes.to_string())?;
                            // Without swap control there is no swap to take into account.
                            let _ = put("memory.swap.max", "0".to_owned());
                        } else {
                            put("memory.limit_in_bytes", bytes.to_string())?;
                            let _ = put("memory.memsw.limit_in_bytes", bytes.to_string());
                        }
                    }
                    (Controller::Cpu, two) => {
                        let Some(percent) = bounds.cpu_percent else {
                            continue;
                        };
                        let quota_us = u64::from(percent) * PERIOD_US / 100;
                        if two {
                            put("cpu.max", format!("{quota_us} {PERIOD_US}"))?;
                        } else {
                            put("cpu.cfs_period_us", PERIOD_US.to_string())?;
                            put("cpu.cfs_quota_us", quota_us.to_string())?;
                        }
                    }
                    // The launcher's process is one of them.
                    (Controller::Pids, _) => put("pids.max", bounds.tasks_max.saturating_add(1).to_string())?,
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.places.iter().any(|it| has_processes(&it.base)) {
            self.kill();
        }
        for place in &self.places {
            remove(&place.base);
            // The host's own place goes with its last program: a host that just exits leaves nothing then. The next program makes it again.
            if let Some(of_host) = place.base.parent() {
                let _ = fs::remove_dir(of_host);
            }
        }
    }
}

// === where ===

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    at: PathBuf,
    /// Which part of the hierarchy is mounted there.
    root: String,
    controllers: Vec<String>,
}

impl Mount {
    /// Whether it is version 1's hierarchy of a controller.
    fn is_one_with(&self, controller: Controller) -> bool {
        self.version == Version::One && self.controllers.iter().any(|it| it == controller.name())
    }
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default();
        Some(Mount {
            version,
            at: PathBuf::from(at),
            root: root.to_owned(),
            controllers: options.split(',').map(str::to_owned).collect(),
        })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// For each controller of version 1, and for "" (version 2), where this process is.
fn own(cgroup: &str) -> BTreeMap<String, String> {
    let mut own = BTreeMap::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            for controller in controllers.split(',') {
                own.insert(controller.to_owned(), path.to_owned());
            }
        }
    }
    own
}

/// The directories below which a cgroup of a hierarchy may be made: where the process is, what is above it, and where it can't see itself, the top.
fn candidates(
    mounts: &[Mount],
    own: &BTreeMap<String, String>,
    wanted: impl Fn(&Mount) -> bool,
) -> Vec<PathBuf> {
    let Some(mount) = mounts.iter().find(|it| wanted(it)) else {
        return Vec::new();
    };
    let path = match mount.version {
        Version::Two => own.get(""),
        Version::One => mount.controllers.iter().find_map(|it| own.get(it)),
    };
    let path = path.map_or("/", String::as_str);
    // A container's own part may be mounted as if it were the whole.
    let path = path
        .strip_prefix(&mount.root)
        .filter(|_| mount.root != "/")
        .unwrap_or(path);
    let inside = match path.trim_start_matches('/') {
        "" => mount.at.clone(),
        below => mount.at.join(below),
    };
    let mut all = Vec::new();
    if inside.is_dir() {
        all.push(inside.clone());
        if mount.version == Version::Two
            && inside != mount.at
            && let Some(parent) = inside.parent()
        {
            all.push(parent.to_owned());
        }
    } else {
        all.push(mount.at.clone());
    }
    all
}

fn place_in_one(
    controller: Controller,
    mounts: &[Mount],
    own: &BTreeMap<String, String>,
) -> Result<PathBuf, String> {
    let name = controller.name();
    let mut why = format!("the kernel offers no `{name}` controller");
    let bases = candidates(mounts, own, |it| it.is_one_with(controller));
    for base in bases {
        match try_make(&base, Version::One) {
            Ok(_) => return Ok(base),
            Err(error) => why = format!("`{}`: {error}", base.display()),
        }
    }
    Err(why)
}

/// What a cgroup of version 2 passes on to those below it, and why not the rest.
struct Passed {
    on: Vec<Controller>,
    not: BTreeMap<Controller, Refused>,
}

struct Refused {
    /// The cgroup has it itself.
    is_offered: bool,
    why: String,
}

/// Has a cgroup of version 2 pass `wanted` on, as far as it has them.
fn pass_on(base: &Path, wanted: &[Controller]) -> Passed {
    const ADVICE: &str = "run the host in a group of its own below a delegated one (systemd: `Delegate=yes`, `DelegateSubgroup=host`; in a container: \
                          move its processes into a group below first)";
    let place = base.display();
    let is_root = !base.join("cgroup.type").exists();
    let unusable = match try_make(base, Version::Two) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(format!(
            "`{place}` is not this user's to divide ({error}); {ADVICE}"
        )),
        Err(error) => Some(format!("`{place}`: {error}")),
        Ok(_) if !is_root && has_processes(base) => Some(format!(
            "`{place}` has processes in it, so it limits none below it; {ADVICE}"
        )),
        Ok(_) => None,
    };
    let offered = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    let mut passed = Passed {
        on: Vec::new(),
        not: BTreeMap::new(),
    };
    for controller in wanted {
        let name = controller.name();
        let is_offered = offered.split_whitespace().any(|it| it == name);
        let why = if !is_offered && is_root {
            format!("the kernel offers no `{name}` controller")
        } else if !is_offered {
            format!(
                "`{place}` has no `{name}` controller: the group above it passes none on (systemd: `Delegate=yes`), or the kernel has none"
            )
        } else if let Some(why) = &unusable {
            why.clone()
        } else {
            match enable(base, &[*controller]) {
                Ok(()) => {
                    passed.on.push(*controller);
                    continue;
                }
                Err(error) => format!("`{place}` can't pass its `{name}` controller on: {error}"),
            }
        };
        passed.not.insert(*controller, Refused { is_offered, why });
    }
    passed
}

/// Makes a cgroup and removes it again: whether it could be ended with one write.
fn try_make(base: &Path, version: Version) -> io::Result<bool> {
    let trial = base.join(format!(
        "mortise-probe-{}-{:?}",
        std::process::id(),
        thread::current().id()
    ));
    fs::create_dir(&trial)?;
    let can_join = |cgroup: &Path| {
        OpenOptions::new()
            .write(true)
            .open(cgroup.join("cgroup.procs"))
            .map(drop)
    };
    let mut joinable = can_join(&trial);
    if version == Version::Two && joinable.is_ok() {
        // Who moves a process must be allowed to in the cgroup above both places, and threads are no processes.
        joinable =
            can_join(base).and_then(|()| match fs::read_to_string(trial.join("cgroup.type"))?.trim() {
                "domain" => Ok(()),
                other => Err(io::Error::other(format!(
                    "a group below it is of type `{other}`, which holds no processes"
                ))),
            });
    }
    let kill = trial.join("cgroup.kill").exists();
    fs::remove_dir(&trial)?;
    joinable?;
    Ok(kill)
}

fn enable(base: &Path, controllers: &[Controller]) -> io::Result<()> {
    let mut wanted = String::new();
    for controller in controllers {
        let _ = write!(wanted, "+{} ", controller.name());
    }
    if wanted.is_empty() {
        return Ok(());
    }
    write_value(&base.join("cgroup.subtree_control"), wanted.trim_end())
}

// === files ===

fn directories(place: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
    let directories = entries.filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
    directories.map(|it| it.path())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Cgroup files want one write with all of it.
fn write_value(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found?.trim().parse().ok()
}

fn processes(place: &Path) -> Vec<i32> {
    let text = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|it| it.parse().ok()).collect()
}

fn has_processes(place: &Path) -> bool {
    !processes(place).is_empty()
}

/// Kills all processes in a cgroup, also those that are made meanwhile, as far as a second goes.
fn end_all(place: &Path) {
    use rustix::process::{Pid, Signal, kill_process};
    if fs::write(place.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..200 {
        let alive = processes(place);
        if alive.is_empty() {
            return;
        }
        for pid in alive.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A cgroup can be removed once its last process is reaped, which is a moment after it was killed.
fn remove(place: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(place) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(5))
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 29 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
32 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 29 0:28 / /proc rw,relatime - proc proc rw";

    #[test]
    fn mounted_hierarchies_are_found() {
        let found = mounts(HYBRID);
        let places: Vec<_> = found
            .iter()
            .map(|it| (it.version, it.at.to_str().unwrap_or_default()))
            .collect();
        assert_eq!(
            places,
            [
                (Version::One, "/sys/fs/cgroup/memory"),
                (Version::One, "/sys/fs/cgroup/cpu,cpuacct"),
                (Version::Two, "/sys/fs/cgroup/unified")
            ]
        );
        assert!(found[1].controllers.contains(&"cpuacct".to_owned()));
    }

    #[test]
    fn where_a_process_is() {
        let own = own("4:memory:/a/b\n3:cpu,cpuacct:/c\n1:name=systemd:/x\n0::/d:e\n");
        assert_eq!(own["memory"], "/a/b");
        assert_eq!((&*own["cpu"], &*own["cpuacct"]), ("/c", "/c"));
        assert_eq!(own[""], "/d:e", "a path may have a colon");
    }

    #[test]
    fn an_absent_controller_is_absent_with_a_reason() {
        let mounts = mounts(HYBRID);
        let why = place_in_one(Controller::Pids, &mounts, &BTreeMap::new()).unwrap_err();
        assert!(why.contains("pids"), "{why}");
        assert!(mounts.iter().any(|it| it.is_one_with(Controller::Cpu)));
        assert!(!mounts.iter().any(|it| it.is_one_with(Controller::Pids)));
    }
}
