//! The facet of plugins that carry something from one instance into the next, or want to be asked before they are replaced.
//!
//! # When the host asks what
//! | method | when | calls run |
//! |---|---|---|
//! | [`State::may_replace`] | before anything of the successor is started | yes |
//! | [`State::save`] | behind the gate of a swap, and before the stop of an unload | no |
//! | [`State::load`] | in a fresh instance, before its first call; in a predecessor that is put back | no |
//! | [`State::post_load`] | after `load`, or in its place if there is nothing to load | no |
//! | [`State::pre_unload`] | before the stop, once nothing needs the instance any more | no |
//!
//! An instance that was asked to save may have to serve on: a swap can be given up after it.
//!
//! All of it travels as calls of reserved methods (`mortise_wire::lifecycle`), so a runtime that can call can do this too: it implements
//! [`ReservedCalls`] and has [`State`] by that. Nothing but the host reaches those methods.

use bytes::Bytes;
pub use mortise_wire::plugin::post_load_request::Origin;
use mortise_wire::{
    Metadata,
    lifecycle::Reserved,
    plugin::{
        ConfigureReply, ConfigureRequest, LoadStateRequest, MayReplaceReply, MayReplaceRequest,
        PostLoadRequest, PreUnloadRequest, SaveStateRequest, State as WireState,
    },
};
use prost::Message;

use crate::{BoxFuture, Call, CallContext, CallError, CallErrorKind, Digest, MethodIndex};

/// What an instance knew, as bytes that its successor understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Full name of the message that `bytes` is; empty if the plugin did not say.
    pub schema: String,
    /// Hash of that message's numbers and kinds; empty if the plugin did not say.
    pub wire_hash: Vec<u8>,
    /// Version of the plugin that saved it; empty if the plugin did not say.
    pub version: String,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

/// Who is to replace an instance.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'a> {
    /// Its version.
    pub version: &'a semver::Version,
    /// Its artifact.
    pub digest: Digest,
}

/// Carries state from one instance into the next. A method that the plugin does not have is answered as if it had nothing to say.
///
/// Every method is bounded by the context's deadline and fails as a call does; an instance that crashed in one of them ends as it would in a call.
pub trait State: Send + Sync {
    /// Whether it saves and loads; otherwise it has hooks only.
    fn carries_state(&self) -> bool;

    /// What it would carry on with. Changes nothing, because the instance may have to serve on.
    ///
    /// # Errors
    /// The plugin's status, `Incompatible` if it carries none, `Malformed` if its answer does not parse.
    fn save<'a>(&'a self, cx: &'a CallContext) -> BoxFuture<'a, Result<Snapshot, CallError>>;

    /// Takes over what another instance saved. With `migrate` the snapshot is of a schema that is not the plugin's own.
    ///
    /// # Errors
    /// The plugin's status; what it holds then is not to be relied on.
    fn load<'a>(
        &'a self,
        cx: &'a CallContext,
        snapshot: &'a Snapshot,
        migrate: bool,
    ) -> BoxFuture<'a, Result<(), CallError>>;

    /// Whether it lets itself be replaced now: the reason if it does not.
    ///
    /// # Errors
    /// What kept it from answering.
    fn may_replace<'a>(
        &'a self,
        cx: &'a CallContext,
        successor: Option<Successor<'a>>,
    ) -> BoxFuture<'a, Result<Option<String>, CallError>>;

    /// It has its state, and calls follow.
    ///
    /// # Errors
    /// The plugin's status: it does not want to serve.
    fn post_load<'a>(&'a self, cx: &'a CallContext, origin: Origin) -> BoxFuture<'a, Result<(), CallError>>;

    /// It is let go.
    ///
    /// # Errors
    /// The plugin's status; it goes all the same.
    fn pre_unload<'a>(&'a self, cx: &'a CallContext) -> BoxFuture<'a, Result<(), CallError>>;
}

/// What an instance did with a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configured {
    /// It is in force: calls that begin from here on see it.
    Applied,
    /// Nothing of it is; an instance that starts with it can use it.
    NeedsRestart,
    /// Nothing of it is, and it cannot be used: the plugin's own reason.
    Refused(String),
}

/// Takes a new configuration in the middle of its life.
pub trait Configure: Send + Sync {
    /// Hands it over: JSON text, an object, with secrets in place. All of it is in force afterwards, or nothing. Calls run meanwhile.
    ///
    /// # Errors
    /// What kept it from answering; what it has in force then is not known.
    fn configure<'a>(
        &'a self,
        cx: &'a CallContext,
        json: &'a str,
    ) -> BoxFuture<'a, Result<Configured, CallError>>;
}

/// Numbers of the reserved methods of one plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservedMethods([Option<MethodIndex>; Reserved::ALL.len()]);

/// An instance whose guest answers reserved methods. By this it has [`State`].
pub trait ReservedCalls: Call {
    /// The numbers that its metadata gives them.
    fn reserved(&self) -> &ReservedMethods;

    /// Its guest took a new configuration: what this instance starts anew from here on starts with it.
    fn configured(&self, json: &str) {
        let _ = json;
    }
}

// === impl ReservedMethods ===

impl ReservedMethods {
    /// Those that `metadata` lists, which may be none.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self(Reserved::ALL.map(|it| metadata.reserved(it).map(MethodIndex)))
    }

    /// Whether there is one at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Whether the plugin saves and loads.
    #[must_use]
    pub fn carry_state(&self) -> bool {
        self.get(Reserved::SaveState).is_some() && self.get(Reserved::LoadState).is_some()
    }

    /// Whether the plugin takes a new configuration while it runs.
    #[must_use]
    pub fn configure(&self) -> bool {
        self.get(Reserved::Configure).is_some()
    }

    fn get(&self, method: Reserved) -> Option<MethodIndex> {
        self.0[method as usize]
    }
}

// === State over reserved calls ===

impl<T: ReservedCalls> State for T {
    fn carries_state(&self) -> bool {
        self.reserved().carry_state()
    }

    fn save<'a>(&'a self, cx: &'a CallContext) -> BoxFuture<'a, Result<Snapshot, CallError>> {
        Box::pin(async move {
            let reply = needed(self, cx, Reserved::SaveState, &SaveStateRequest {}).await?;
            let WireState {
                schema,
                wire_hash,
                version,
                bytes,
            } = decode(Reserved::SaveState, &reply)?;
            Ok(Snapshot {
                schema,
                wire_hash,
                version,
                bytes,
            })
        })
    }

    fn load<'a>(
        &'a self,
        cx: &'a CallContext,
        snapshot: &'a Snapshot,
        migrate: bool,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let state = WireState {
                schema: snapshot.schema.clone(),
                wire_hash: snapshot.wire_hash.clone(),
                version: snapshot.version.clone(),
                bytes: snapshot.bytes.clone(),
            };
            let request = LoadStateRequest {
                state: Some(state),
                migrate,
            };
            needed(self, cx, Reserved::LoadState, &request).await.map(drop)
        })
    }

    fn may_replace<'a>(
        &'a self,
        cx: &'a CallContext,
        successor: Option<Successor<'a>>,
    ) -> BoxFuture<'a, Result<Option<String>, CallError>> {
        Box::pin(async move {
            let request = match successor {
                Some(by) => MayReplaceRequest {
                    version: by.version.to_string(),
                    digest: by.digest.to_string(),
                },
                None => MayReplaceRequest::default(),
            };
            let Some(reply) = asked(self, cx, Reserved::MayReplace, &request).await? else {
                return Ok(None);
            };
            let MayReplaceReply { refusal } = decode(Reserved::MayReplace, &reply)?;
            Ok(Some(refusal).filter(|it| !it.is_empty()))
        })
    }

    fn post_load<'a>(&'a self, cx: &'a CallContext, origin: Origin) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let request = PostLoadRequest {
                origin: origin.into(),
            };
            asked(self, cx, Reserved::PostLoad, &request).await.map(drop)
        })
    }

    fn pre_unload<'a>(&'a self, cx: &'a CallContext) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            asked(self, cx, Reserved::PreUnload, &PreUnloadRequest {})
                .await
                .map(drop)
        })
    }
}

impl<T: ReservedCalls> Configure for T {
    fn configure<'a>(
        &'a self,
        cx: &'a CallContext,
        json: &'a str,
    ) -> BoxFuture<'a, Result<Configured, CallError>> {
        Box::pin(async move {
            let request = ConfigureRequest {
                json: json.to_owned(),
            };
            let Some(reply) = asked(self, cx, Reserved::Configure, &request).await? else {
                return Ok(Configured::NeedsRestart);
            };
            let ConfigureReply {
                refusal,
                needs_restart,
            } = decode(Reserved::Configure, &reply)?;
            if !refusal.is_empty() {
                return Ok(Configured::Refused(refusal));
            }
            if needs_restart {
                return Ok(Configured::NeedsRestart);
            }
            self.configured(json);
            Ok(Configured::Applied)
        })
    }
}

/// The reply, or `None` where the plugin has no such method.
async fn asked(
    guest: &impl ReservedCalls,
    cx: &CallContext,
    method: Reserved,
    request: &impl Message,
) -> Result<Option<Bytes>, CallError> {
    match guest.reserved().get(method) {
        Some(number) => guest
            .call(cx, number, request.encode_to_vec().into())
            .await
            .map(Some),
        None => Ok(None),
    }
}

async fn needed(
    guest: &impl ReservedCalls,
    cx: &CallContext,
    method: Reserved,
    request: &impl Message,
) -> Result<Bytes, CallError> {
    asked(guest, cx, method, request).await?.ok_or_else(|| {
        CallError::new(
            CallErrorKind::Incompatible,
            format!("the plugin has no `{}`", method.name()),
        )
        .with_hint("give its manifest `[state]`, and build it again")
    })
}

fn decode<M: Message + Default>(method: Reserved, reply: &[u8]) -> Result<M, CallError> {
    M::decode(reply).map_err(|error| {
        CallError::new(
            CallErrorKind::GuestFault,
            format!("its answer to `{}` does not parse: {error}", method.name()),
        )
    })
}

#[cfg(test)]
mod tests;
