//! Plugins as WebAssembly components or core modules, on wasmtime.
