//! A real directory, and everything that people and programs do to one.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod world;

use std::{fs, os::unix::fs::symlink, path::Path, thread, time::Duration};

use mortise_watch::Change;
use world::{Mode, QUIET, World, write_package};

/// Runs a case with the system's word and without.
fn in_both_modes(case: impl Fn(&World)) {
    for mode in [Mode::Listen, Mode::Poll] {
        case(&World::new(mode));
    }
}

#[test]
fn a_folder_that_is_moved_in_is_told_and_one_that_is_there_is_told_at_once() {
    in_both_modes(|world| {
        let staged = world.outside().join("staged");
        write_package(&staged, "one");
        fs::rename(staged, world.directory().join("a")).unwrap();
        world.settles("a", "one");
    });
    let world = World::before(Mode::Listen, |directory| {
        write_package(&directory.join("a"), "one");
        thread::sleep(QUIET * 2);
    });
    assert!(
        matches!(world.first(), [Change::Settled(it)] if it.name == "a"),
        "{:?}",
        world.first()
    );
}

#[test]
fn a_slow_copy_is_told_when_it_is_whole() {
    in_both_modes(|world| {
        for attempt in 0..20 {
            let name = format!("slow-{attempt}");
            if world.copies_slowly(&name) {
                world.settles(&name, "begin 0 1 2 3 4 5 6 7 8 9 end");
                return;
            }
        }
        panic!("this machine pauses for longer than the quiet time, twenty times in a row");
    });
}

#[test]
fn editors_write_in_place_and_rename_over() {
    in_both_modes(|world| {
        let folder = world.directory().join("a");
        write_package(&folder, "one");
        world.settles("a", "one");
        fs::write(folder.join("file"), "two, in place").unwrap();
        world.settles("a", "two, in place");
        fs::write(folder.join(".file.swp"), "three, over").unwrap();
        fs::rename(folder.join(".file.swp"), folder.join("file")).unwrap();
        world.settles("a", "three, over");
        // Of the same length, with the old times: only its identity tells.
        let old = fs::metadata(folder.join("file")).unwrap().modified().unwrap();
        fs::write(folder.join("file~"), "three, same").unwrap();
        fs::File::options()
            .write(true)
            .open(folder.join("file~"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        fs::rename(folder.join("file~"), folder.join("file")).unwrap();
        world.settles("a", "three, same");
    });
}

#[test]
fn a_link_that_is_pointed_elsewhere_is_another_folder() {
    in_both_modes(|world| {
        let releases = world.outside().join("releases");
        for version in ["v1", "v2", "v3"] {
            write_package(&releases.join(version), version);
        }
        let flip = |link: &Path, target: &Path| {
            let new = link.with_extension("new");
            symlink(target, &new).unwrap();
            fs::rename(new, link).unwrap();
        };
        // Over two links, of which only the outer one stands in the directory.
        flip(&releases.join("current"), &releases.join("v1"));
        flip(&world.directory().join("a"), &releases.join("current"));
        world.settles("a", "v1");
        flip(&releases.join("current"), Path::new("v2"));
        world.settles("a", "v2");
        flip(&world.directory().join("a"), &releases.join("v3"));
        world.settles("a", "v3");
        // What it leads to now is listened to, and what it led to is not.
        fs::write(releases.join("v3/file"), "v3.1").unwrap();
        world.settles("a", "v3.1");
    });
}

/// As the kubelet writes a volume: everything that people see is a link into `..data`, which is a link, too.
#[test]
fn a_kubernetes_volume() {
    in_both_modes(|world| {
        let volume = world.directory().join("a");
        let publish = |version: &str| {
            let data = format!("..2026_{version}");
            write_package(&volume.join(&data), version);
            symlink(&data, volume.join("..data_tmp")).unwrap();
            fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        };
        publish("1");
        for file in ["plugin.toml", "file"] {
            symlink(Path::new("..data").join(file), volume.join(file)).unwrap();
        }
        world.settles("a", "1");
        publish("2");
        fs::remove_dir_all(volume.join("..2026_1")).unwrap();
        world.settles("a", "2");
    });
}

#[test]
fn removed_renamed_and_replaced() {
    in_both_modes(|world| {
        let at = |name: &str| world.directory().join(name);
        write_package(&at("a"), "one");
        write_package(&at("b"), "two");
        world.settles("a", "one");
        world.settles("b", "two");
        fs::remove_dir_all(at("a")).unwrap();
        world.goes("a");
        fs::rename(at("b"), at("c")).unwrap();
        world.settles("c", "two");
        world.goes("b");
        // Exchanged at once: no removal. The folder is another one under a name that was listened to.
        write_package(&world.outside().join("c"), "three");
        fs::rename(at("c"), world.outside().join("old")).unwrap();
        fs::rename(world.outside().join("c"), at("c")).unwrap();
        world.settles("c", "three");
        fs::write(at("c").join("file"), "four").unwrap();
        world.settles("c", "four");
        assert!(!world.has_gone("c"));
        // Without its manifest it is a folder like any other.
        fs::remove_file(at("c").join("plugin.toml")).unwrap();
        world.goes("c");
    });
}

#[test]
fn what_is_being_prepared_is_not_looked_at() {
    in_both_modes(|world| {
        write_package(&world.directory().join(".staged"), "hidden");
        fs::create_dir(world.directory().join("no-package")).unwrap();
        fs::write(world.directory().join("plugin.toml"), "a file").unwrap();
        write_package(&world.directory().join("b"), "seen");
        world.settles("b", "seen");
        fs::rename(world.directory().join(".staged"), world.directory().join("a")).unwrap();
        world.settles("a", "hidden");
        assert_eq!(world.told(), ["b", "a"]);
    });
}

#[test]
fn what_the_disk_does_not_tell_is_not_gone() {
    in_both_modes(|world| {
        write_package(&world.outside().join("real"), "one");
        let link = world.directory().join("a");
        symlink(world.outside().join("real"), &link).unwrap();
        world.settles("a", "one");
        // A link that leads to itself is an error that even root gets, and that says nothing about what was there.
        let looped = world.directory().join(".looped");
        symlink(&link, &looped).unwrap();
        fs::rename(&looped, &link).unwrap();
        write_package(&world.directory().join("b"), "two");
        world.settles("b", "two");
        thread::sleep(QUIET * 3);
        write_package(&world.directory().join("c"), "three");
        world.settles("c", "three");
        assert!(!world.has_gone("a"));
        fs::remove_file(&link).unwrap();
        world.goes("a");
    });
}

#[test]
fn a_directory_may_come_later_and_go_for_a_while() {
    in_both_modes(|world| {
        let away = world.outside().join("away");
        write_package(&world.directory().join("a"), "one");
        world.settles("a", "one");
        fs::rename(world.directory(), &away).unwrap();
        thread::sleep(QUIET * 3);
        write_package(&away.join("b"), "two");
        fs::rename(&away, world.directory()).unwrap();
        world.settles("b", "two");
        assert!(
            !world.has_gone("a"),
            "a directory that is away says nothing about what is in it"
        );
    });
}

#[test]
fn fifty_at_once() {
    in_both_modes(|world| {
        for number in 0..50 {
            write_package(&world.outside().join(format!("p{number}")), &number.to_string());
        }
        for number in 0..50 {
            let name = format!("p{number}");
            fs::rename(world.outside().join(&name), world.directory().join(&name)).unwrap();
        }
        for number in 0..50 {
            world.settles(&format!("p{number}"), &number.to_string());
        }
    });
}

#[test]
fn whoever_reads_a_folder_can_ask_whether_it_was_the_one_that_was_told() {
    let world = World::new(Mode::Listen);
    write_package(&world.directory().join("a"), "one");
    let settled = world.settles("a", "one");
    assert!(settled.is_unchanged());
    // As long as the one before.
    fs::write(world.directory().join("a/file"), "two").unwrap();
    assert!(!settled.is_unchanged());
    let again = world.settles("a", "two");
    fs::remove_dir_all(world.directory().join("a")).unwrap();
    assert!(!again.is_unchanged());
    thread::sleep(Duration::from_millis(1));
}
