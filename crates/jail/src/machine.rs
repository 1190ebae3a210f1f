//! What this machine has, found out by trying.
//!
//! Asking for versions and settings says little: containers, security modules and settings of the kernel forbid what the kernel could do. So the
//! probe starts a throw-away program with everything; if a step fails, the layer that it belongs to is absent, with the kernel's word for it, and the next
//! try is without it. It ends after as many tries as there are layers, a few milliseconds each, and is made once per process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::OnceLock,
};

use crate::{
    Enclosure, Layer, Mode, Policy, Presence, StartError, User,
    cgroup::{CgroupRoot, Controller, Hierarchies},
    launch::{self, Offer},
};

/// What this machine can put around a program.
#[derive(Clone, Debug)]
pub struct Machine {
    absent: BTreeMap<Layer, String>,
    landlock_abi: i32,
    hierarchies: Hierarchies,
    is_root: bool,
    /// The ids that this host has to give, as `first count` lines for both maps.
    ids: Ids,
    probing: bool,
}

#[derive(Clone, Debug, Default)]
struct Ids {
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

/// What one program gets of it.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    layers: BTreeSet<Layer>,
    pub(crate) denies_setgroups: bool,
    pub(crate) asks_for_offer: bool,
    /// Its user namespace has a count of processes of its own.
    pub(crate) counts_own_tasks: bool,
}

/// Linux that counts a user's processes in each user namespace for itself.
const COUNTS_PER_NAMESPACE: (u32, u32) = (5, 14);

/// Layers that are made by the launcher, so that a try shows whether they are there.
const TRIED: [Layer; 14] = [
    Layer::NoNewPrivileges,
    Layer::Capabilities,
    Layer::Limits,
    Layer::User,
    Layer::UserNamespace,
    Layer::MountNamespace,
    Layer::PidNamespace,
    Layer::NetNamespace,
    Layer::IpcNamespace,
    Layer::UtsNamespace,
    Layer::CgroupNamespace,
    Layer::Landlock,
    Layer::Seccomp,
    Layer::DenialEvents,
];

impl Machine {
    /// What this machine has. The first caller waits some milliseconds, the others get its answer.
    #[must_use]
    pub fn probe() -> &'static Self {
        static FOUND: OnceLock<Machine> = OnceLock::new();
        FOUND.get_or_init(Self::look)
    }

    /// Every layer, with why it is not there if it is not.
    #[must_use]
    pub fn layers(&self) -> Enclosure {
        Enclosure::new(|layer| match self.absent.get(&layer) {
            Some(why) => Presence::Absent(why.clone()),
            None => Presence::Present(self.how(layer)),
        })
    }

    /// A place for the cgroups of a host called `name`.
    #[must_use]
    pub fn cgroup_root(&self, name: &str) -> CgroupRoot {
        CgroupRoot::new(&self.hierarchies, name)
    }

    /// A user id that nothing else on the machine should have, for the `nth` program of this process; `None` if this host has none to give.
    #[must_use]
    pub fn own_user(&self, nth: u32) -> Option<u32> {
        if !self.is_root {
            return None;
        }
        let whole = |ids: &[(u32, u32)]| ids.iter().any(|(first, count)| *first == 0 && *count == u32::MAX);
        if whole(&self.ids.users) && whole(&self.ids.groups) {
            // Above everything that is handed out to people, services and containers; told apart by the host's process and the number.
            return Some(1 << 31 | (std::process::id() & 0x3f_ffff) << 8 | (nth & 0xff));
        }
        // Inside a container: the highest that it has.
        let highest = |ids: &[(u32, u32)]| {
            ids.iter()
                .map(|(first, count)| first.saturating_add(*count) - 1)
                .max()
        };
        let last = highest(&self.ids.users)?.min(highest(&self.ids.groups)?);
        last.checked_sub(1 + nth % 256).filter(|it| *it >= 1000)
    }

    pub(crate) fn landlock_abi(&self) -> i32 {
        self.landlock_abi
    }

    /// The maps of a new user namespace: for root all that root has, so that it can read what it binds; else this user alone.
    pub(crate) fn id_maps(&self) -> (String, String) {
        let same = |ids: &[(u32, u32)]| -> String {
            ids.iter()
                .map(|(first, count)| format!("{first} {first} {count}\n"))
                .collect()
        };
        if self.is_root {
            return (same(&self.ids.users), same(&self.ids.groups));
        }
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        (same(&[(user.as_raw(), 1)]), same(&[(group.as_raw(), 1)]))
    }

    /// What of this machine a policy makes use of.
    pub(crate) fn traits(&self, policy: &Policy) -> Traits {
        let uses = |layer: &Layer| match (policy.mode, layer) {
            (_, layer) if self.absent.contains_key(layer) => false,
            (Mode::Off, _) => matches!(layer, Layer::MemoryCgroup | Layer::CpuCgroup | Layer::PidsCgroup),
            (Mode::On, Layer::User) => matches!(policy.user, User::Own(_)),
            (Mode::On, _) => true,
        };
        Traits {
            layers: Layer::ALL.into_iter().filter(uses).collect(),
            denies_setgroups: !self.is_root,
            asks_for_offer: self.probing,
            counts_own_tasks: uses(&Layer::UserNamespace) && kernel() >= COUNTS_PER_NAMESPACE,
        }
    }

    /// Why a program does not have a layer although the machine may: the policy's doing.
    pub(crate) fn why_not(&self, layer: Layer, policy: &Policy) -> String {
        if policy.mode == Mode::Off {
            return "the jail is off for this program".to_owned();
        }
        match self.absent.get(&layer) {
            Some(why) => why.clone(),
            None if layer == Layer::User => {
                "it runs as the host's user, whose files it was granted".to_owned()
            }
            None => "nothing asks for it".to_owned(),
        }
    }

    pub(crate) fn how(&self, layer: Layer) -> String {
        match layer {
            Layer::Landlock => format!("ABI {}", self.landlock_abi),
            Layer::MemoryCgroup => self.hierarchies.version(Controller::Memory).to_owned(),
            Layer::CpuCgroup => self.hierarchies.version(Controller::Cpu).to_owned(),
            Layer::PidsCgroup => self.hierarchies.version(Controller::Pids).to_owned(),
            _ => String::new(),
        }
    }

    fn look() -> Self {
        let ids = Ids {
            users: id_map("/proc/self/uid_map"),
            groups: id_map("/proc/self/gid_map"),
        };
        let mut machine = Self {
            absent: BTreeMap::new(),
            landlock_abi: 0,
            hierarchies: Hierarchies::probe(),
            is_root: rustix::process::geteuid().is_root(),
            ids,
            probing: true,
        };
        for (controller, layer) in [
            (Controller::Memory, Layer::MemoryCgroup),
            (Controller::Cpu, Layer::CpuCgroup),
            (Controller::Pids, Layer::PidsCgroup),
        ] {
            if let Some(why) = machine.hierarchies.why_not(controller) {
                machine.absent.insert(layer, why.to_owned());
            }
        }
        if machine.own_user(0).is_none() {
            let why = "only a host that is root can give a program a user of its own";
            machine.absent.insert(Layer::User, why.to_owned());
        }
        // What the kernel offers decides how the rest is tried.
        machine.take(Layer::Landlock, "not asked yet");
        machine.take(Layer::DenialEvents, "not asked yet");
        for _ in 0..TRIED.len() * 2 {
            match machine.try_all() {
                Ok(offer) if machine.learn(offer) => {}
                Ok(_) => break,
                Err(error) => machine.blame(&error),
            }
        }
        machine.probing = false;
        machine
    }

    /// Starts a program that does nothing, with everything that is not known to be absent.
    fn try_all(&self) -> Result<Offer, StartError> {
        let mut policy = Policy::new(std::env::temp_dir());
        policy.user = self.own_user(0).map_or(User::Host, User::Own);
        launch::try_out(self, &policy)
    }

    /// Whether the offer changed what is to be tried.
    fn learn(&mut self, offer: Offer) -> bool {
        let mut changed = false;
        if self
            .absent
            .get(&Layer::Landlock)
            .is_some_and(|it| it == "not asked yet")
        {
            match offer.landlock {
                abi @ 1.. => {
                    self.landlock_abi = abi;
                    self.absent.remove(&Layer::Landlock);
                    changed = true;
                }
                errno => self.take(Layer::Landlock, &describe(-errno)),
            }
        }
        if self
            .absent
            .get(&Layer::DenialEvents)
            .is_some_and(|it| it == "not asked yet")
        {
            if offer.notification == 0 && !self.absent.contains_key(&Layer::Seccomp) {
                self.absent.remove(&Layer::DenialEvents);
                changed = true;
            } else {
                self.take(Layer::DenialEvents, &describe(-offer.notification));
            }
        }
        changed
    }

    /// Takes away the layer that a failed try is most likely about.
    fn blame(&mut self, error: &StartError) {
        let why = error.to_string();
        let has = |layer: &Layer| !self.absent.contains_key(layer);
        let order = match error.layer() {
            Some(layer) if has(&layer) => vec![layer],
            // Namespaces come together, and the user namespace is the one that is forbidden most often; without it an ordinary user gets none.
            _ => vec![
                Layer::DenialEvents,
                Layer::CgroupNamespace,
                Layer::UserNamespace,
                Layer::NetNamespace,
                Layer::PidNamespace,
                Layer::MountNamespace,
                Layer::IpcNamespace,
                Layer::UtsNamespace,
                Layer::Landlock,
                Layer::Seccomp,
                Layer::User,
                Layer::Capabilities,
                Layer::NoNewPrivileges,
                Layer::Limits,
            ],
        };
        let Some(layer) = order.into_iter().find(has) else {
            return;
        };
        self.take_with_dependents(layer, &why);
    }

    /// Takes away a layer and those that can't be without it.
    fn take_with_dependents(&mut self, layer: Layer, why: &str) {
        self.take(layer, why);
        let dependents: &[Layer] = match layer {
            // Without one, only root may make the others.
            Layer::UserNamespace if !self.is_root => &[
                Layer::MountNamespace,
                Layer::PidNamespace,
                Layer::NetNamespace,
                Layer::IpcNamespace,
                Layer::UtsNamespace,
                Layer::CgroupNamespace,
                Layer::User,
            ],
            Layer::Seccomp => &[Layer::DenialEvents],
            // An ordinary user needs it for both; nobody else should have them without it.
            Layer::NoNewPrivileges => &[Layer::Landlock, Layer::Seccomp, Layer::DenialEvents],
            // The file tree has a `/proc`, which shows the processes of a pid namespace.
            Layer::PidNamespace => &[Layer::MountNamespace, Layer::User],
            // Its directory lies below directories that only the host's user may enter.
            Layer::MountNamespace => &[Layer::User],
            _ => &[],
        };
        for dependent in dependents {
            self.take(*dependent, &format!("it needs `{layer}`, which is absent: {why}"));
        }
    }

    fn take(&mut self, layer: Layer, why: &str) {
        self.absent.insert(layer, why.to_owned());
    }

    /// The same machine without a layer: for tests of what then happens.
    #[must_use]
    pub fn without(&self, layer: Layer, why: &str) -> Self {
        let mut machine = self.clone();
        machine.take_with_dependents(layer, why);
        machine
    }
}

impl Traits {
    pub(crate) fn has(&self, layer: Layer) -> bool {
        self.layers.contains(&layer)
    }
}

fn describe(errno: i32) -> String {
    format!(
        "the kernel refuses it: {}",
        std::io::Error::from_raw_os_error(errno)
    )
}

/// Version of the running kernel; 0.0 if it is written in no known way.
fn kernel() -> (u32, u32) {
    let system = rustix::system::uname();
    let text = system.release().to_string_lossy();
    let mut numbers = text.split(|it: char| !it.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

/// The ids that exist here: first and count of each range.
fn id_map(path: impl AsRef<Path>) -> Vec<(u32, u32)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        let first = fields.next()?.ok()?;
        let count = fields.nth(1)?.ok()?;
        Some((first, count))
    };
    text.lines().filter_map(parse).collect()
}
