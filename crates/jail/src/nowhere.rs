//! The machine where there is no launcher: it has no layer, and says so.

use crate::{Enclosure, Presence};

/// What this machine can put around a program: nothing.
#[derive(Clone, Debug)]
pub struct Machine(());

impl Machine {
    /// What this machine has.
    #[must_use]
    pub fn probe() -> &'static Self {
        &Self(())
    }

    /// Every layer, with why it is not there.
    #[must_use]
    pub fn layers(&self) -> Enclosure {
        Enclosure::new(|_| {
            let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
            Presence::Absent(format!("there is no jail for {system} on {processor}"))
        })
    }

    /// A user id of its own for a program: none here.
    #[must_use]
    pub fn own_user(&self, _: u32) -> Option<u32> {
        None
    }

    /// A place for cgroups: none here.
    #[cfg(unix)]
    #[must_use]
    pub fn cgroup_root(&self, _: &str) -> crate::CgroupRoot {
        crate::CgroupRoot::new()
    }
}
