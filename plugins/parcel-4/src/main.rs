//! The plugin as an executable, for the runtime `process`.

mortise_sdk::main!(parcel_4::plugin);
