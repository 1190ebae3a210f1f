//! A plugin made with Mortise's SDK also serves unmodified go-plugin hosts.
//!
//! One line in the plugin's `src/main.rs` instead of `mortise_sdk::main!`:
//! ```ignore
//! mortise_sdk_go_plugin::main!(greeter, cookie = "GREETER_PLUGIN=hello", versions = [1]);
//! ```
//! The same executable then speaks two dialects, and its environment says which. With `MORTISE_LANE_FD` it was started by a Mortise host and speaks
//! the lane; with the cookie it was started by a go-plugin host, prints the handshake line and serves gRPC; with neither it tells a person that it is a plugin.
//!
//! A go-plugin host finds the contract's services under their own names, streaming methods included, health, the controller, standard output, reflection, and
//! `mortise.goplugin.v1.PluginService/Invoke` for any method by its name; plain, with AutoMTLS and multiplexed, as the host asks.
//!
//! # What is different under a go-plugin host
//! | | there |
//! |---|---|
//! | `cx.call`, `cx.kv()`, `cx.http()` | `Unavailable`: such a host offers nothing |
//! | `cx.config()` | the JSON text in [`CONFIG`], or an empty object |
//! | log lines | hclog JSON on standard error |
//! | `println!` | goes to the host through the protocol |
//! | deadline, headers, cancellation | the host's own |
//! | a panic | is logged, and the process ends with code 101 |
//!
//! # gRPC under a Mortise host
//! Such an executable also offers the lanes `call-stream` and `grpc` to a Mortise host, which then speaks HTTP/2 with it on the socket that it was started with:
//! one stream for all frames, or one per call (`runtime.process.lane` chooses). Nothing is missing there: the host's services, log lines, streams,
//! deadlines and cancellation are as over the other lanes. A plugin that wants only that writes `mortise_sdk_go_plugin::main!(greeter);`.
//!
//! This is a crate of its own so that the SDK itself stays free of executors and sockets: a plugin that does not need it does not pay for it.
#![forbid(unsafe_code)]

#[cfg(unix)]
mod call;
#[cfg(unix)]
mod lane;
#[cfg(unix)]
mod log;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod stream;

#[cfg(unix)]
pub use lane::OnlyGrpc;
#[cfg(unix)]
pub use mortise_goplugin::plugin::Orphan;
#[cfg(unix)]
pub use serve::{CONFIG, GoPlugin};

/// The `main` of an executable that speaks both dialects; see the crate.
///
/// `main!(path::of::plugin)` is one that no go-plugin host starts.
/// `main!(path::of::plugin, cookie = "KEY=value", versions = [1, 2])` with the path of the module in which `#[plugin]` stands.
#[macro_export]
macro_rules! main {
    ($($plugin:ident)::+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $($plugin)::+::__mortise_main_with($crate::OnlyGrpc)
        }
    };
    ($($plugin:ident)::+, cookie = $cookie:literal, versions = [$($version:literal),+ $(,)?] $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $($plugin)::+::__mortise_main_with($crate::GoPlugin::new($cookie, &[$($version),+]))
        }
    };
}
