//! The jail around real programs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]
#![cfg(target_os = "linux")]

mod waiting;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use mortise_jail::{
    Enclosure, Event, Executable, Exit, Jailed, Layer, Machine, Mode, Policy, Presence, Program, StartError,
    User, start,
};

/// What a program wrote, how it ended, and what was denied to it.
struct Ran {
    output: String,
    exit: Option<Exit>,
    denied: Vec<String>,
}

fn begin(policy: &Policy, shell: &str) -> Result<(Jailed, File), StartError> {
    begin_on(Machine::probe(), policy, shell)
}

fn begin_on(machine: &Machine, policy: &Policy, shell: &str) -> Result<(Jailed, File), StartError> {
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
    let jailed = start(machine, policy, None, &program)?;
    Ok((jailed, File::from(OwnedFd::from(reader))))
}

fn run(policy: &Policy, shell: &str) -> Ran {
    let (mut jailed, mut output) = begin(policy, shell).unwrap();
    let events = jailed.events().unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let begun = Instant::now();
    while jailed.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut exit, mut denied) = (None, Vec::new());
    while let Ok(Some(event)) = events.next_event() {
        match event {
            Event::Exited(how) => exit = Some(how),
            Event::Denied(it) => denied.push(format!("{} {} {}", it.call, it.capability, it.target)),
            _ => {}
        }
    }
    Ran {
        output: text,
        exit,
        denied,
    }
}

fn policy() -> (Policy, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Policy::new(dir.path()), dir)
}

#[test]
fn this_machine_has_layers_and_says_why_where_not() {
    let layers = Machine::probe().layers();
    for (layer, presence) in layers.iter() {
        println!("{layer}: {presence:?}");
        if let Presence::Absent(why) = presence {
            assert!(!why.is_empty(), "{layer}");
        }
    }
    assert!(
        layers.has(Layer::NoNewPrivileges) && layers.has(Layer::Limits),
        "every Linux has them"
    );
}

#[test]
fn a_program_runs_and_its_end_is_told() {
    let (policy, _dir) = policy();
    let ran = run(&policy, "echo hello; exit 7");
    assert_eq!(ran.output, "hello\n");
    assert_eq!(ran.exit, Some(Exit::Code(7)));
    let ran = run(&policy, "kill -9 $$");
    assert_eq!(ran.exit, Some(Exit::Signal(9)));
    assert_eq!(ran.denied, Vec::<String>::new());
}

#[test]
fn it_sees_its_directory_and_no_other() {
    let (policy, dir) = policy();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "42").unwrap();
    let shell = format!(
        "pwd; echo mine > own && cat own; cat {}/secret /etc/shadow; ls /proc | grep -c '^[0-9]'; ls /",
        outside.path().display()
    );
    let ran = run(&policy, &shell);
    let expected = format!("{}\nmine\n", dir.path().display());
    assert!(ran.output.starts_with(&expected), "{}", ran.output);
    assert!(!ran.output.contains("42"), "{}", ran.output);
    assert_eq!(std::fs::read_to_string(dir.path().join("own")).unwrap(), "mine\n");
    if Machine::probe().layers().has(Layer::DenialEvents) {
        assert!(
            ran.denied.iter().any(|it| it.ends_with("fs.read /etc/shadow")),
            "{:?}",
            ran.denied
        );
        assert!(
            ran.denied.iter().any(|it| it.contains("/secret")),
            "{:?}",
            ran.denied
        );
    }
}

#[test]
fn what_is_granted_is_there() {
    let (mut policy, _dir) = policy();
    let (readable, writable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(readable.path().join("a"), "read me\n").unwrap();
    policy.read = vec![readable.path().to_owned(), "/no/such/thing".into()];
    policy.write = vec![writable.path().to_owned()];
    let (r, w) = (readable.path().display(), writable.path().display());
    let ran = run(
        &policy,
        &format!("cat {r}/a; echo b > {w}/b && echo done; echo c > {r}/c || echo refused"),
    );
    assert!(
        ran.output.contains("read me\n") && ran.output.contains("done\n") && ran.output.contains("refused"),
        "{}",
        ran.output
    );
    assert!(writable.path().join("b").exists() && !readable.path().join("c").exists());
}

#[test]
fn a_required_layer_that_is_absent_is_a_refusal() {
    let (mut policy, _dir) = policy();
    policy.required = BTreeSet::from([Layer::Landlock]);
    let machine = Machine::probe().without(Layer::Landlock, "this is a test");
    let refused = begin_on(&machine, &policy, "exit 0").map(drop);
    let Err(StartError::Missing { layer, why }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((layer, &*why), (Layer::Landlock, "this is a test"));
}

#[test]
fn each_layer_may_be_absent_and_the_rest_still_holds() {
    for layer in Layer::ALL {
        let (policy, _dir) = policy();
        let machine = Machine::probe().without(layer, "this is a test");
        let (mut jailed, mut output) = match begin_on(&machine, &policy, "echo runs; cat /etc/shadow") {
            Ok(begun) => begun,
            // Only root may do without a user namespace and have the others.
            Err(error) => panic!("without {layer}: {error:?}"),
        };
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("runs\n"), "without {layer}: {text}");
        assert!(!text.contains("root:"), "without {layer}: {text}");
        assert!(!jailed.enclosure().has(layer));
        while jailed.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn nothing_that_it_started_is_left() {
    for mode in [Mode::On, Mode::Off] {
        let (mut policy, dir) = policy();
        policy.mode = mode;
        let deaf = "trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM INT HUP; echo up; while :; do sleep 0.05; date +%N > beat; done' &) ; while :; do sleep 1; done";
        let (jailed, mut output) = begin(&policy, deaf).unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        let beat = dir.path().join("beat");
        while !beat.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(jailed);
        let last = std::fs::read_to_string(&beat).unwrap();
        // All writers of the pipe are gone: every process that had it is.
        output.read_to_string(&mut String::new()).unwrap();
        assert_eq!(
            std::fs::read_to_string(&beat).unwrap(),
            last,
            "{mode:?}: something still runs"
        );
    }
}

#[test]
fn a_user_of_its_own_where_there_is_one() {
    let Some(user) = Machine::probe().own_user(3) else {
        println!("skipped: needs root");
        return;
    };
    let (mut policy, dir) = policy();
    policy.user = User::Own(user);
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let ran = run(
        &policy,
        "id -u; echo x > f && echo wrote; grep -h Cap /proc/self/status; grep -h NoNewPrivs /proc/self/status",
    );
    assert!(
        ran.output.starts_with(&format!("{user}\nwrote\n")),
        "{}",
        ran.output
    );
    assert_eq!(
        ran.output.matches("0000000000000000").count(),
        5,
        "{}",
        ran.output
    );
    assert!(ran.output.contains("NoNewPrivs:\t1"), "{}", ran.output);
}

#[test]
fn what_can_not_be_executed_is_told_and_leaves_nothing() {
    let (policy, dir) = policy();
    let file = dir.path().join("not-a-program");
    std::fs::write(&file, "hm").unwrap();
    let null = File::open("/dev/null").unwrap();
    let program = |path| Program {
        executable: Executable::Path(path),
        arguments: &[],
        environment: &[],
        standard: [null.as_fd(), null.as_fd(), null.as_fd()],
        inherited: &[],
    };
    let failed = start(Machine::probe(), &policy, None, &program(&file)).map(drop);
    assert!(matches!(failed, Err(StartError::Execute(_))), "{failed:?}");
    let missing = start(
        Machine::probe(),
        &policy,
        None,
        &program(Path::new("/no/such/program")),
    )
    .map(drop);
    assert!(missing.is_err(), "{missing:?}");
}

#[test]
fn bounds_on_all_its_processes_together() {
    let layers = Machine::probe().layers();
    let root = Machine::probe().cgroup_root(&format!("mortise-test-{}", std::process::id()));
    if !layers.has(Layer::MemoryCgroup) || !layers.has(Layer::PidsCgroup) {
        println!(
            "skipped: needs cgroups: {}",
            layers.why_not(Layer::MemoryCgroup).unwrap_or_default()
        );
        return;
    }
    let (mut policy, _dir) = policy();
    policy.bounds.memory_bytes_max = Some(32 << 20);
    policy.bounds.tasks_max = 8;
    policy.bounds.cpu_percent = Some(50);
    let null = File::open("/dev/null").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let shell = "head -c 200000000 /dev/zero | tail -c 150000000 > /dev/null; echo status $?; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait";
    let arguments: Vec<OsString> = ["sh", "-c", shell].map(OsString::from).to_vec();
    let environment = [("PATH".into(), "/usr/bin:/bin".into())];
    let program = Program {
        executable: Executable::Path(Path::new("/bin/sh")),
        arguments: &arguments,
        environment: &environment,
        standard: [null.as_fd(), writer.as_fd(), writer.as_fd()],
        inherited: &[],
    };
    let mut jailed = start(Machine::probe(), &policy, Some((&root, "one")), &program).unwrap();
    drop(writer);
    for layer in [Layer::MemoryCgroup, Layer::CpuCgroup, Layer::PidsCgroup] {
        assert!(jailed.enclosure().has(layer), "{layer}");
    }
    let mut text = String::new();
    File::from(OwnedFd::from(reader))
        .read_to_string(&mut text)
        .unwrap();
    let usage = jailed.meter().read();
    assert!(
        usage.out_of_memory_kills.is_some_and(|it| it > 0),
        "{usage:?} {text}"
    );
    assert!(usage.tasks_refused.is_some_and(|it| it > 0), "{usage:?} {text}");
    assert!(usage.cpu_time.is_some_and(|it| it > Duration::ZERO), "{usage:?}");
    jailed.kill();
    while jailed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(jailed);
    let places: Vec<_> = root.places().map(Path::to_owned).collect();
    drop(root);
    assert!(places.iter().all(|it| !it.exists()), "{places:?}");
}

/// What is written down of a host is enough for the next one: the places, whatever is in them.
#[test]
fn what_a_host_left_is_ended_and_removed_with_its_places() {
    let root = Machine::probe().cgroup_root(&format!("mortise-test-left-{}", std::process::id()));
    let places: Vec<_> = root.places().map(Path::to_owned).collect();
    if places.is_empty() {
        println!("skipped: needs cgroups");
        return;
    }
    let (policy, _dir) = policy();
    let null = File::open("/dev/null").unwrap();
    let shell =
        "trap '' TERM INT HUP; (trap '' TERM INT HUP; while :; do sleep 1; done) & while :; do sleep 1; done";
    let arguments: Vec<OsString> = ["sh", "-c", shell].map(OsString::from).to_vec();
    let program = Program {
        executable: Executable::Path(Path::new("/bin/sh")),
        arguments: &arguments,
        environment: &[("PATH".into(), "/usr/bin:/bin".into())],
        standard: [null.as_fd(), null.as_fd(), null.as_fd()],
        inherited: &[],
    };
    let mut jailed = start(Machine::probe(), &policy, Some((&root, "one")), &program).unwrap();
    for place in &places {
        assert!(place.join("one").exists(), "{}", place.display());
        mortise_jail::sweep(place);
        assert!(!place.exists(), "{}", place.display());
    }
    let begun = Instant::now();
    while jailed.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it still runs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A program that spins is held up by the kernel, and that is counted. How much it got is not looked at: that is the kernel's business.
#[test]
fn a_bound_on_processor_time_is_felt_and_counted() {
    let layers = Machine::probe().layers();
    if !layers.has(Layer::CpuCgroup) {
        println!(
            "skipped: needs the layer cpu-cgroup: {}",
            layers.why_not(Layer::CpuCgroup).unwrap_or_default()
        );
        return;
    }
    let root = Machine::probe().cgroup_root(&format!("mortise-test-cpu-{}", std::process::id()));
    let null = File::open("/dev/null").unwrap();
    let arguments: Vec<OsString> = ["sh", "-c", "while :; do :; done"].map(OsString::from).to_vec();
    let begin = |name: &str, cpu_percent| {
        let (mut policy, dir) = policy();
        policy.bounds.cpu_percent = cpu_percent;
        let program = Program {
            executable: Executable::Path(Path::new("/bin/sh")),
            arguments: &arguments,
            environment: &[],
            standard: [null.as_fd(), null.as_fd(), null.as_fd()],
            inherited: &[],
        };
        (
            start(Machine::probe(), &policy, Some((&root, name)), &program).unwrap(),
            dir,
        )
    };
    let (bounded, _bounded_dir) = begin("bounded", Some(5));
    let (free, _free_dir) = begin("free", None);
    let presence = |jailed: &Jailed| {
        jailed
            .enclosure()
            .iter()
            .find(|it| it.0 == Layer::CpuCgroup)
            .unwrap()
            .1
            .clone()
    };
    assert!(
        presence(&bounded).detail().contains("5 % of one core"),
        "{:?}",
        presence(&bounded)
    );
    assert!(!presence(&free).is_present());
    let spent = |jailed: &Jailed| jailed.meter().read().cpu_time.unwrap_or_default();
    let begun = Instant::now();
    // Both run: the one is held up again and again, the other never.
    while bounded.meter().read().throttled_periods.unwrap_or_default() < 3 || spent(&free).is_zero() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{:?}",
            bounded.meter().read()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let (bounded, free) = (bounded.meter().read(), free.meter().read());
    assert!(
        bounded.throttled_time.is_some_and(|it| !it.is_zero()),
        "{bounded:?}"
    );
    assert_eq!(free.throttled_periods, Some(0), "{free:?}");
}

#[test]
fn time_and_memory_of_the_launcher() {
    let (policy, _dir) = policy();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let (jailed, mut output) = begin(&policy, "echo x; read a").unwrap();
        output.read_exact(&mut [0; 2]).unwrap();
        best = best.min(begun.elapsed());
        drop(jailed);
    }
    let mut plain = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", "echo x"])
            .output()
            .unwrap();
        assert_eq!(child.stdout, b"x\n");
        plain = plain.min(begun.elapsed());
    }
    let (jailed, mut output) = begin(&policy, "echo x; sleep 60").unwrap();
    output.read_exact(&mut [0; 2]).unwrap();
    let status = std::fs::read_to_string(format!(
        "/proc/{}/status",
        jailed.init().unwrap().as_raw_nonzero()
    ))
    .unwrap();
    let line = |name: &str| status.lines().find(|it| it.starts_with(name)).unwrap().to_owned();
    println!(
        "a shell in the jail: {best:?}; without: {plain:?}; {}; {}",
        line("VmRSS"),
        line("RssAnon")
    );
    let anon: u64 = line("RssAnon")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(anon < 1024, "the launcher keeps {anon} KiB of its own");
}

/// So that the test's list of layers and the crate's can't come apart.
#[test]
fn an_enclosure_has_a_word_about_every_layer() {
    let whole = Enclosure::new(|_| Presence::Absent("why".into()));
    assert_eq!(whole.iter().count(), Layer::ALL.len());
    for layer in Layer::ALL {
        assert_eq!(Layer::parse(layer.as_str()), Some(layer));
    }
}

/// Runs `path` as the program.
fn run_at(policy: &Policy, path: &Path, arguments: &[&str]) -> Result<String, StartError> {
    let null = File::open("/dev/null").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let program = Program {
        executable: Executable::Path(path),
        arguments: &arguments,
        environment: &[("PATH".into(), "/usr/bin:/bin".into())],
        standard: [null.as_fd(), writer.as_fd(), writer.as_fd()],
        inherited: &[],
    };
    let mut jailed = start(Machine::probe(), policy, None, &program)?;
    drop(writer);
    let mut text = String::new();
    File::from(OwnedFd::from(reader))
        .read_to_string(&mut text)
        .unwrap();
    while jailed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(text)
}

#[test]
fn a_program_is_found_by_every_way_that_leads_to_it() {
    let (mut policy, _dir) = policy();
    let place = tempfile::tempdir().unwrap();
    let real = place.path().join("real");
    std::fs::create_dir_all(real.join("inner")).unwrap();
    std::fs::create_dir(place.path().join("other")).unwrap();
    std::fs::copy("/bin/sh", real.join("shell")).unwrap();
    std::os::unix::fs::symlink(&real, place.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../real/shell", place.path().join("other/shell")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", place.path().join("system")).unwrap();
    let ways = [
        "real/shell",
        "link/shell",
        "link/inner/../shell",
        "other/../real/shell",
        "other/shell",
        "system",
    ];
    // The folder above it is granted too, with the links in it.
    for granted in [vec![], vec![place.path().to_owned()]] {
        policy.read = granted;
        for way in ways {
            let ran = run_at(
                &policy,
                &place.path().join(way),
                &["called so", "-c", "echo $0 runs"],
            );
            assert_eq!(ran.unwrap(), "called so runs\n", "{way} {:?}", policy.read);
        }
    }
}

#[test]
fn a_grant_through_a_link_is_shown_where_it_was_granted() {
    let (mut policy, _dir) = policy();
    let place = tempfile::tempdir().unwrap();
    for (name, text) in [("real/a", "a\n"), ("above/b", "b\n")] {
        let file = place.path().join(name);
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    std::os::unix::fs::symlink("../real", place.path().join("above/link")).unwrap();
    let at = |name: &str| place.path().join(name);
    let shell = format!(
        "cat {}/link/a {}/b {}/other/../a",
        at("above").display(),
        at("above").display(),
        at("real").display()
    );
    std::fs::create_dir(at("real/other")).unwrap();
    policy.read = vec![
        at("above"),
        at("above/link/a"),
        at("real/other/../a"),
        at("real/other"),
    ];
    assert_eq!(run(&policy, &shell).output, "a\nb\na\n");
}

#[test]
fn a_link_that_the_program_made_gives_it_nothing() {
    let (mut policy, dir) = policy();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "42").unwrap();
    let shared = tempfile::tempdir().unwrap();
    // As an earlier run of the program may have left them, in what it may write to.
    for (link, in_it) in [(shared.path(), "sub"), (dir.path(), "own")] {
        std::os::unix::fs::symlink(outside.path(), link.join(in_it)).unwrap();
    }
    // A granted link of the operator's that leads to one of them.
    let operators = tempfile::tempdir().unwrap();
    let by_link = operators.path().join("link");
    std::os::unix::fs::symlink(shared.path().join("sub"), &by_link).unwrap();
    let own = dir.path().join("own");
    let sub = shared.path().join("sub");
    policy.write = vec![shared.path().to_owned()];
    policy.read = vec![sub.clone(), sub.join("secret"), own.clone(), by_link.clone()];
    let shell = [&sub, &own, &by_link]
        .map(|it| format!("cat {}/secret;", it.display()))
        .concat();
    // With mounts of its own, and by Landlock alone.
    let probed = Machine::probe();
    for machine in [
        probed.clone(),
        probed.without(Layer::MountNamespace, "this is a test"),
    ] {
        let (_jailed, mut output) = begin_on(&machine, &policy, &format!("{shell} echo done")).unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert!(text.contains("done\n") && !text.contains("42"), "{text}");
    }
    let refused = run_at(&policy, &sub.join("secret"), &["x"]);
    assert!(
        refused
            .as_ref()
            .is_err_and(|it| format!("{it:?}").contains("the program may have made it")),
        "{refused:?}"
    );
}
