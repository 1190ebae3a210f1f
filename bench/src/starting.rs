//! Rows about starting a process: what each layer of the jail takes, what a waiting launcher saves, what the runtime and the host add.
//!
//! Every start is measured twice: the time until the plugin has said its first word, and the processor time of all processes that took part, which is the
//! steadier figure on a busy machine. Subjects take turns, start by start, so that a noisy second falls on all of them; what is printed are medians of times and
//! means of processor times. The anchors are a process that does nothing and the same plugin without a jail.

use std::{
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mortise::manifest::RuntimeName;
use mortise_jail::{CgroupRoot, Executable, Launcher, Layer, Machine, Policy, Program, User};
use mortise_runtime_process::{ProcessConfig, ProcessRuntime};
use mortise_wire::frame::ENV_LANE_FD;

use crate::{
    bare, lanes, loading,
    subject::{self, Reuse},
    table::Row,
};

/// Starts of each subject.
const STARTS: usize = 200;
/// Loads through a whole host.
const LOADS: usize = 50;
/// Longer than the runtime waits before it has a launcher ready again.
const PAUSE: Duration = Duration::from_millis(150);

/// Layers whose price is asked for, one at a time.
const PRICED: [Layer; 9] = [
    Layer::UserNamespace,
    Layer::MountNamespace,
    Layer::NetNamespace,
    Layer::IpcNamespace,
    Layer::CgroupNamespace,
    Layer::Capabilities,
    Layer::Landlock,
    Layer::Seccomp,
    Layer::DenialEvents,
];

/// Who starts a plugin, and in what.
enum Subject {
    /// Nothing at all: `/bin/true`, to its end.
    Nothing,
    /// The plugin without a jail.
    Bare,
    /// A jail from the beginning.
    Jail { machine: Machine, cgroups: bool },
    /// The launcher waits already: making it is counted as processor time, and not as time.
    Waiting,
}

/// What was measured of one subject.
#[derive(Default)]
struct Figures {
    name: String,
    times: Vec<Duration>,
    processor: Duration,
}

struct Bench<'a> {
    executable: &'a Path,
    dir: &'a Path,
    cgroups: CgroupRoot,
    count: u32,
}

/// The rows. `executable` is the echo plugin.
///
/// # Errors
/// If something does not start.
pub async fn rows(data: &Path, executable: &Path) -> Result<Vec<Row>> {
    std::fs::create_dir_all(data)?;
    let asked = Instant::now();
    let machine = Machine::probe();
    let probe = asked.elapsed();
    let mut rows = jail_rows(&data.join("jail"), executable, machine)?;
    let (plain, plain_name) = (rows[0].anchor, rows[0].anchor_name.clone());
    rows.push(Row::new(
        "the machine's probe, once",
        ms(probe),
        &plain_name,
        plain,
        "ms",
    ));
    for (what, pause) in [("a launcher waits", PAUSE), ("none waits", Duration::ZERO)] {
        let figures = runtime(&data.join(what), executable, pause).await?;
        let name = format!("runtime: start to first answer, {what}");
        rows.push(Row::new(name, figures.median(), &plain_name, plain, "ms").below(5.0));
    }
    let figures = host(&data.join("host")).await?;
    let name = "host: load to first answer, a launcher waits";
    rows.push(Row::new(name, figures.median(), &plain_name, plain, "ms"));
    Ok(rows)
}

fn jail_rows(data: &Path, executable: &Path, machine: &Machine) -> Result<Vec<Row>> {
    std::fs::create_dir_all(data)?;
    let jail = |name: &str, machine, cgroups| (name.to_owned(), Subject::Jail { machine, cgroups });
    let mut subjects = vec![
        ("a process that does nothing".to_owned(), Subject::Nothing),
        ("the plugin without a jail".to_owned(), Subject::Bare),
        ("in the jail, a launcher waits".to_owned(), Subject::Waiting),
        jail("in the jail, none waits", machine.clone(), true),
        jail("... without cgroups", machine.clone(), false),
    ];
    for layer in PRICED {
        let without = machine.without(layer, "it is left out to see what it costs");
        subjects.push(jail(&format!("... without {layer}"), without, true));
    }
    let mut bench = Bench {
        executable,
        dir: data,
        cgroups: machine.cgroup_root(&format!("mortise-bench-{}", std::process::id())),
        count: 0,
    };
    let mut figures: Vec<Figures> = subjects
        .iter()
        .map(|(name, _)| Figures {
            name: name.clone(),
            ..Figures::default()
        })
        .collect();
    for (_, subject) in &subjects {
        bench.one(subject)?;
    }
    for _ in 0..STARTS {
        for ((_, subject), figures) in subjects.iter().zip(&mut figures) {
            let (time, processor) = bench.one(subject)?;
            figures.times.push(time);
            figures.processor += processor;
        }
    }
    let bare = figures.remove(1);
    let mut rows: Vec<Row> = figures
        .iter()
        .map(|it| Row::new(&it.name, it.median(), &bare.name, bare.median(), "ms"))
        .collect();
    rows.extend(figures.iter().map(|it| {
        let name = format!("processor: {}", it.name);
        Row::new(name, it.processor_ms(), &bare.name, bare.processor_ms(), "ms")
    }));
    Ok(rows)
}

impl Bench<'_> {
    /// Starts once, waits for the first word and ends it again: the time to the word, and the processor time of all of it.
    fn one(&mut self, subject: &Subject) -> Result<(Duration, Duration)> {
        self.count += 1;
        let used = bare::processor_time();
        let time = match subject {
            Subject::Nothing => {
                let begun = Instant::now();
                ensure!(Command::new("/bin/true").status()?.success(), "/bin/true failed");
                begun.elapsed()
            }
            Subject::Bare => self.bare()?,
            Subject::Jail { machine, cgroups } => self.jailed(machine, *cgroups, None)?,
            Subject::Waiting => {
                let machine = Machine::probe();
                let name = format!("ready-{}", self.count);
                let like = Policy::new(self.dir);
                let launcher = Launcher::begin(machine, &like, Some((&self.cgroups, &name)))?;
                self.jailed(machine, true, Some(launcher))?
            }
        };
        Ok((time, bare::processor_time().saturating_sub(used)))
    }

    fn bare(&self) -> Result<Duration> {
        let begun = Instant::now();
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(self.executable)
            .env_clear()
            .env(ENV_LANE_FD, "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        ours.read_exact(&mut [0]).context("its first word")?;
        let time = begun.elapsed();
        child.kill()?;
        child.wait()?;
        Ok(time)
    }

    fn jailed(&self, machine: &Machine, cgroups: bool, mut ready: Option<Launcher>) -> Result<Duration> {
        let dir = self.dir.join(self.count.to_string());
        std::fs::create_dir(&dir)?;
        let mut policy = Policy::new(&dir);
        policy.bounds.memory_bytes_max = Some(256 << 20);
        policy.bounds.cpu_percent = Some(200);
        if let Some(user) = machine.own_user(self.count) {
            std::os::unix::fs::chown(&dir, Some(user), Some(user))?;
            policy.user = User::Own(user);
        }
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let begun = Instant::now();
        let (mut ours, theirs) = UnixStream::pair()?;
        let program = Program {
            executable: Executable::Path(self.executable),
            arguments: &[self.executable.into()],
            environment: &[(ENV_LANE_FD.into(), "0".into())],
            standard: [theirs.as_fd(), null.as_fd(), null.as_fd()],
            inherited: &[],
        };
        let name = self.count.to_string();
        let cgroups = cgroups.then_some((&self.cgroups, name.as_str()));
        let jailed = mortise_jail::start_in(&mut ready, machine, &policy, cgroups, &program)?;
        ensure!(ready.is_none(), "the launcher that waits was not used");
        drop(theirs);
        ours.read_exact(&mut [0]).context("its first word")?;
        let time = begun.elapsed();
        drop(jailed);
        std::fs::remove_dir_all(&dir)?;
        Ok(time)
    }
}

/// Starts through the runtime, with its handshake, to the first answer.
async fn runtime(data: &Path, executable: &Path, pause: Duration) -> Result<Figures> {
    let runtime = ProcessRuntime::new(ProcessConfig::new(data))?;
    let plugin = lanes::echo(&runtime, executable)?;
    let mut figures = Figures::default();
    for nth in 0..=STARTS {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        lanes::start(&runtime, &plugin).await?.first_answer().await?;
        if nth > 0 {
            figures.times.push(begun.elapsed());
        }
    }
    Ok(figures)
}

/// Loads through a host that has loaded it before.
async fn host(data: &Path) -> Result<Figures> {
    let package = subject::package("echo")?;
    let host = subject::host(&[RuntimeName::Process], data, Reuse::Ephemeral).await?;
    let mut figures = Figures::default();
    for nth in 0..=LOADS {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        subject::load(&host, "echo", RuntimeName::Process, &package).await?;
        loading::version(&host).await?;
        if nth > 0 {
            figures.times.push(begun.elapsed());
        }
        host.unload("echo").await?;
    }
    host.shutdown().await;
    Ok(figures)
}

impl Figures {
    fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |it| ms(*it))
    }

    fn processor_ms(&self) -> f64 {
        ms(self.processor) / self.times.len().max(1) as f64
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
