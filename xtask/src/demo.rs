//! Subcommand: cargo xtask demo
//!
//! The main job on real input: one plugin, three runtimes, real photographs through the public API, and a new version that takes over while callers call.

mod measure;
mod swap;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{
    http, setup,
    step::{Step, say},
    workspace::Workspace,
};

/// Where the host listens while the demo runs.
const ADDRESS: &str = "127.0.0.1:7070";
const RUNTIMES: [&str; 3] = ["native", "wasm", "process"];

/// Runs the main job on real input, on three runtimes.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    say("Mortise demo: one plugin, three runtimes, real photographs");
    say(
        "It builds the host in release mode and the plugin, which takes minutes the first time; a second run takes seconds.\n",
    );
    let prepared = setup::prepare_plugins(workspace)?;
    let folder = workspace.target().join("demo");
    fs::create_dir_all(&folder)?;
    let mortise = build_host(workspace)?;
    let built = build_plugin(workspace, &mortise, "plugins/thumbnailer", &folder).and_then(|old| {
        Ok((
            old,
            build_plugin(workspace, &mortise, "plugins/thumbnailer-1.3", &folder)?,
        ))
    });
    let (old, new) = built.with_context(|| match prepared.missing.as_slice() {
        [] => "the plugin cannot be built".to_owned(),
        missing => format!(
            "the plugin cannot be built; set-up says these are missing:\n  {}",
            missing.join("\n  ")
        ),
    })?;

    let host = RunningHost::start(&mortise, &folder)?;
    say(&format!(
        "\nA host listens on http://{ADDRESS}; thumbnails are made through its public API"
    ));
    let photos = photos(workspace)?;
    let mut rows = Vec::new();
    for runtime in RUNTIMES {
        say(&format!("  thumbnails through {runtime}"));
        rows.push(measure::runtime(
            &host,
            runtime,
            &old,
            &photos,
            &folder.join("thumbnails"),
        )?);
    }
    measure::print(&rows);
    say(&format!(
        "the thumbnails are in {}\n",
        workspace.relative(&folder.join("thumbnails"))
    ));
    if rows.iter().any(|row| row.digest != rows[0].digest) {
        bail!("the three runtimes made different thumbnails; the table above shows which");
    }

    let mut swaps = Vec::new();
    for runtime in RUNTIMES {
        say(&format!("  1.2.0 -> 1.3.0 under load, {runtime}"));
        swaps.push(swap::runtime(&host, runtime, &old, &new, &photos)?);
    }
    swap::print(&swaps);
    if swaps.iter().any(|it| it.lost + it.doubled > 0) {
        bail!("calls were lost or doubled; the table above shows where");
    }
    host.stop()?;
    what_next(workspace, &mortise, &folder, &new, &photos)
}

/// The host under demonstration. Dropping it kills it; [`RunningHost::stop`] is the polite way.
pub(crate) struct RunningHost {
    child: Child,
    /// Its control socket.
    control: PathBuf,
}

impl RunningHost {
    fn start(mortise: &Path, folder: &Path) -> Result<Self> {
        if http::ready(ADDRESS) {
            bail!(
                "something else already serves at {ADDRESS}\nhint: stop it, the demo starts a host of its own there"
            );
        }
        let data = folder.join("data");
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        let config = folder.join("mortise.toml");
        let text = format!("[host]\ndata_dir = {data:?}\n\n[gateway]\nlisten = \"{ADDRESS}\"\n");
        fs::write(&config, text)?;
        let log = folder.join("host.log");
        let child = Command::new(mortise)
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("{} cannot be started", mortise.display()))?;
        let mut host = Self {
            child,
            control: data.join("control.sock"),
        };
        let patience = Instant::now() + Duration::from_secs(20);
        while !http::ready(ADDRESS) {
            if let Some(status) = host.child.try_wait()? {
                bail!(
                    "the host ended with {status}\n{}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            if Instant::now() > patience {
                bail!(
                    "the host is not ready after 20 s\nhint: its log is {}",
                    log.display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(host)
    }

    /// Its process id.
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stop(mut self) -> Result<()> {
        http::Connection::unix(&self.control)?.call("mortise.shutdown", &json!({}))?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the host ended with {status}");
        }
        Ok(())
    }
}

impl Drop for RunningHost {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A photograph, ready to be sent.
pub(crate) struct Photo {
    /// File name without its ending.
    name: String,
    /// The file's bytes in base64, as JSON carries them.
    base64: String,
}

fn photos(workspace: &Workspace) -> Result<Vec<Photo>> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let folder = workspace.root().join("data/photos");
    let mut photos = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "png" || it == "jpg") {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            photos.push(Photo {
                name,
                base64: BASE64_STANDARD.encode(fs::read(&path)?),
            });
        }
    }
    photos.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(photos)
}

fn build_host(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "mortise-cli"]);
    Step::new(workspace, "the host, in release mode").run(&mut cargo)?;
    Ok(workspace.target().join("release/mortise"))
}

fn build_plugin(workspace: &Workspace, mortise: &Path, source: &str, folder: &Path) -> Result<PathBuf> {
    let out = folder
        .join("packages")
        .join(Path::new(source).file_name().expect("a folder has a name"));
    let mut build = Command::new(mortise);
    build
        .current_dir(workspace.root())
        .args(["build", source, "--runtime", "native,wasm,process", "--out"])
        .arg(&out);
    build.env("CARGO_TARGET_DIR", workspace.target().join("plugins"));
    Step::new(workspace, format!("{source} for {}", RUNTIMES.join(", "))).run(&mut build)?;
    Ok(out)
}

fn what_next(
    workspace: &Workspace,
    mortise: &Path,
    folder: &Path,
    package: &Path,
    photos: &[Photo],
) -> Result<()> {
    let request = folder.join("request.json");
    let photo = photos
        .iter()
        .find(|it| it.name == "chelsea")
        .unwrap_or(&photos[0]);
    fs::write(
        &request,
        serde_json::to_vec(&json!({"image": photo.base64, "maxSide": 64}))?,
    )?;
    let (mortise, package) = (workspace.relative(mortise), workspace.relative(package));
    println!("What to try next:");
    println!(
        "  {mortise} run {package} Thumbnail --json @{}",
        workspace.relative(&request)
    );
    println!("  {mortise} check {package}");
    println!(
        "  {mortise} new my-plugin --path target/demo/my-plugin && {mortise} build target/demo/my-plugin --runtime native,wasm,process"
    );
    Ok(())
}
