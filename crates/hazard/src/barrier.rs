//! R3 and W2: the two halves of the barrier between readers and writers.

use crate::sync::{Ordering, fence};

/// The system refused the process-wide barrier that it had granted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// R3. `light` is [`is_light`], read from the thread's slot, which is in the cache already.
#[inline(always)]
pub(crate) fn reader(light: bool) {
    if light {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// W2.
pub(crate) fn writer() -> Result<(), Refused> {
    // Also keeps the compiler from moving W1 or W3 across the system call.
    fence(Ordering::SeqCst);
    if is_light() {
        system::everywhere()?;
        fence(Ordering::SeqCst);
    }
    Ok(())
}

/// Whether readers may leave their half to the writer. Never changes within a process.
pub(crate) fn is_light() -> bool {
    system::is_light()
}

#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(any(feature = "fence", loom, miri))
))]
mod system {
    use std::sync::OnceLock;

    use rustix::thread::{MembarrierCommand as Command, membarrier, membarrier_query};

    use super::Refused;

    static LIGHT: OnceLock<bool> = OnceLock::new();

    pub(super) fn is_light() -> bool {
        *LIGHT.get_or_init(|| {
            membarrier_query().contains_command(Command::PrivateExpedited)
                && membarrier(Command::RegisterPrivateExpedited).is_ok()
        })
    }

    pub(super) fn everywhere() -> Result<(), Refused> {
        // A process that was forked without exec may have to register again.
        membarrier(Command::PrivateExpedited)
            .or_else(|_| {
                membarrier(Command::RegisterPrivateExpedited)?;
                membarrier(Command::PrivateExpedited)
            })
            .map_err(|_| Refused)
    }
}

#[cfg(all(windows, not(any(feature = "fence", loom, miri))))]
mod system {
    use super::Refused;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        // Takes nothing, returns nothing, cannot fail.
        safe fn FlushProcessWriteBuffers();
    }

    pub(super) fn is_light() -> bool {
        true
    }

    pub(super) fn everywhere() -> Result<(), Refused> {
        FlushProcessWriteBuffers();
        Ok(())
    }
}

#[cfg(any(
    not(any(target_os = "linux", target_os = "android", windows)),
    feature = "fence",
    loom,
    miri
))]
mod system {
    use super::Refused;

    pub(super) fn is_light() -> bool {
        false
    }

    pub(super) fn everywhere() -> Result<(), Refused> {
        Ok(())
    }
}
