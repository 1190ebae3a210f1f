use object::{
    Architecture, BinaryFormat, Endianness, SectionKind,
    write::{Object, StandardSegment},
};

use super::*;

/// Field 2, five bytes: a well-formed message.
const MESSAGE: &[u8] = b"\x12\x05hello";

fn elf(arch: Architecture, sections: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, arch, Endianness::Little);
    for (name, data) in sections {
        let id = object.add_section(Vec::new(), name.to_vec(), SectionKind::Data);
        object.append_section_data(id, data, 1);
    }
    object.write().unwrap()
}

fn macho() -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::MachO, Architecture::Aarch64, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Data).to_vec();
    let id = object.add_section(segment, b"__mortise".to_vec(), SectionKind::Data);
    object.append_section_data(id, MESSAGE, 1);
    object.write().unwrap()
}

/// The smallest image that Windows would call a DLL: headers and one section whose virtual size is rounded up.
fn pe(machine: u16, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 0x400];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&0x40u32.to_le_bytes());
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x44, &machine.to_le_bytes());
    put(0x46, &1u16.to_le_bytes()); // sections
    put(0x54, &240u16.to_le_bytes()); // size of the optional header
    put(0x56, &0x2022u16.to_le_bytes()); // executable image, large addresses, DLL
    put(0x58, &0x20bu16.to_le_bytes()); // PE32+
    put(0x58 + 32, &0x1000u32.to_le_bytes()); // section alignment
    put(0x58 + 36, &0x200u32.to_le_bytes()); // file alignment
    put(0x58 + 108, &16u32.to_le_bytes()); // data directories
    let header = 0x58 + 240;
    put(header, b".mortise");
    let virtual_size = u32::try_from(data.len().next_multiple_of(16)).unwrap();
    put(header + 8, &virtual_size.to_le_bytes());
    put(header + 12, &0x1000u32.to_le_bytes());
    put(header + 16, &0x200u32.to_le_bytes());
    put(header + 20, &0x200u32.to_le_bytes());
    put(0x200, data);
    file
}

#[test]
fn elf_section_and_target_are_found() {
    let file = elf(
        Architecture::Aarch64,
        &[(b".text", b"code"), (b".mortise", MESSAGE)],
    );
    let section = read(&file).unwrap();
    assert_eq!(section.bytes, MESSAGE);
    assert_eq!(section.target.to_string(), "linux aarch64 (ELF)");
    assert_eq!(section.kind, ImageKind::Unlinked);
}

#[test]
fn pe_section_is_found_without_the_linkers_padding() {
    let file = pe(0x8664, MESSAGE);
    let section = read(&file).unwrap();
    assert_eq!(section.bytes, MESSAGE, "I2");
    assert_eq!(section.target.to_string(), "windows x86_64 (PE)");
    assert_eq!(section.kind, ImageKind::SharedLibrary);
}

#[test]
fn macho_section_is_found() {
    let file = macho();
    let section = read(&file).unwrap();
    assert_eq!(section.bytes, MESSAGE);
    assert_eq!(section.target.to_string(), "macos aarch64 (Mach-O)");
}

#[test]
fn universal_file_yields_an_image() {
    let image = macho();
    let mut file = Vec::new();
    for word in [
        0xcafe_babe_u32,
        1,
        0x0100_000c,
        0,
        4096,
        u32::try_from(image.len()).unwrap(),
        12,
    ] {
        file.extend(word.to_be_bytes());
    }
    file.resize(4096, 0);
    file.extend(&image);
    assert_eq!(read(&file).unwrap().bytes, MESSAGE);
    file.truncate(4096 + 100);
    assert!(matches!(
        read(&file),
        Err(SectionError::Damaged {
            format: Format::MachO,
            ..
        })
    ));
}

#[test]
fn unknown_machine_keeps_its_number() {
    let mut file = elf(Architecture::X86_64, &[(b".mortise", MESSAGE)]);
    file[18..20].copy_from_slice(&0x1234u16.to_le_bytes());
    assert_eq!(
        read(&file).unwrap().target.to_string(),
        "linux machine 0x1234 (ELF)"
    );
}

#[test]
fn two_sections_are_refused() {
    let file = elf(
        Architecture::X86_64,
        &[(b".mortise", MESSAGE), (b".mortise", MESSAGE)],
    );
    let error = read(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the section `.mortise` holds no metadata: there is more than one",
        "I1"
    );
}

#[test]
fn what_is_not_metadata_is_refused() {
    for (data, why) in [
        (&b""[..], "it is empty"),
        (b"\0\0\0\0", "it is empty"),
        (b"\x12\x05hell", "the message ends in the middle of a field"),
        (b"\x12", "the message ends in the middle of a field"),
        (
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            "the message ends in the middle of a field",
        ),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "it does not begin with a protobuf message",
        ),
        (b"\x13", "it does not begin with a protobuf message"),
        (b"\x12\x05hello\0\0more", "something follows the message"),
    ] {
        let file = elf(Architecture::X86_64, &[(b".mortise", data)]);
        let error = read(&file).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("the section `.mortise` holds no metadata: {why}"),
            "{data:x?}"
        );
    }
}

#[test]
fn other_files_are_named() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "is empty"),
        (b"\0asm\x01\0\0\0", "is a WebAssembly file"),
        (b"#!/bin/sh\nexit 0\n", "is a script"),
        (b"!<arch>\n", "is a static library"),
        (b"[plugin]\nname = \"x\"\n", "is a text file"),
        (
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            "begins with the bytes [ff, d8, ff, e0]",
        ),
    ];
    for (bytes, found) in cases {
        let error = read(bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the file is no library or executable: it {found}")
        );
    }
}

#[test]
fn a_library_without_the_section_is_no_plugin() {
    let file = elf(Architecture::X86_64, &[(b".text", b"code")]);
    assert_eq!(
        read(&file).unwrap_err().to_string(),
        "the unlinked object file for linux x86_64 (ELF) has no section `.mortise`, so it is not a plugin"
    );
}

/// Every prefix and every single-byte change of every format: an answer, never a panic, and never bytes from outside the file.
#[test]
fn any_damage_gets_an_answer() {
    let files = [
        elf(
            Architecture::X86_64,
            &[(b".text", b"code"), (b".mortise", MESSAGE)],
        ),
        pe(0x8664, MESSAGE),
        macho(),
    ];
    for file in files {
        for end in 0..file.len() {
            if let Ok(section) = read(&file[..end]) {
                assert_eq!(section.bytes, MESSAGE, "prefix of {end} bytes");
            }
        }
        let mut changed = file.clone();
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                changed[at] = value;
                let _ = read(&changed).map(|it| it.bytes.len());
            }
            changed[at] = file[at];
        }
    }
}
