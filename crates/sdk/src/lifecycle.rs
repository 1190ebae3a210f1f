//! What a plugin is asked about its own life: what it carries into its successor, whether it may be replaced, and when it comes and goes.
//!
//! # In what order
//! ```text
//!  the old instance                           the new instance
//!  veto(successor)      calls run
//!                                             start
//!  ---- callers wait at the host's gate; the last call has ended ----
//!  save_state
//!                                             load_state, or migrate and load_state
//!                                             post_load
//!  ---- callers go on, to the new instance ----
//!  pre_unload           when the new one has proved itself
//!  stop
//! ```
//! A swap may be given up at any of these points, and then the old instance serves on; so `save_state` changes nothing. An unload asks for
//! `save_state`, `pre_unload` and `stop`; a load without a predecessor brings `load_state` what was saved last, and `post_load`.
//!
//! All of it has to be quick: callers wait for `limits.swap_ms`, 100 ms unless told otherwise, and then the swap is given up.
//!
//! # A whole counter
//! ```toml
//! [state]
//! schema = "acme.v1.CounterState"
//! ```
//! ```ignore
//! #[derive(Default)]
//! struct Tally { count: AtomicU64 }
//!
//! #[mortise_sdk::plugin(stateful)]
//! impl Counter for Tally {
//!     fn add(&self, _: &Cx, request: AddRequest) -> Result<AddReply> {
//!         Ok(AddReply { count: self.count.fetch_add(request.by, Ordering::Relaxed) + request.by })
//!     }
//! }
//!
//! impl Stateful for Tally {
//!     type State = CounterState;
//!     fn save_state(&self, _: &Cx) -> Result<CounterState> {
//!         Ok(CounterState { count: self.count.load(Ordering::Relaxed) })
//!     }
//!     fn load_state(&self, _: &Cx, state: CounterState) -> Result<()> {
//!         self.count.store(state.count, Ordering::Relaxed);
//!         Ok(())
//!     }
//! }
//! ```
//! A WebAssembly plugin with state has one guest, which works on one call at a time; without state it has as many as it needs.
//!
//! # A new configuration without a new instance
//! ```toml
//! [config]
//! message = "acme.v1.CounterConfig"   # what the operator's configuration has to look like
//! hot = true
//! ```
//! ```ignore
//! #[mortise_sdk::plugin(configure = Self::configure)]
//! impl Counter for Tally { .. }
//!
//! impl Tally {
//!     fn configure(&self, _: &Cx, new: &NewConfig<'_>) -> Result<Configured> {
//!         let new: Settings = new.parse()?;          // an error refuses it, and the plugin goes on as it was
//!         if new.table != self.table { return Ok(Configured::NeedsRestart); }
//!         *self.step.lock().unwrap() = new.step;
//!         Ok(Configured::Applied)
//!     }
//! }
//! ```
//! A plugin without it, or that answers `NeedsRestart`, is replaced by an instance of the same version that starts with the new configuration. Of a
//! WebAssembly plugin without state one guest is asked, and if it says `Applied`, those that come after start with the new configuration.

use mortise_wire::{
    lifecycle::{Reserved, ReservedSet, SERVICE},
    plugin::{
        ConfigureReply, ConfigureRequest, LoadStateReply, LoadStateRequest, MayReplaceReply,
        MayReplaceRequest, PostLoadReply, PostLoadRequest, PreUnloadReply, PreUnloadRequest,
        SaveStateRequest, State,
    },
};
use prost::Message;

#[doc(no_inline)]
pub use mortise_wire::plugin::post_load_request::Origin;

use crate::{
    Code, Cx, Result, Status,
    guest::{Method, MethodOf, Plugin},
};

/// A plugin that carries something from one instance into the next.
pub trait Stateful: Send + Sync {
    /// The message that `[state] schema` in `plugin.toml` names.
    type State: Message + Default;

    /// What this instance would carry on with. Changes nothing: it may have to serve on. No call runs meanwhile.
    ///
    /// # Errors
    /// Why it cannot be saved now; the swap is given up.
    fn save_state(&self, cx: &Cx) -> Result<Self::State>;

    /// Takes over what another instance saved, in place of all that this one holds. No call has come yet, or this instance was put back into
    /// service after its successor failed.
    ///
    /// # Errors
    /// Why it cannot be used; the swap is given up.
    fn load_state(&self, cx: &Cx, state: Self::State) -> Result<()>;

    /// Makes state of this version out of what a version with another schema saved. Asked only of plugins with `migrates = true` in `[state]`.
    ///
    /// # Errors
    /// Why it cannot be made. Unless told otherwise: always.
    fn migrate(&self, cx: &Cx, saved: &Saved) -> Result<Self::State> {
        let _ = cx;
        Err(Status::new(
            Code::Unimplemented,
            format!(
                "state of `{}` {} cannot be migrated; implement `Stateful::migrate`",
                saved.schema, saved.version
            ),
        ))
    }
}

/// State as another version saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Full name of the message that `bytes` is.
    pub schema: String,
    /// Version of the plugin that saved it.
    pub version: String,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

/// Who is to replace an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its version; empty if the plugin is to be unloaded for good.
    pub version: String,
    /// Digest of its artifact, in hex.
    pub digest: String,
}

/// A configuration that is to take the place of the one that an instance has.
#[derive(Clone, Copy)]
pub struct NewConfig<'a> {
    json: &'a str,
}

/// What a plugin did with a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// It is in force.
    Applied,
    /// Nothing of it is; an instance that starts with it can use it.
    NeedsRestart,
}

/// What `plugin.toml` says in `[state]` and `[config]`. Written by `mortise-build`.
#[derive(Clone, Copy, Debug)]
pub struct Lifecycle {
    pub(crate) reserved: ReservedSet,
    pub(crate) schema: &'static str,
    pub(crate) wire_hash: [u8; 32],
}

impl Lifecycle {
    /// There is no such table.
    pub const NONE: Self = Self {
        reserved: ReservedSet::NONE,
        schema: "",
        wire_hash: [0; 32],
    };

    /// Hooks, and no state.
    pub const HOOKS: Self = Self {
        reserved: ReservedSet::HOOKS,
        ..Self::NONE
    };

    /// State of this schema, whose numbers and kinds have this hash.
    #[must_use]
    pub const fn state(schema: &'static str, wire_hash: [u8; 32]) -> Self {
        Self {
            reserved: ReservedSet::STATE,
            schema,
            wire_hash,
        }
    }

    /// The same, and it takes a new configuration while it runs.
    #[must_use]
    pub const fn configurable(self) -> Self {
        Self {
            reserved: self.reserved.with(Reserved::Configure),
            ..self
        }
    }
}

// === impl NewConfig ===

impl<'a> NewConfig<'a> {
    /// All of it: JSON text, an object, secrets in place.
    #[must_use]
    pub fn json(&self) -> &'a str {
        self.json
    }

    /// All of it, as a value.
    ///
    /// # Errors
    /// `FailedPrecondition` that says where it does not fit `T`; returned from `configure`, it refuses the configuration.
    #[cfg(feature = "serde")]
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.json).map_err(|error| {
            Status::failed_precondition(format_args!("the configuration does not fit: {error}"))
        })
    }
}

/// Secrets are in it, so it shows nothing.
impl std::fmt::Debug for NewConfig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewConfig").finish_non_exhaustive()
    }
}

// === what `#[plugin(stateful)]` expands to ===

/// Saves, encoded.
#[doc(hidden)]
pub fn save<P: Stateful>(plugin: &P, cx: &Cx) -> Result<Vec<u8>> {
    Ok(plugin.save_state(cx)?.encode_to_vec())
}

/// Decodes or migrates, and loads.
#[doc(hidden)]
pub fn load<P: Stateful>(plugin: &P, cx: &Cx, saved: &Saved, migrate: bool) -> Result<()> {
    let state = if migrate {
        plugin.migrate(cx, saved)?
    } else {
        P::State::decode(&*saved.bytes).map_err(|error| {
            Status::invalid_argument(format_args!(
                "the state ({} bytes of `{}`) does not parse: {error}",
                saved.bytes.len(),
                saved.schema
            ))
        })?
    };
    plugin.load_state(cx, state)
}

// === the reserved methods ===

/// The row of a reserved method's number.
pub(crate) fn method<P: Plugin>(number: u32) -> Option<&'static Method<P>> {
    let nth = number.checked_sub(P::BUILD.methods)?;
    let reserved = P::BUILD.lifecycle.reserved.iter().nth(nth as usize)?;
    Some(&P::ROWS[reserved as usize])
}

/// The number of the reserved method with this name.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn number<P: Plugin>(name: &str) -> Option<u32> {
    let nth = P::BUILD
        .lifecycle
        .reserved
        .iter()
        .position(|it| it.name() == name)?;
    P::BUILD.methods.checked_add(u32::try_from(nth).ok()?)
}

pub(crate) fn no_state<P: Plugin>() -> Status {
    Status::new(
        Code::Unimplemented,
        format!("plugin `{}` carries no state", P::BUILD.name),
    )
}

/// The rows of every plugin; which of them have a number, its manifest says.
trait Rows: Plugin {
    /// By `Reserved as usize`.
    const ROWS: &'static [Method<Self>] = &[
        Method::of::<Configure>(),
        Method::of::<Load>(),
        Method::of::<MayReplace>(),
        Method::of::<PostLoad>(),
        Method::of::<PreUnload>(),
        Method::of::<Save>(),
    ];
}

impl<P: Plugin> Rows for P {}

macro_rules! reserved {
    ($marker:ident, $method:ident, $request:ty => $reply:ty, |$plugin:ident, $cx:ident, $it:ident| $body:expr) => {
        enum $marker {}

        impl<P: Plugin> MethodOf<P> for $marker {
            const SERVICE: &'static str = SERVICE;
            const NAME: &'static str = Reserved::$method.name();
            const FLAGS: u32 = 0;
            const WIRE_HASH: [u8; 32] = [0; 32];
            type Request = $request;
            type Reply = $reply;

            fn call($plugin: &P, $cx: &Cx, $it: $request) -> Result<$reply> {
                $body
            }
        }
    };
}

reserved!(Configure, Configure, ConfigureRequest => ConfigureReply, |plugin, cx, request| {
    let answer = plugin.configure(cx, &NewConfig { json: &request.json });
    let (refusal, needs_restart) = match answer {
        Ok(done) => (String::new(), done == Configured::NeedsRestart),
        Err(status) if status.message.is_empty() => ("it does not say why".to_owned(), false),
        Err(status) => (status.message, false),
    };
    Ok(ConfigureReply { refusal, needs_restart })
});

reserved!(Load, LoadState, LoadStateRequest => LoadStateReply, |plugin, cx, request| {
    let State { schema, version, bytes, wire_hash: _ } = request.state.unwrap_or_default();
    plugin.load_state(cx, &Saved { schema, version, bytes }, request.migrate)?;
    Ok(LoadStateReply {})
});

reserved!(MayReplace, MayReplace, MayReplaceRequest => MayReplaceReply, |plugin, cx, request| {
    let MayReplaceRequest { version, digest } = request;
    let refusal = match plugin.may_replace(cx, &Successor { version, digest }) {
        Ok(()) => String::new(),
        Err(status) if status.message.is_empty() => "it does not say why".to_owned(),
        Err(status) => status.message,
    };
    Ok(MayReplaceReply { refusal })
});

reserved!(PostLoad, PostLoad, PostLoadRequest => PostLoadReply, |plugin, cx, request| {
    plugin.post_load(cx, request.origin())?;
    Ok(PostLoadReply {})
});

reserved!(PreUnload, PreUnload, PreUnloadRequest => PreUnloadReply, |plugin, cx, _request| {
    plugin.pre_unload(cx)?;
    Ok(PreUnloadReply {})
});

reserved!(Save, SaveState, SaveStateRequest => State, |plugin, cx, _request| {
    Ok(State {
        schema: P::BUILD.lifecycle.schema.to_owned(),
        wire_hash: P::BUILD.lifecycle.wire_hash.to_vec(),
        version: P::BUILD.version.to_owned(),
        bytes: plugin.save_state(cx)?,
    })
});
