//! What the command brings along: a plugin that is compiled in, and a package that is embedded. They need no folder, so they also tell
//! whether a machine is fit for plugins at all: `mortise run builtin:ping Ping`, `mortise run embedded:checksum Crc32`.

use mortise::{
    EmbeddedPackage, HostBuilder, Package,
    port::RuntimeError,
    runtime::builtin::{BuiltinPlugin, BuiltinRuntime},
};
use serde::Serialize;

use crate::exit::{Failure, Fault};

/// Packages for `embedded:NAME`.
const EMBEDDED: [EmbeddedPackage; 1] = [mortise::embedded!("checksum")];

/// A plugin that comes with the command, for people.
#[derive(Serialize)]
pub(crate) struct Shipped {
    /// What `mortise.toml` and `mortise load` name it by.
    pub(crate) source: String,
    pub(crate) version: String,
    pub(crate) provides: Vec<String>,
    pub(crate) runtimes: Vec<&'static str>,
    pub(crate) description: Option<String>,
}

/// Makes all of them known to a host.
pub(crate) fn with_shipped(mut builder: HostBuilder) -> Result<HostBuilder, Failure> {
    let plugins = plugins()?;
    for (plugin, package) in plugins.iter().zip(packages(&plugins)?) {
        builder = builder.builtin(&*plugin.id().name, package);
    }
    for package in EMBEDDED {
        builder = builder.embed(package);
    }
    Ok(builder.runtime(BuiltinRuntime::new(plugins).map_err(|error| of_runtime(&error))?))
}

/// All of them, for people.
pub(crate) fn list() -> Result<Vec<Shipped>, Failure> {
    let embedded = EMBEDDED.iter().map(Package::embedded);
    let embedded = embedded
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(&error))?;
    let shipped = |package: &Package| Shipped {
        source: package.origin().to_owned(),
        version: package.plugin().version.to_string(),
        provides: package.manifest().provides.clone(),
        runtimes: package.artifacts().iter().map(|it| it.runtime.as_str()).collect(),
        description: package.manifest().description.clone(),
    };
    Ok(packages(&plugins()?)?
        .iter()
        .chain(&embedded)
        .map(shipped)
        .collect())
}

fn plugins() -> Result<Vec<BuiltinPlugin>, Failure> {
    let linked = [mortise_sdk::linked!(ping)];
    let plugins = linked.into_iter().map(BuiltinPlugin::new);
    plugins
        .collect::<Result<_, _>>()
        .map_err(|error| of_runtime(&error))
}

fn packages(plugins: &[BuiltinPlugin]) -> Result<Vec<Package>, Failure> {
    let package =
        |it: &BuiltinPlugin| Package::builtin(&it.id().name, it.manifest_text(), it.descriptor_set());
    let packages = plugins.iter().map(package);
    packages.collect::<Result<_, _>>().map_err(|error| broken(&error))
}

fn of_runtime(error: &RuntimeError) -> Failure {
    Failure::new(Fault::new(error.to_string()).hint(error.hint()))
}

fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        Fault::new(format!("the command was built with a broken plugin: {error}")).hint("build it again"),
    )
}
