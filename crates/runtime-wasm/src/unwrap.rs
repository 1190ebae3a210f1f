//! The core module inside a component that is nothing but that module in its wrapper.
//!
//! `mortise build` makes a component out of one core module by putting the same few hundred bytes around it: a type of each function, two
//! small modules that tie the knot between the host's functions and the guest's memory, and one `lift` or `lower` per function. All of it is
//! the same for every plugin, because the world is fixed. What it *does* is known, too: arguments are copied into memory that the guest
//! allocates, in UTF-8, and nothing is called after a call. So such a component need not go through the component model at all: its module is run
//! directly (`abi/unwrapped.rs`), which saves two thirds of what wasmtime does for a call, and three of four core instances.
//!
//! - U1. Only a wrapper that is known byte for byte is taken off. Everything else is run as the component it is; nobody sees a difference but
//!   in time.
//! - U2. Custom sections are not looked at: no instance sees them.
//! - U3. The module itself may be anything. It is compiled and linked like any other core module, so what it imports and exports is checked then.
//!
//! A new release of `wit-component` may change the wrapper. Then a test here fails and says what the new one's digest is.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// SHA-256 over the wrappers of `wit/plugin.wit` that are taken off, as [`take_apart`] feeds it. Made by wit-component 0.254 for a module that
/// imports both functions of the host and exports all four of the guest, without `cabi_post_*`: what the SDK makes.
const WRAPPERS: [&str; 1] = ["9c4d285b8518b9600f02609ddedf832112e79eb203500adddc4e4ea83e24e14c"];

const HEADER_BYTES: usize = 8;
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;

/// The module in `component`, if its wrapper is known.
pub(crate) fn inner_module(component: &Bytes) -> Option<Bytes> {
    let (wrapper, module) = take_apart(component)?;
    let known = WRAPPERS.contains(&hex(&wrapper).as_str());
    known.then(|| component.slice(module))
}

/// The digest of the wrapper, and where its first core module is. `None` for what is no component or has no module.
fn take_apart(component: &[u8]) -> Option<([u8; 32], Range<usize>)> {
    let mut wrapper = Sha256::new();
    let mut feed = |id: u8, body: &[u8]| {
        wrapper.update([id]);
        wrapper.update((body.len() as u64).to_le_bytes());
        wrapper.update(body);
    };
    let mut module = None;
    let mut at = HEADER_BYTES;
    while at < component.len() {
        let (id, body) = section(component, at)?;
        at = body.end;
        match id {
            CUSTOM => {}
            CORE_MODULE if module.is_none() => {
                feed(id, &[]);
                module = Some(body);
            }
            // The other modules carry the name and version of the tool that made them, in a custom section.
            CORE_MODULE => {
                let nested = &component[body];
                let mut at = HEADER_BYTES;
                while at < nested.len() {
                    let (id, body) = section(nested, at)?;
                    at = body.end;
                    if id != CUSTOM {
                        feed(id, &nested[body]);
                    }
                }
            }
            _ => feed(id, &component[body]),
        }
    }
    Some((wrapper.finalize().into(), module?))
}

/// The section at `at`: its id, and where its body is.
fn section(wasm: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let id = *wasm.get(at)?;
    let mut length = 0_usize;
    for (nth, byte) in wasm.get(at + 1..)?.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f).checked_shl(7 * u32::try_from(nth).ok()?)?;
        if byte & 0x80 == 0 {
            let begin = at + 2 + nth;
            let end = begin.checked_add(length)?;
            return (end <= wasm.len()).then_some((id, begin..end));
        }
    }
    None
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

    use super::*;

    /// What the SDK exports, and what it imports.
    pub(crate) const MODULE: &str = r#"(module
        (import "mortise:plugin/host@1.0.0" "log" (func (param i32 i32)))
        (import "mortise:plugin/host@1.0.0" "call" (func (param i64 i32 i32 i32 i32 i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "mortise:plugin/guest@1.0.0#start") (param i32 i32) (result i32) unreachable)
        (func (export "mortise:plugin/guest@1.0.0#invoke") (param i32 i32 i32 i32 i32) (result i32) unreachable)
        (func (export "mortise:plugin/guest@1.0.0#health") (result i32) unreachable)
        (func (export "mortise:plugin/guest@1.0.0#stop"))
        (;more;))"#;

    /// The component that `mortise build` makes of a module.
    pub(crate) fn wrap(text: &str) -> Bytes {
        let mut core = wat::parse_str(text).expect("it is well formed");
        let mut resolve = wit_parser::Resolve::default();
        let package = resolve
            .push_str("plugin.wit", include_str!("../../../wit/plugin.wit"))
            .expect("the world parses");
        let world = resolve
            .select_world(&[package], Some("plugin"))
            .expect("it has the world");
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)
            .expect("it can be embedded");
        let mut encoder = ComponentEncoder::default()
            .validate(true)
            .module(&core)
            .expect("the module fits the world");
        encoder.encode().expect("the component is valid").into()
    }

    #[test]
    fn the_wrapper_of_the_sdk_is_known() {
        let component = wrap(MODULE);
        let (wrapper, _) = take_apart(&component).expect("it is a component with a module");
        assert_eq!(
            WRAPPERS,
            [hex(&wrapper).as_str()],
            "wit-component makes another wrapper than it used to. If the difference is one of form only, put its digest into WRAPPERS"
        );
        let module = inner_module(&component).expect("it is known");
        assert!(module.starts_with(b"\0asm\x01\0\0\0"));
        wasmparser::validate(&module).expect("it is a module by itself");
    }

    #[test]
    fn another_wrapper_stays_on() {
        let post = r#"(func (export "cabi_post_mortise:plugin/guest@1.0.0#invoke") (param i32))"#;
        let start = r#"(func (export "_initialize"))"#;
        for more in [post, start] {
            let component = wrap(&MODULE.replace("(;more;)", more));
            assert!(take_apart(&component).is_some(), "{more}");
            assert_eq!(inner_module(&component), None, "{more}");
        }
        let without_log = MODULE.replace(
            r#"(import "mortise:plugin/host@1.0.0" "log" (func (param i32 i32)))"#,
            "",
        );
        assert_eq!(inner_module(&wrap(&without_log)), None);
    }

    #[test]
    fn every_byte_of_the_wrapper_counts_and_none_of_it_is_trusted() {
        let component = wrap(MODULE);
        let (_, module) = take_apart(&component).expect("it is a component with a module");
        for at in HEADER_BYTES..component.len() {
            let mut changed = component.to_vec();
            changed[at] ^= 1;
            // Inside the module anything may change, and so it may in custom sections.
            if let Some(found) = inner_module(&changed.into())
                && !module.contains(&at)
            {
                assert_eq!(found, component.slice(module.clone()), "byte {at}");
            }
        }
        for end in 0..component.len() {
            // Cut off anywhere: no panic.
            let _ = inner_module(&component.slice(..end));
        }
        assert_eq!(
            inner_module(&component.slice(module)),
            None,
            "a core module is no component"
        );
    }
}
