//! What is known of such an executable without starting it: what its folder says.

use std::{fs::File, io::Read as _, path::Path};

use mortise_manifest::GoPlugin;
use mortise_runtime::{Artifact, Digest, RuntimeError, RuntimeErrorKind as Kind};
use mortise_section::SectionError;
use mortise_wire::{API_LEVEL, METADATA_FORMAT, METHOD_IDEMPOTENT, Metadata, MethodKind, plugin::Method};
use sha2::{Digest as _, Sha256};

/// Metadata in the place of those that an executable of ours carries.
pub(crate) fn describe(artifact: &Artifact, spoken: &GoPlugin) -> Result<Metadata, RuntimeError> {
    is_executable(artifact)?;
    if let Some(pinned) = spoken.sha256 {
        let found: [u8; 32] = Sha256::digest(&artifact.bytes).into();
        if found != pinned {
            return Err(RuntimeError::new(
                Kind::Tampered,
                format!(
                    "the process artifact's SHA-256 is {}, and plugin.toml pins {}",
                    Digest(found),
                    Digest(pinned)
                ),
                "get the executable again from where the pin came from; if it was replaced on purpose, correct `sha256`",
            ));
        }
    }
    let contract = &artifact.contract;
    let methods = contract.methods().iter().map(|it| Method {
        service: it.service().to_owned(),
        name: it.name().to_owned(),
        wire_hash: it.wire_hash().to_vec(),
        full_hash: it.full_hash().to_vec(),
        // No method promises not to wait: such an executable knows nothing of that.
        flags: MethodKind::of(it.client_streaming(), it.server_streaming()).flags()
            | if it.options().idempotent() {
                METHOD_IDEMPOTENT
            } else {
                0
            },
    });
    Ok(Metadata {
        format: METADATA_FORMAT,
        name: artifact.plugin.name.to_string(),
        version: artifact.plugin.version.to_string(),
        api: API_LEVEL,
        manifest: Vec::new(),
        descriptor_set: contract.descriptor_set_bytes().to_vec(),
        contract_hash: contract.hash().to_vec(),
        methods: methods.collect(),
        toolchain: "go-plugin".to_owned(),
        target: String::new(),
    })
}

/// The file that is about to be started is the artifact.
pub(crate) fn check(artifact: &Artifact, path: &Path) -> Result<(), RuntimeError> {
    let read = || {
        let mut file = File::open(path)?;
        let mut bytes = Vec::with_capacity(artifact.bytes.len());
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(Digest::of(&bytes))
    };
    let found = read().map_err(|source| {
        RuntimeError::new(
            Kind::Loader,
            format!("`{}` can't be read: {source}", path.display()),
            "load the plugin again",
        )
    })?;
    if found == artifact.digest {
        return Ok(());
    }
    Err(RuntimeError::new(
        Kind::Tampered,
        format!(
            "`{}` has digest {found}, and the artifact is {}",
            path.display(),
            artifact.digest
        ),
        "somebody changed the host's own copy: find out who, then load the plugin again",
    ))
}

fn is_executable(artifact: &Artifact) -> Result<(), RuntimeError> {
    match mortise_section::read(&artifact.bytes) {
        // It has no section of ours, and everything before that was in order.
        Ok(_) | Err(SectionError::NoSection { .. }) => Ok(()),
        Err(source) => Err(RuntimeError::new(
            Kind::NotAPlugin,
            format!("the process artifact can't be used: {source}"),
            "name an executable for this system; for a script, name its interpreter's own executable",
        )),
    }
}
