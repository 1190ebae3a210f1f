//! Whether what one version saved can be loaded by another, and in what form it is kept.
//!
//! Everything here is decided by descriptors, before anything is started or asked. The names of the two messages and the hashes of their numbers
//! and kinds come first; only if they differ is the structural check made.

use mortise_contract::{
    Contract,
    compat::{Level, check_message},
};
use mortise_manifest::Manifest;
use mortise_runtime::{PluginId, Refusal, Snapshot};
use mortise_store::SavedState;
use semver::Version;

use crate::generation::{Address, Generation};

/// In what way state goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    /// The reader understands what the writer wrote.
    AsItIs,
    /// It does not, and says that it knows what to make of it.
    Migrated,
}

/// Who wrote a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) version: &'a Version,
    pub(crate) schema: &'a str,
    pub(crate) contract: &'a Contract,
}

/// Whether and how `reader` can take over what `writer` wrote.
///
/// # Errors
/// Why not, with every field that stands in the way.
pub(crate) fn check(writer: Writer<'_>, reader: &Manifest, contract: &Contract) -> Result<Carry, Refusal> {
    let Writer {
        version,
        schema: written,
        contract: old,
    } = writer;
    let refusal = |why: String, hint: &str| Refusal {
        what: "state".to_owned(),
        why,
        hint: hint.to_owned(),
    };
    let Some(read) = &reader.state_schema else {
        return Err(refusal(
            format!("version {version} has state (`{written}`), and this version has none to take it over"),
            "give it `[state]`, or load it with `force` to leave the state behind",
        ));
    };
    let why = if read != written {
        format!("version {version} saves `{written}`, and this version loads `{read}`")
    } else if old.message_wire_hash(written) == contract.message_wire_hash(read) {
        return Ok(Carry::AsItIs);
    } else {
        match check_message(old, contract, written, Level::Wire) {
            Some(violations) if violations.is_empty() => return Ok(Carry::AsItIs),
            Some(violations) => {
                let all: Vec<_> = violations
                    .iter()
                    .map(|it| format!("{} {}: {} -> {}", it.rule, it.path, it.old, it.new))
                    .collect();
                format!(
                    "`{written}` of version {version} does not fit: {}",
                    all.join("; ")
                )
            }
            None => format!("the contract of version {version} does not declare `{written}`"),
        }
    };
    if reader.migrates {
        return Ok(Carry::Migrated);
    }
    Err(refusal(
        why,
        "change the message compatibly, or implement `Stateful::migrate` and say `migrates = true` in `[state]`; `force` leaves the state behind",
    ))
}

// === impl Generation ===

impl Generation {
    /// Whether it saves and loads.
    pub(crate) fn carries_state(&self) -> bool {
        self.manifest.state_schema.is_some() && self.instance.state().is_some_and(|it| it.carries_state())
    }

    /// Whether and how it can take over what `writer` wrote.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn takes(&self, writer: Writer<'_>) -> Result<Carry, Refusal> {
        check(writer, &self.manifest, &self.contract)
    }

    /// As the writer of a snapshot; `None` without state.
    pub(crate) fn as_writer(&self) -> Option<Writer<'_>> {
        Some(Writer {
            version: &self.plugin.version,
            schema: self.manifest.state_schema.as_deref()?,
            contract: &self.contract,
        })
    }

    /// Fills in what the plugin did not say, and compares the rest with what it is.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn validated(&self, snapshot: Snapshot) -> Result<Snapshot, String> {
        let schema = self.manifest.state_schema.clone().unwrap_or_default();
        let hash = self.contract.message_wire_hash(&schema).unwrap_or_default();
        let said = |what: &str, it: &str, is: &str| format!("it saved {what} {it}, and its own is {is}");
        if !snapshot.schema.is_empty() && snapshot.schema != schema {
            return Err(said("state of", &snapshot.schema, &schema));
        }
        if !snapshot.wire_hash.is_empty() && snapshot.wire_hash != hash {
            return Err("it saved state with another hash than its contract has".to_owned());
        }
        let version = self.plugin.version.to_string();
        if !snapshot.version.is_empty() && snapshot.version != version {
            return Err(said("as version", &snapshot.version, &version));
        }
        let (bytes, most) = (snapshot.bytes.len(), self.limits.payload_bytes_max);
        if bytes > most {
            return Err(format!("its state has {bytes} bytes, and it may have {most}"));
        }
        Ok(Snapshot {
            schema,
            wire_hash: hash.to_vec(),
            version,
            bytes: snapshot.bytes,
        })
    }
}

/// A snapshot as it is kept on disk.
pub(crate) fn kept(address: &Address, writer: &Generation, snapshot: &Snapshot) -> SavedState {
    SavedState {
        plugin: address.name.to_string(),
        taken: address.state_time(),
        version: snapshot.version.clone(),
        schema: snapshot.schema.clone(),
        wire_hash: snapshot.wire_hash.clone(),
        descriptor_set: writer.contract.descriptor_set_bytes().to_vec(),
        bytes: snapshot.bytes.clone(),
    }
}

/// Whether `reader` can take over what is on disk.
///
/// # Errors
/// As [`check`]; also if the snapshot's descriptors do not link.
pub(crate) fn check_kept(
    kept: &SavedState,
    reader: &Manifest,
    contract: &Contract,
) -> Result<Carry, Refusal> {
    // Equal hashes need no descriptors, and are the usual case.
    let same = reader.state_schema.as_ref() == Some(&kept.schema);
    let hash = contract.message_wire_hash(&kept.schema);
    if same && hash.is_some_and(|it| it == *kept.wire_hash) {
        return Ok(Carry::AsItIs);
    }
    let old = Contract::from_descriptor_set(&kept.descriptor_set, &[]).map_err(|error| Refusal {
        what: "state".to_owned(),
        why: format!("the descriptors of the state that is kept do not link: {error}"),
        hint: "load it with `force` to leave the state behind".to_owned(),
    })?;
    let version = Version::parse(&kept.version).unwrap_or_else(|_| Version::new(0, 0, 0));
    let writer = Writer {
        version: &version,
        schema: &kept.schema,
        contract: &old,
    };
    check(writer, reader, contract)
}

/// What a refusal of state says about whose it is, for a message of one line.
pub(crate) fn why(plugin: &PluginId, refusal: &Refusal) -> String {
    format!("the state does not go into {plugin}: {}", refusal.why)
}
