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

use crate::{http, root, setup, step};

/// Where the host listens while the demo runs.
pub const ADDRESS: &str = "127.0.0.1:7070";
const RUNTIMES: [&str; 3] = ["native", "wasm", "process"];

/// Runs the demo.
///
/// # Errors
/// What kept it from working, and what to do.
pub fn run() -> Result<()> {
    println!("Mortise demo: one plugin, three runtimes, real photographs\n");
    setup::run(setup::Need::Demo)?;
    let folder = root().join("target/demo");
    fs::create_dir_all(&folder)?;
    let mortise = build_host()?;
    let old = build_plugin(&mortise, "plugins/thumbnailer", &folder)?;
    let new = build_plugin(&mortise, "plugins/thumbnailer-1.3", &folder)?;

    let host = RunningHost::start(&mortise, &folder)?;
    println!("\nA host listens on http://{ADDRESS}\n");
    let photos = photos()?;
    let mut rows = Vec::new();
    for runtime in RUNTIMES {
        rows.push(step::task(&format!("thumbnails through {runtime}"), |line| {
            measure::runtime(&host, runtime, &old, &photos, &folder.join("thumbnails"), line)
        })?);
    }
    measure::print(&rows);
    println!("thumbnails are in {}\n", shown(&folder.join("thumbnails")));
    if rows.iter().any(|row| row.digest != rows[0].digest) {
        bail!("the three runtimes made different thumbnails; the table above shows which");
    }

    let mut swaps = Vec::new();
    for runtime in RUNTIMES {
        swaps.push(step::task(&format!("1.2.0 -> 1.3.0 under load, {runtime}"), |_| {
            swap::runtime(&host, runtime, &old, &new, &photos)
        })?);
    }
    swap::print(&swaps);
    if swaps.iter().any(|it| it.lost + it.doubled > 0) {
        bail!("calls were lost or doubled; the table above shows where");
    }
    host.stop()?;
    what_next(&mortise, &folder, &new, &photos)
}

/// The host under demonstration. Dropping it kills it; [`RunningHost::stop`] is the polite way.
pub struct RunningHost {
    child: Child,
    /// Its control socket.
    pub control: PathBuf,
}

impl RunningHost {
    fn start(mortise: &Path, folder: &Path) -> Result<Self> {
        if http::ready(ADDRESS) {
            bail!("something else already serves at {ADDRESS}\nhint: stop it, the demo starts a host of its own there");
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
        let mut host = Self { child, control: data.join("control.sock") };
        let patience = Instant::now() + Duration::from_secs(20);
        while !http::ready(ADDRESS) {
            if let Some(status) = host.child.try_wait()? {
                bail!("the host ended with {status}\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            if Instant::now() > patience {
                bail!("the host is not ready after 20 s\nhint: its log is {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(host)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
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
pub struct Photo {
    /// File name without its ending.
    pub name: String,
    /// The file's bytes in base64, as JSON carries them.
    pub base64: String,
}

fn photos() -> Result<Vec<Photo>> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let folder = root().join("data/photos");
    let mut photos = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "png" || it == "jpg") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            photos.push(Photo { name, base64: BASE64_STANDARD.encode(fs::read(&path)?) });
        }
    }
    photos.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(photos)
}

fn build_host() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root()).args(["build", "--release", "-p", "mortise-cli"]);
    step::run("demo-host", "building the host in release mode (several minutes the first time)", &mut cargo)?;
    Ok(root().join("target/release/mortise"))
}

fn build_plugin(mortise: &Path, source: &str, folder: &Path) -> Result<PathBuf> {
    let out = folder.join("packages").join(Path::new(source).file_name().expect("a folder has a name"));
    let mut build = Command::new(mortise);
    build.current_dir(root()).args(["build", source, "--runtime", "native,wasm,process", "--out"]).arg(&out);
    step::run(
        &format!("demo-{}", source.replace('/', "-")),
        &format!("building {source} for {}", RUNTIMES.join(", ")),
        &mut build,
    )?;
    Ok(out)
}

fn what_next(mortise: &Path, folder: &Path, package: &Path, photos: &[Photo]) -> Result<()> {
    let request = folder.join("request.json");
    let photo = photos.iter().find(|it| it.name == "chelsea").unwrap_or(&photos[0]);
    fs::write(&request, serde_json::to_vec(&json!({"image": photo.base64, "maxSide": 64}))?)?;
    let mortise = shown(mortise);
    println!("What to try next, from {}:", root().display());
    println!("  {mortise} run {} Thumbnail --json @{}", shown(package), shown(&request));
    println!("  {mortise} check {}", shown(package));
    println!("  {mortise} doctor --local");
    Ok(())
}

/// A path as a person would type it from the root of the checkout.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
