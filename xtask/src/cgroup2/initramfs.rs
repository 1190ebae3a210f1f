//! The first file tree of a virtual machine: a cpio archive in the format `newc`, which the kernel unpacks, with programs of this machine and the
//! libraries they are linked with.
//!
//! An entry is a head of 13 numbers in hexadecimal, a name that ends in a zero byte, and data; name and data are filled up to a multiple of four.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;
/// Where programs and libraries are, and where they are looked for.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// An archive that is being written. Directories above an entry come by themselves; an entry that is there already is left as it is.
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// One with `/bin`, `/lib` and so on as links into `/usr`, and what a kernel needs to start the first program.
    pub(crate) fn new() -> Self {
        let mut new = Self {
            bytes: Vec::new(),
            names: BTreeSet::new(),
        };
        for name in MERGED {
            new.entry(
                Path::new(name),
                LINK | 0o777,
                Path::new("usr").join(name).as_os_str().as_encoded_bytes(),
                (0, 0),
            );
        }
        new.entry(Path::new("dev/console"), CHARACTERS | 0o600, &[], (5, 1));
        new.entry(Path::new("dev/null"), CHARACTERS | 0o666, &[], (1, 3));
        new
    }

    pub(crate) fn directory(&mut self, path: &Path) {
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0));
    }

    pub(crate) fn file(&mut self, path: &Path, mode: u32, data: &[u8]) {
        self.entry(path, FILE | mode, data, (0, 0));
    }

    /// Adds `program`, a file of this machine, at `path`, and its libraries where it looks for them.
    pub(crate) fn program(&mut self, program: &Path, path: &Path) -> Result<()> {
        let data = fs::read(program).with_context(|| format!("cannot read `{}`", program.display()))?;
        self.file(path, 0o755, &data);
        // It fails for what is linked with nothing, which is as well.
        let linked = Command::new("ldd")
            .arg(program)
            .output()
            .context("cannot run `ldd`")?;
        for line in String::from_utf8_lossy(&linked.stdout).lines() {
            if line.contains("not found") {
                bail!("`{}`: {}", program.display(), line.trim());
            }
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                let data = fs::read(library).with_context(|| format!("cannot read `{library}`"))?;
                self.file(Path::new(library), 0o755, &data);
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.write("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8], device: (u32, u32)) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let is_merged = MERGED.iter().any(|it| path.starts_with(it)) && path.components().count() > 1;
        let path = if is_merged {
            Path::new("usr").join(path)
        } else {
            path.to_owned()
        };
        if path.as_os_str().is_empty() || self.names.contains(&path) {
            return;
        }
        if let Some(above) = path.parent() {
            self.directory(above);
        }
        self.write(&path.to_string_lossy(), mode, data, device);
        self.names.insert(path);
    }

    fn write(&mut self, name: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) {
        // A file of more than 4 GiB has no place in memory either.
        let length = |it: usize| u32::try_from(it).expect("an entry is shorter than 4 GiB");
        let number = length(self.names.len() + 1);
        let links = 1 + u32::from(mode & DIRECTORY != 0);
        let (size, name_size) = (length(data.len()), length(name.len() + 1));
        self.bytes.extend(b"070701");
        for field in [
            number, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ] {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.fill_up();
        self.bytes.extend(data);
        self.fill_up();
    }

    fn fill_up(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and data of every entry.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !archive.is_empty() {
            let (head, rest) = archive.split_at(110);
            assert_eq!(&head[..6], b"070701");
            let field = |nth: usize| {
                let text = std::str::from_utf8(&head[6 + nth * 8..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&rest[..name_size - 1]).unwrap().to_owned();
            let data = &rest[(110 + name_size).next_multiple_of(4) - 110..];
            entries.push((name, field(1), data[..size].to_vec()));
            archive = &data[size.next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_come_after_the_directories_they_are_in_and_once() {
        let mut archive = Initramfs::new();
        archive.file(Path::new("/lib/a/b.so"), 0o755, b"12345");
        archive.file(Path::new("/usr/lib/a/b.so"), 0o644, b"the same place");
        archive.file(Path::new("/init"), 0o700, b"");
        let entries = read(&archive.finish());
        let names: Vec<&str> = entries.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(
            names[4..],
            [
                "dev",
                "dev/console",
                "dev/null",
                "usr",
                "usr/lib",
                "usr/lib/a",
                "usr/lib/a/b.so",
                "init",
                "TRAILER!!!"
            ]
        );
        assert_eq!(entries[0], ("bin".to_owned(), 0o120_777, b"usr/bin".to_vec()));
        assert_eq!(
            entries[10],
            ("usr/lib/a/b.so".to_owned(), 0o100_755, b"12345".to_vec())
        );
    }

    #[test]
    fn a_program_comes_with_its_libraries() {
        let mut archive = Initramfs::new();
        archive
            .program(Path::new("/bin/sh"), Path::new("/bin/sh"))
            .unwrap();
        let entries = read(&archive.finish());
        let sh = entries.iter().find(|it| it.0 == "usr/bin/sh").unwrap();
        assert_eq!(sh.2, fs::read("/bin/sh").unwrap());
        assert!(
            entries.iter().any(|it| it.0.contains("libc.so")),
            "a shell of this system is linked with libc"
        );
    }
}
