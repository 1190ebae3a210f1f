//! A virtual machine of this machine's kind: a kernel of Debian's, which is unpacked and never installed, under QEMU.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    debian::{self, Outcome, succeeds},
    step::Step,
    workspace::Workspace,
};

/// The kernel says nothing that a test would not, and a panic ends the machine. Whether its timer works is not for a busy host to be asked: an
/// emulated one may be late, and the kernel then gives up.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t no_timer_check cgroup_no_v1=all";

/// What `cargo xtask setup` installs for this.
pub(crate) const PACKAGES: &[&str] = &["qemu-system-x86"];
/// Names the package of the newest kernel. "Cloud" leaves out drivers that no virtual machine has.
const NEWEST: &str = "linux-image-cloud-amd64";
const QEMU: &str = "qemu-system-x86_64";
/// The whole of a run takes about a minute where nothing else runs, and has taken four where eight others did.
const PATIENCE: Duration = Duration::from_secs(900);

/// Whether a machine can be had.
pub(crate) enum Machine {
    /// With this kernel.
    Has { kernel: PathBuf },
    /// It can't; this is what it needs.
    Needs(String),
}

impl Machine {
    /// Gets what is missing.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Ok(Self::Needs("Linux on x86-64".to_owned()));
        }
        let first_line =
            |error: anyhow::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
        match debian::install(workspace, PACKAGES, "cgroup version 2 in a virtual machine") {
            Ok(Outcome::Missing(command)) => return Ok(Self::Needs(command)),
            Err(error) => {
                return Ok(Self::Needs(format!(
                    "{}: {}",
                    PACKAGES.join(" "),
                    first_line(error)
                )));
            }
            Ok(_) => {}
        }
        if !succeeds(Command::new(QEMU).arg("--version")) {
            return Ok(Self::Needs(QEMU.to_owned()));
        }
        let folder = workspace.target().join("cgroup2");
        fs::create_dir_all(&folder)?;
        if let Some(kernel) = unpacked(&folder) {
            return Ok(Self::Has { kernel });
        }
        if !debian::is_debian() {
            return Ok(Self::Needs(format!(
                "a kernel of Debian's: `boot/vmlinuz-*` of {NEWEST} in {}",
                workspace.relative(&folder)
            )));
        }
        if let Err(error) = download(workspace, &folder) {
            return Ok(Self::Needs(format!("{NEWEST}: {}", first_line(error))));
        }
        let kernel = unpacked(&folder).context("the package of the kernel has no `boot/vmlinuz-*`")?;
        Ok(Self::Has { kernel })
    }
}

/// Boots `kernel` with `initramfs` and waits until the machine is off; what it printed.
pub(crate) fn boot(workspace: &Workspace, title: &str, kernel: &Path, initramfs: &Path) -> Result<String> {
    let mut qemu = Command::new(QEMU);
    // Emulated, if need be: then QEMU 7.2 gets one or both of these features wrong.
    let [accelerator, processor] = if has_kvm() {
        ["kvm", "host"]
    } else {
        ["tcg,thread=multi", "max,-la57,-cx16"]
    };
    qemu.args([
        "-machine",
        "pc",
        "-accel",
        accelerator,
        "-cpu",
        processor,
        "-smp",
        "2",
        "-m",
        "2048",
    ])
    .args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ])
    .arg("-kernel")
    .arg(kernel)
    .arg("-initrd")
    .arg(initramfs)
    .args(["-append", KERNEL_ARGUMENTS]);
    Step::new(workspace, title)
        .aloud()
        .within(PATIENCE)
        .run(&mut qemu)
}

/// Whether the processor runs guests. Some machines have a `/dev/kvm` that emulates a guest's kernel, and takes minutes to start one.
fn has_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let runs_guests = flags
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split(' ').any(|flag| flag == "vmx" || flag == "svm"));
    runs_guests
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

fn unpacked(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder.join("boot")).ok()?.filter_map(Result::ok);
    let kernels = files.filter(|it| it.file_name().to_string_lossy().starts_with("vmlinuz-"));
    kernels.map(|it| it.path()).max()
}

/// Needs no rights: what apt knows of packages is everybody's to read.
fn download(workspace: &Workspace, folder: &Path) -> Result<()> {
    let newest = || -> Result<String> {
        let depends = Command::new("apt-cache").args(["depends", NEWEST]).output()?;
        let text = String::from_utf8_lossy(&depends.stdout).into_owned();
        let package = text
            .split_whitespace()
            .find(|word| word.starts_with("linux-image-") && *word != NEWEST);
        package
            .map(str::to_owned)
            .with_context(|| format!("apt knows no `{NEWEST}`"))
    };
    let fetch = || -> Result<()> {
        let package = newest()?;
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-qq", &package]).current_dir(folder);
        Step::new(workspace, format!("apt-get download {package}"))
            .run(&mut apt)
            .map(drop)
    };
    if let Err(error) = fetch() {
        if !debian::is_root() {
            return Err(error);
        }
        // The lists may be old or absent, as in a fresh image.
        Step::new(workspace, "apt-get update").run(Command::new("apt-get").arg("update"))?;
        fetch()?;
    }
    for package in fs::read_dir(folder)?.filter_map(Result::ok).map(|it| it.path()) {
        if package.extension().is_some_and(|it| it == "deb") {
            let unpacked = folder.join("package");
            Step::new(workspace, "unpacking the kernel")
                .run(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
            // The modules are most of it, and not needed.
            fs::rename(unpacked.join("boot"), folder.join("boot"))?;
            fs::remove_dir_all(&unpacked)?;
            fs::remove_file(&package)?;
        }
    }
    Ok(())
}
