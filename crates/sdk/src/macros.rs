//! The macros that put the pieces of a plugin together. Their unsafe tokens are this crate's, not the plugin's.

/// Includes what `mortise-build` generated from the contract, as module `contract`.
///
/// `contract!()` takes it from build.rs; `contract!("src/generated")` from a folder of the crate, for those who commit generated code and
/// have no build.rs (then also `#[plugin(generated = "src/generated")]`).
#[macro_export]
macro_rules! contract {
    ($($generated:literal)?) => {
        /// Messages, traits and clients of the contract.
        #[allow(
            missing_docs,
            missing_debug_implementations,
            unreachable_pub,
            unused_qualifications,
            dead_code,
            clippy::all,
            clippy::pedantic,
            reason = "generated"
        )]
        pub mod contract {
            ::core::include!($crate::__generated!($($generated,)? "mortise.rs"));
        }
    };
}

/// The `main` of a plugin's executable: `mortise_sdk::main!(my_plugin);` with the path of the module in which `#[plugin]` stands,
/// usually the crate itself.
#[macro_export]
macro_rules! main {
    ($($plugin:ident)::+) => {
        fn main() -> ::std::process::ExitCode {
            $($plugin)::+::__mortise_main()
        }
    };
}

/// The plugin as a value, for a host that has it linked in (with this crate's feature `linked`): `mortise_sdk::linked!(my_plugin)` with the path of the module in which
/// `#[plugin]` stands.
#[macro_export]
macro_rules! linked {
    ($($plugin:ident)::+) => {
        $($plugin)::+::__mortise_linked()
    };
}

/// The symbol of the native ABI. With feature `linked` there is none: a program that has several plugins linked in would have it
/// several times, and nobody opens that program as a library.
#[doc(hidden)]
#[macro_export]
#[cfg(not(feature = "linked"))]
macro_rules! __native_entry {
    ($plugin:ty) => {
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "the name is the ABI's")]
        pub static mortise_entry_v1: $crate::native::Entry =
            $crate::native::Entry::new::<$plugin>(&__mortise::METADATA);
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(feature = "linked")]
macro_rules! __native_entry {
    ($plugin:ty) => {};
}

/// The symbols by which hosts know a plugin. Used by `#[plugin]`.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty $(, $generated:literal)?) => {
        #[doc(hidden)]
        pub mod __mortise {
            /// The encoded metadata, in the section where hosts look for it.
            // In WebAssembly the section is all there is; `used` would keep a second copy in memory.
            #[cfg_attr(not(target_family = "wasm"), used)]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mortise"))]
            #[cfg_attr(target_family = "wasm", unsafe(link_section = "mortise"))]
            #[cfg_attr(
                not(any(target_vendor = "apple", target_family = "wasm")),
                unsafe(link_section = ".mortise")
            )]
            pub static METADATA: [u8; $crate::__metadata!($($generated)?).len()] =
                *$crate::__metadata!($($generated)?);
        }

        const _: () = $crate::guest::check_services::<$plugin>();

        const _: () = {
            #[cfg(not(target_family = "wasm"))]
            $crate::__native_entry!($plugin);

            #[cfg(target_family = "wasm")]
            static GUEST: $crate::wasm::Guest<$plugin> = $crate::wasm::Guest::new();

            #[cfg(target_family = "wasm")]
            #[unsafe(export_name = "mortise:plugin/guest@1.0.0#start")]
            unsafe extern "C" fn start(ptr: *mut u8, len: usize) -> *const u8 {
                // SAFETY: the host enters by the canonical ABI, one call at a time, with blocks that `cabi_realloc` gave.
                unsafe { GUEST.start(ptr, len) }
            }

            #[cfg(target_family = "wasm")]
            #[unsafe(export_name = "mortise:plugin/guest@1.0.0#invoke")]
            unsafe extern "C" fn invoke(
                method: u32,
                head: *mut u8,
                head_len: usize,
                payload: *mut u8,
                payload_len: usize,
            ) -> *const u8 {
                // SAFETY: the host enters by the canonical ABI, one call at a time, with blocks that `cabi_realloc` gave.
                unsafe { GUEST.invoke(method, head, head_len, payload, payload_len) }
            }

            #[cfg(target_family = "wasm")]
            #[unsafe(export_name = "mortise:plugin/guest@1.0.0#health")]
            unsafe extern "C" fn health() -> *const u8 {
                // SAFETY: the host enters one call at a time.
                unsafe { GUEST.health() }
            }

            #[cfg(target_family = "wasm")]
            #[unsafe(export_name = "mortise:plugin/guest@1.0.0#stop")]
            unsafe extern "C" fn stop() {
                // SAFETY: the host enters one call at a time.
                unsafe { GUEST.stop() }
            }

            #[cfg(target_family = "wasm")]
            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn realloc(old: *mut u8, old_len: usize, align: usize, len: usize) -> *mut u8 {
                // SAFETY: the canonical ABI passes null, or a block of this very function with its size and alignment.
                unsafe { $crate::wasm::realloc(old, old_len, align, len) }
            }
        };

        /// What `mortise_sdk::main!` calls.
        #[doc(hidden)]
        #[cfg(not(target_family = "wasm"))]
        pub fn __mortise_main() -> ::std::process::ExitCode {
            $crate::process::main::<$plugin>(&__mortise::METADATA)
        }

        /// What the `main!` of a crate with a further dialect calls.
        #[doc(hidden)]
        #[cfg(not(target_family = "wasm"))]
        pub fn __mortise_main_with(other: impl $crate::process::Dialect) -> ::std::process::ExitCode {
            $crate::process::main_with::<$plugin>(&__mortise::METADATA, other)
        }

        /// What `mortise_sdk::linked!` gives.
        #[doc(hidden)]
        #[cfg(not(target_family = "wasm"))]
        pub fn __mortise_linked() -> $crate::linked::LinkedPlugin {
            $crate::linked::plugin::<$plugin>()
        }
    };
}

/// The encoded metadata. Used by `#[plugin]`.
#[doc(hidden)]
#[macro_export]
macro_rules! __metadata {
    ($($generated:literal)?) => {
        ::core::include_bytes!($crate::__generated!($($generated,)? "mortise.meta"))
    };
}

/// What mortise-build knows. Used by `#[plugin]`.
#[doc(hidden)]
#[macro_export]
macro_rules! __build {
    ($($generated:literal)?) => {
        ::core::include!($crate::__generated!($($generated,)? "mortise_metadata.rs"))
    };
}

/// Path of a generated file.
#[doc(hidden)]
#[macro_export]
macro_rules! __generated {
    ($file:literal) => {
        ::core::concat!(
            ::core::env!(
                "OUT_DIR",
                "there is no build.rs; write one with `fn main() { mortise_build::plugin(); }`"
            ),
            "/",
            $file
        )
    };
    ($generated:literal, $file:literal) => {
        ::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), "/", $generated, "/", $file)
    };
}
