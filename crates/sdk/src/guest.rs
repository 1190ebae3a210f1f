//! What a plugin is to the adapters: a type with a table of methods.
//!
//! Nobody writes this by hand. `mortise-build` generates a [`Service`] for each service of the contract, as an associated constant of
//! its trait, and `#[mortise_sdk::plugin]` collects those that a type implements into [`Plugin::SERVICES`]. A method's number on every
//! boundary is its index in `Metadata.methods`, which is sorted by service and name; so each service's methods are a run of
//! numbers that begins at [`Service::first`].

use mortise_wire::StreamLink;
use prost::Message;

use crate::{Cx, Result, Status, lifecycle, stream};

pub use crate::lifecycle::Lifecycle;

/// A type that is a plugin. Implemented by `#[mortise_sdk::plugin]`.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// What build.rs knows.
    const BUILD: Build;
    /// The encoded `Metadata`.
    const METADATA: &'static [u8];
    /// The services it implements, in any order.
    const SERVICES: &'static [Service<Self>];
    /// Whether it saves and loads.
    const STATEFUL: bool = false;
    /// Whether it has a veto or wants to be told when it comes and goes.
    const HOOKS: bool = false;
    /// Whether it takes a new configuration while it runs.
    const CONFIGURABLE: bool = false;

    /// Makes the plugin.
    ///
    /// # Errors
    /// The plugin's reason not to start; the host shows it to the operator.
    fn start(cx: &Cx) -> Result<Self>;

    /// How it is. May be asked during calls.
    ///
    /// # Errors
    /// Why it cannot serve.
    fn health(&self) -> Result<()> {
        Ok(())
    }

    /// The last thing that is asked of it, with no call running.
    fn stop(&self) {}

    /// What it would carry on with, encoded.
    ///
    /// # Errors
    /// Why it cannot be saved now.
    fn save_state(&self, cx: &Cx) -> Result<Vec<u8>> {
        let _ = cx;
        Err(lifecycle::no_state::<Self>())
    }

    /// Takes over what another instance saved; with `migrate` it is of a schema that is not the plugin's.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn load_state(&self, cx: &Cx, saved: &lifecycle::Saved, migrate: bool) -> Result<()> {
        let _ = (cx, saved, migrate);
        Err(lifecycle::no_state::<Self>())
    }

    /// Whether it lets itself be replaced now.
    ///
    /// # Errors
    /// Why not.
    fn may_replace(&self, cx: &Cx, successor: &lifecycle::Successor) -> Result<()> {
        let _ = (cx, successor);
        Ok(())
    }

    /// It has its state, and calls follow.
    ///
    /// # Errors
    /// Why it does not want to serve.
    fn post_load(&self, cx: &Cx, origin: lifecycle::Origin) -> Result<()> {
        let _ = (cx, origin);
        Ok(())
    }

    /// Takes a new configuration, all of it or nothing. Calls run meanwhile.
    ///
    /// # Errors
    /// Why it cannot be used at all.
    fn configure(&self, cx: &Cx, new: &lifecycle::NewConfig<'_>) -> Result<lifecycle::Configured> {
        let _ = (cx, new);
        Ok(lifecycle::Configured::NeedsRestart)
    }

    /// It is let go: no call runs, none will follow.
    ///
    /// # Errors
    /// For the host's log; it goes all the same.
    fn pre_unload(&self, cx: &Cx) -> Result<()> {
        let _ = cx;
        Ok(())
    }
}

/// What `mortise-build` writes for `#[mortise_sdk::plugin]`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The plugin's name.
    pub name: &'static str,
    /// The plugin's version.
    pub version: &'static str,
    /// How many methods the manifest's `provides` come to. Those that are the host's alone have the numbers after these.
    pub methods: u32,
    /// Calls worked on at once, from the manifest's limits.
    pub concurrency: u32,
    /// Hash of the contract.
    pub contract_hash: [u8; 32],
    /// What the manifest's `[state]` says.
    pub lifecycle: Lifecycle,
}

/// A service as a plugin of type `P` implements it.
#[derive(Debug)]
pub struct Service<P: 'static> {
    /// `package.Service`
    pub name: &'static str,
    /// Number of its first method; `u32::MAX` if the manifest does not provide it.
    pub first: u32,
    /// Its methods, sorted by name.
    pub methods: &'static [Method<P>],
}

/// A row of a method table.
#[derive(Debug)]
pub struct Method<P> {
    /// `package.Service`
    pub service: &'static str,
    /// Method name.
    pub name: &'static str,
    /// Bits of `mortise_wire::METHOD_*`.
    pub flags: u32,
    /// See `mortise-contract`.
    pub wire_hash: [u8; 32],
    /// Decodes, calls, encodes.
    pub invoke: fn(&P, &Cx, &[u8]) -> Result<Vec<u8>>,
    /// Runs a streaming method over its two directions; returning is the end of the replies. A WebAssembly guest has no streams, so their code
    /// stays out of it.
    #[cfg(not(target_family = "wasm"))]
    pub stream: fn(&P, &Cx, &dyn StreamLink) -> Result<()>,
    #[cfg(not(target_family = "wasm"))]
    pub(crate) native: mortise_abi::MtInvokeFn,
}

/// One method of `P`, as a type: what is generic over it is compiled for that method alone.
pub trait MethodOf<P>: 'static {
    /// `package.Service`
    const SERVICE: &'static str;
    /// Method name.
    const NAME: &'static str;
    /// Bits of `mortise_wire::METHOD_*`.
    const FLAGS: u32;
    /// See `mortise-contract`.
    const WIRE_HASH: [u8; 32];
    /// What it takes.
    type Request: Message + Default;
    /// What it gives.
    type Reply: Message;

    /// Calls it.
    ///
    /// # Errors
    /// The plugin's status.
    fn call(plugin: &P, cx: &Cx, request: Self::Request) -> Result<Self::Reply>;
}

/// One streaming method of `P`, as a type.
pub trait StreamOf<P>: 'static {
    /// `package.Service`
    const SERVICE: &'static str;
    /// Method name.
    const NAME: &'static str;
    /// Bits of `mortise_wire::METHOD_*`.
    const FLAGS: u32;
    /// See `mortise-contract`.
    const WIRE_HASH: [u8; 32];

    /// Runs it.
    ///
    /// # Errors
    /// The plugin's status.
    fn run(plugin: &P, cx: &Cx, link: &dyn StreamLink) -> Result<()>;
}

// === impl Method ===

impl<P: 'static> Method<P> {
    /// The row of the method `M`.
    #[must_use]
    pub const fn of<M: MethodOf<P>>() -> Self {
        Self {
            service: M::SERVICE,
            name: M::NAME,
            flags: M::FLAGS,
            wire_hash: M::WIRE_HASH,
            invoke: |plugin, cx, payload| {
                let request = decode::<P, M>(payload)?;
                Ok(M::call(plugin, cx, request)?.encode_to_vec())
            },
            #[cfg(not(target_family = "wasm"))]
            stream: |_, _, _| Err(stream::not_streaming(M::SERVICE, M::NAME)),
            #[cfg(not(target_family = "wasm"))]
            native: crate::native::invoke::<P, M>,
        }
    }

    /// The row of the streaming method `M`.
    #[must_use]
    pub const fn of_stream<M: StreamOf<P>>() -> Self {
        Self {
            service: M::SERVICE,
            name: M::NAME,
            flags: M::FLAGS,
            wire_hash: M::WIRE_HASH,
            invoke: |_, _, _| Err(stream::not_unary(M::SERVICE, M::NAME)),
            #[cfg(not(target_family = "wasm"))]
            stream: M::run,
            #[cfg(not(target_family = "wasm"))]
            native: crate::native::refuse_stream::<P, M>,
        }
    }
}

/// The request of a call, or the status that every runtime answers a malformed one with.
pub(crate) fn decode<P, M: MethodOf<P>>(payload: &[u8]) -> Result<M::Request> {
    M::Request::decode(payload).map_err(|error| {
        Status::invalid_argument(format_args!(
            "the request of `{}/{}` ({} bytes) does not parse: {error}",
            M::SERVICE,
            M::NAME,
            payload.len()
        ))
    })
}

/// The method with this number on the boundary.
#[must_use]
pub fn method<P: Plugin>(number: u32) -> Option<&'static Method<P>> {
    P::SERVICES
        .iter()
        .find_map(|service| service.methods.get(number.checked_sub(service.first)? as usize))
        .or_else(|| lifecycle::method(number))
}

/// How many methods have a number.
#[cfg(not(target_family = "wasm"))]
pub(crate) const fn numbers<P: Plugin>() -> u32 {
    P::BUILD.methods + P::BUILD.lifecycle.reserved.len()
}

/// The answer to a number outside the table.
pub(crate) fn unknown_method<P: Plugin>(number: u32) -> Status {
    let Build {
        name,
        version,
        methods,
        ..
    } = P::BUILD;
    Status::new(
        crate::Code::Unimplemented,
        format!("plugin `{name}` {version} has {methods} methods, and number {number} was called"),
    )
}

/// Fails the build of a plugin whose `impl`s are not the services that its manifest provides. Used in a constant.
///
/// # Panics
/// That is how a constant says no.
pub const fn check_services<P: Plugin>() {
    let services = P::SERVICES;
    let mut methods = 0;
    let mut i = 0;
    while i < services.len() {
        assert!(
            services[i].first != u32::MAX || services[i].methods.is_empty(),
            "a service that this plugin implements is not in `provides` of plugin.toml; add it there, or take it out of #[plugin]"
        );
        methods += services[i].methods.len();
        let mut j = i + 1;
        while j < services.len() {
            assert!(
                services[i].first != services[j].first,
                "#[plugin] names the same service twice"
            );
            j += 1;
        }
        i += 1;
    }
    let state = !P::BUILD.lifecycle.schema.is_empty();
    assert!(
        P::STATEFUL || !state,
        "plugin.toml has a `schema` in `[state]`; implement `mortise_sdk::Stateful`, and say so with #[plugin(stateful)]"
    );
    assert!(
        state || !P::STATEFUL,
        "#[plugin(stateful)] needs `[state]` with a `schema` in plugin.toml"
    );
    assert!(
        P::CONFIGURABLE
            == P::BUILD
                .lifecycle
                .reserved
                .contains(mortise_wire::lifecycle::Reserved::Configure),
        "#[plugin(configure = ..)] and `hot = true` in `[config]` of plugin.toml go together; add the one, or take the other away"
    );
    assert!(
        !P::HOOKS
            || P::BUILD
                .lifecycle
                .reserved
                .contains(mortise_wire::lifecycle::Reserved::MayReplace),
        "#[plugin] with `veto`, `post_load` or `pre_unload` needs `[state]` in plugin.toml: a `schema`, or `hooks = true`"
    );
    assert!(
        methods == P::BUILD.methods as usize,
        "plugin.toml provides a service that this plugin does not implement; name its trait in #[plugin(also(..))]"
    );
}

#[cfg(test)]
mod tests;
