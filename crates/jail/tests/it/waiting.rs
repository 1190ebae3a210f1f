//! A launcher that waits for its program.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

use mortise_jail::{
    CgroupRoot, Executable, Jailed, Launcher, Layer, Machine, Mode, Policy, Program, StartError, start_in,
};

use crate::policy;

/// Runs a shell in the launcher that waits, or in another if it is not for it, and gives what it wrote.
fn run_in(
    ready: &mut Option<Launcher>,
    policy: &Policy,
    cgroups: Option<(&CgroupRoot, &str)>,
    shell: &str,
) -> Result<(Jailed, String), StartError> {
    let null = File::open("/dev/null").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let arguments: Vec<OsString> = ["sh", "-c", shell].map(OsString::from).to_vec();
    let environment = [("PATH".into(), "/usr/bin:/bin".into())];
    let program = Program {
        executable: Executable::Path(Path::new("/bin/sh")),
        arguments: &arguments,
        environment: &environment,
        standard: [null.as_fd(), writer.as_fd(), writer.as_fd()],
        inherited: &[],
    };
    let jailed = start_in(ready, Machine::probe(), policy, cgroups, &program)?;
    drop(writer);
    let mut text = String::new();
    File::from(OwnedFd::from(reader))
        .read_to_string(&mut text)
        .unwrap();
    Ok((jailed, text))
}

fn waiting(like: &Policy) -> Option<Launcher> {
    Some(Launcher::begin(Machine::probe(), like, None).unwrap())
}

/// What a shell finds around it, without what differs from start to start.
const LOOK: &str = "id -u; ls -a / /dev /etc; grep -hv -e ^Pid -e ^voluntary -e ^nonvol -e ^Vm -e ^Rss -e ^Cpus -e ^Mems /proc/1/status /proc/self/status | grep -e Cap -e NoNew -e Seccomp: -e NSpid -e Groups; cat /etc/passwd; ulimit -n; uname -n; cat /proc/self/cgroup | cut -d: -f3 | sort -u; ls /proc/self/ns; cut -d' ' -f4-6 /proc/self/mountinfo | sort";

#[test]
fn a_program_finds_the_same_as_in_a_launcher_of_its_own() {
    let (mut policy, dir) = policy();
    let granted = tempfile::tempdir().unwrap();
    fs::write(granted.path().join("a"), "read me\n").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut ready = waiting(&Policy::new(elsewhere.path()));
    // Granted and made after the launcher began to wait.
    policy.read = vec![granted.path().to_owned()];
    fs::write(granted.path().join("b"), "me too\n").unwrap();
    let look = format!(
        "{LOOK}; cat {granted}/a {granted}/b; echo x > own && cat own; cat /etc/shadow; echo y > {granted}/c",
        granted = granted.path().display()
    );
    let (waited, found) = run_in(&mut ready, &policy, None, &look).unwrap();
    assert!(ready.is_none(), "it was used");
    let (fresh, expected) = run_in(&mut None, &policy, None, &look).unwrap();
    assert_eq!(found, expected);
    assert!(found.contains("read me\nme too\nx\n"), "{found}");
    assert!(dir.path().join("own").exists() && !granted.path().join("c").exists());
    let layers = |it: &Jailed| {
        it.enclosure()
            .iter()
            .map(|(layer, how)| (layer, how.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(layers(&waited), layers(&fresh));
}

#[test]
fn one_that_is_for_other_programs_goes_on_waiting() {
    let (policy, _dir) = policy();
    let mut ready = waiting(&policy);
    let process = ready.as_ref().unwrap().init();
    let mut off = policy.clone();
    off.mode = Mode::Off;
    let (_jailed, text) = run_in(&mut ready, &off, None, "echo runs").unwrap();
    assert_eq!(text, "runs\n");
    let mut more = policy.clone();
    let library = tempfile::tempdir().unwrap();
    more.system.push(library.path().to_owned());
    let look = format!("ls -d {}", library.path().display());
    let (_jailed, text) = run_in(&mut ready, &more, None, &look).unwrap();
    assert_eq!(text, format!("{}\n", library.path().display()));
    assert_eq!(ready.as_ref().map(Launcher::init), Some(process), "it waits");
    let (_jailed, text) = run_in(&mut ready, &policy, None, "echo runs").unwrap();
    assert!(ready.is_none() && text == "runs\n", "{text}");
}

/// What lies above something that every program has is put there first, so it can't be added to what is there.
#[test]
fn what_is_granted_above_the_system_is_there_with_it() {
    let place = tempfile::tempdir().unwrap();
    let inner = place.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(place.path().join("outer-file"), "").unwrap();
    fs::write(inner.join("inner-file"), "").unwrap();
    let (mut policy, _dir) = policy();
    policy.system.push(inner.clone());
    let mut ready = waiting(&policy);
    policy.read.push(place.path().to_owned());
    let look = format!("ls {} {}", place.path().display(), inner.display());
    let (_jailed, text) = run_in(&mut ready, &policy, None, &look).unwrap();
    assert!(
        text.contains("outer-file") && text.contains("inner-file"),
        "{text}"
    );
    assert!(ready.is_some(), "it is not for this program");
}

#[test]
fn a_file_that_was_replaced_makes_it_out_of_date() {
    let place = tempfile::tempdir().unwrap();
    let shown = place.path().join("shown");
    fs::write(&shown, "old\n").unwrap();
    let (mut policy, _dir) = policy();
    policy.system.push(shown.clone());
    let mut ready = waiting(&policy);
    let machine = Machine::probe();
    assert!(ready.as_mut().unwrap().is_current(machine, &policy));
    fs::write(place.path().join("new"), "new\n").unwrap();
    fs::rename(place.path().join("new"), &shown).unwrap();
    assert!(!ready.as_mut().unwrap().is_current(machine, &policy));
    let look = format!("cat {}", shown.display());
    let (_jailed, text) = run_in(&mut ready, &policy, None, &look).unwrap();
    assert_eq!(text, "new\n");
}

/// In mounts of its own: they would put the launchers of other tests out of date.
#[test]
fn a_mount_makes_it_out_of_date() {
    const NAME: &str = "waiting::a_mount_makes_it_out_of_date";
    const ENV_ALONE: &str = "MORTISE_TEST_ALONE";
    if std::env::var_os(ENV_ALONE).is_none() {
        let ran = Command::new("unshare")
            .arg("--mount")
            .arg(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(ENV_ALONE, NAME)
            .output();
        match ran {
            Ok(ran) if String::from_utf8_lossy(&ran.stderr).contains("unshare failed") => {
                println!("skipped: needs root");
            }
            Ok(ran) => assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout)),
            Err(error) => println!("skipped: needs `unshare`: {error}"),
        }
        return;
    }
    let (mut policy, _dir) = policy();
    let mut ready = waiting(&policy);
    let machine = Machine::probe();
    assert!(ready.as_mut().unwrap().is_current(machine, &policy));
    let on = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "none"]).arg(on.path());
    assert!(mount.status().unwrap().success());
    fs::write(on.path().join("a"), "on it\n").unwrap();
    policy.read.push(on.path().to_owned());
    let look = format!("cat {}/a", on.path().display());
    let (_jailed, text) = run_in(&mut ready, &policy, None, &look).unwrap();
    assert_eq!(text, "on it\n");
    let left = ready.as_mut().expect("it was not used");
    assert!(!left.is_current(machine, &policy), "and it stays out of date");
}

#[test]
fn one_that_was_ended_is_replaced() {
    let (policy, _dir) = policy();
    let mut ready = waiting(&policy);
    let process = ready.as_ref().unwrap().init().unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let (_jailed, text) = run_in(&mut ready, &policy, None, "echo runs").unwrap();
    assert_eq!(text, "runs\n");
}

#[test]
fn dropping_it_leaves_nothing() {
    let machine = Machine::probe();
    let root = machine.cgroup_root(&format!("mortise-test-waiting-{}", std::process::id()));
    let places: Vec<_> = root.places().map(Path::to_owned).collect();
    let (policy, _dir) = policy();
    let launcher = Launcher::begin(machine, &policy, Some((&root, "one"))).unwrap();
    let process = Path::new("/proc").join(launcher.init().unwrap().as_raw_nonzero().to_string());
    assert!(process.exists());
    for place in &places {
        let inside = fs::read_to_string(place.join("one/cgroup.procs")).unwrap();
        assert_eq!(inside.lines().count(), 1, "{} {inside:?}", place.display());
    }
    drop(launcher);
    assert!(!process.exists(), "it is reaped");
    assert!(places.iter().all(|it| !it.exists()), "{places:?}");
}

#[test]
fn its_cgroups_limit_the_program_that_comes() {
    let machine = Machine::probe();
    if !machine.layers().has(Layer::PidsCgroup) {
        println!("skipped: needs cgroups");
        return;
    }
    let root = machine.cgroup_root(&format!("mortise-test-limits-{}", std::process::id()));
    let (mut policy, _dir) = policy();
    let mut ready = Some(Launcher::begin(machine, &policy, Some((&root, "one"))).unwrap());
    policy.bounds.tasks_max = 4;
    let many = "for i in 1 2 3 4 5 6 7 8; do sleep 5 >/dev/null & done 2>/dev/null; echo done";
    let (jailed, _) =
        run_in(&mut ready, &policy, Some((&root, "two")), many).unwrap_or_else(|it| panic!("{it:?}"));
    assert!(ready.is_none());
    std::thread::sleep(Duration::from_millis(1));
    let usage = jailed.meter().read();
    assert!(usage.tasks_refused.is_some_and(|it| it > 0), "{usage:?}");
}
