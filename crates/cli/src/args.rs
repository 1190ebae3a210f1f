//! The command line: this file is the reference that `--help`, the man page and the completions are made from.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::styling::Styles};
use clap_complete::Shell;

use crate::{
    exit::Exit,
    output::{Color, Format},
};

/// Plugins for services: build them, check them, run them.
#[derive(Debug, Parser)]
#[command(name = "mortise", version, styles = Styles::styled(), after_help = exit_codes(), max_term_width = 110)]
pub(crate) struct Cli {
    /// Who reads the output
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "text|json"
    )]
    pub(crate) output: Format,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "auto|always|never"
    )]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn exit_codes() -> String {
    let rows: Vec<_> = Exit::ALL
        .iter()
        .map(|it| format!("  {}  {}", it.code(), it.meaning()))
        .collect();
    format!("Exit codes:\n{}", rows.join("\n"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a plugin that builds and passes its own test
    New(New),
    /// Build a plugin's package: one file per runtime
    Build(Build),
    /// Find every fault of a plugin's source or package; nothing of it runs
    Check(Check),
    /// Make a package of a plugin that was made for another host
    Import(Import),
    /// Compare two versions of a contract
    Contract(ContractArgs),
    /// Write what an artifact says about itself, for plugins that are not built by cargo
    Metadata(MetadataArgs),
    /// Call a method of a package once, without a host
    Run(Run),
    /// Run a host
    Serve(Serve),
    /// Load a plugin into the running host, or replace it without losing a call
    Load(Load),
    /// Drain and stop a plugin
    Unload(Unload),
    /// List the plugins
    List(Remote),
    /// Show who requires what of whom, and in which order plugins start
    Graph(Graph),
    /// Show everything about a plugin
    Inspect(OnePlugin),
    /// Show who changed what, newest first; or the moves in a plugin's life
    History(History),
    /// Bring back what a plugin was before: its package, grants, limits and configuration
    Rollback(Rollback),
    /// Show what differs between two changes of the history
    Diff(Diff),
    /// Call a method of a plugin in the running host; of a stream each message is a line
    Call(Call),
    /// Show, change and explain which calls go where
    Route(Route),
    /// Show what is published and who is behind, publish, and work through dead letters
    Events(Events),
    /// Show what a plugin is configured with, and where each value comes from
    Config(Config),
    /// Give a new version a growing part of the calls; bad numbers take it back
    Canary(Canary),
    /// Say what each runtime can do on this machine, and how the host is
    Doctor(Doctor),
    /// Make the running host read its configuration again, as SIGHUP does
    Reload(Reload),
    /// Stop the running host after the calls in flight
    Shutdown(Remote),
    /// Write completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual page
    Man {
        /// A folder to write one page per command to, instead of one page to standard output
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// Its name: lower-case letters, digits and `-`
    pub(crate) name: String,
    /// The folder to make [default: ./NAME]
    #[arg(long)]
    pub(crate) path: Option<PathBuf>,
    /// A checkout of Mortise to take the SDK from [default: the one this command was built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk_path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The plugin's source folder
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// The runtimes to build for [default: all that its source allows]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) runtime: Vec<Variant>,
    /// The folder to write the package to [default: PATH/target/mortise/NAME-VERSION]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// C sources of a plugin for `native`, compiled with $CC [default: the .c files in PATH or PATH/src, if there is no Cargo.toml]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) c: Vec<PathBuf>,
    /// A WebAssembly core module that was built by other means, to package for `wasm`
    #[arg(long, value_name = "FILE")]
    pub(crate) module: Option<PathBuf>,
}

/// A runtime that a plugin can be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Variant {
    Native,
    Wasm,
    Process,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A source folder or a package folder
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// An older version: a package folder, a source folder, a contract.binpb or a .proto file. Shows every rule that the new contract breaks, what is done about
    /// it at run time, and what becomes of calls in both directions; fails if any call would be refused
    #[arg(long, value_name = "OLD")]
    pub(crate) against: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ContractArgs {
    #[command(subcommand)]
    pub(crate) task: ContractTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContractTask {
    /// Show every rule that the newer of two versions breaks, and what becomes of calls between them: old callers of the new, and new callers of the old.
    /// Fails if any call would be refused
    Diff(ContractDiff),
}

#[derive(Debug, Args)]
pub(crate) struct ContractDiff {
    /// A package folder, a plugin's source folder, a contract.binpb or a .proto file
    pub(crate) old: PathBuf,
    /// Another; the `[[adapt]]`s of both packages count
    pub(crate) new: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    /// The plugin's source folder
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// The form
    #[arg(long, value_enum)]
    pub(crate) format: MetadataFormat,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetadataFormat {
    /// A C source that puts it into section `.mortise`
    C,
    /// The encoded message
    Bin,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(subcommand)]
    pub(crate) from: ImportFrom,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportFrom {
    /// An executable that was made for HashiCorp's go-plugin, with gRPC. It is started once, in a jail, and asked what it serves
    GoPlugin(ImportGoPlugin),
}

#[derive(Debug, Args)]
pub(crate) struct ImportGoPlugin {
    /// The executable; it is copied into the package
    pub(crate) path: PathBuf,
    /// The name of the package's plugin: lower-case letters, digits and `-`
    #[arg(long)]
    pub(crate) name: String,
    /// The package's version
    #[arg(long, value_name = "VERSION", default_value = "0.1.0")]
    pub(crate) release: String,
    /// The variable that tells the plugin that a host started it: `MagicCookieKey` in the source of its own hosts
    #[arg(long, value_name = "KEY")]
    pub(crate) cookie_key: String,
    /// Its value: `MagicCookieValue` there
    #[arg(long, value_name = "VALUE")]
    pub(crate) cookie_value: String,
    /// The versions of its application's protocol that may be spoken
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) versions: Vec<u32>,
    /// Whether both sides prove who they are; plugins before go-plugin 1.0 cannot
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set, hide_possible_values = true)]
    pub(crate) auto_mtls: bool,
    /// Let connections of its broker share the first one; needs go-plugin 1.6
    #[arg(long)]
    pub(crate) multiplex: bool,
    /// A service to provide, as package.Service; may be repeated [default: all that it serves]
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Vec<String>,
    /// Its contract, for a plugin that does not tell what it serves
    #[arg(long, value_name = "FILE")]
    pub(crate) proto: Option<PathBuf>,
    /// A folder to look up the imports of the contract in; may be repeated [default: the contract's own]
    #[arg(long, value_name = "DIR", requires = "proto")]
    pub(crate) include: Vec<PathBuf>,
    /// How long its start may take, here and later [default: what go-plugin's own hosts allow]
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=600_000),
          hide_default_value = true)]
    pub(crate) start_ms: u64,
    /// The folder to write the package to; it must not exist [default: ./NAME-VERSION]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// What a plugin is loaded with.
#[derive(Debug, Args)]
pub(crate) struct Terms {
    /// The runtime: how far it is trusted [default: the host's preference]
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// A permission: `kv`, `net.connect=HOST:PORT`, `fs.read=PATH`, `fs.write=PATH`, `events.publish=TOPIC`, `events.subscribe=TOPIC`; may be repeated
    #[arg(long, value_name = "PERMISSION")]
    pub(crate) grant: Vec<String>,
    /// Its configuration: a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<String>,
    /// Highest memory of one instance
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// Deadline of a call that brings none
    #[arg(long, value_name = "MS")]
    pub(crate) deadline_ms: Option<u64>,
    /// Calls it works on at once
    #[arg(long, value_name = "CALLS")]
    pub(crate) concurrency: Option<u32>,
    /// Processor time of a process, in hundredths of one core
    #[arg(long, value_name = "PERCENT")]
    pub(crate) cpu_percent: Option<u32>,
    /// `off` runs a process without its jail: it may do whatever the host's user may
    #[arg(
        long,
        value_enum,
        default_value = "on",
        hide_possible_values = true,
        value_name = "on|off"
    )]
    pub(crate) jail: Jail,
    /// Take its word that it is pure, in a runtime that cannot keep it to that: its functions may adapt messages of others
    #[arg(long)]
    pub(crate) trust_adapter: bool,
}

/// Whether a process is jailed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Jail {
    On,
    Off,
}

/// When a plugin is started again after its instance ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    Never,
    OnFailure,
    Always,
}

/// The request of a call.
#[derive(Debug, Args)]
pub(crate) struct Payload {
    /// The request as a JSON object, @FILE, or - for standard input [default: {}; standard input for a method that takes a stream, one request per line]
    #[arg(long, value_name = "JSON")]
    pub(crate) json: Option<String>,
    /// The call's deadline
    #[arg(long, value_name = "MS")]
    pub(crate) timeout_ms: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A package folder, builtin:NAME or embedded:NAME; `mortise doctor` lists what comes with the command
    pub(crate) plugin: String,
    /// The method: its name, or package.Service/Method
    pub(crate) method: String,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The host's configuration [default: ./mortise.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address to serve HTTP on; wins over the configuration
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// The control socket; wins over the configuration
    #[arg(long, value_name = "PATH", env = "MORTISE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// The data directory; wins over the configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The form of the log on standard error; MORTISE_LOG chooses levels, as in `info,mortise_host=debug`
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log: Format,
}

/// Where the running host is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Remote {
    /// The host's control socket [default: as in ./mortise.toml, else the user's own]
    #[arg(long, value_name = "PATH", env = "MORTISE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// A package folder, builtin:NAME or embedded:NAME
    #[arg(required = true, num_args = 1..)]
    pub(crate) source: Vec<String>,
    /// Load all of them as one change: all take over, or none. The options hold for each of them
    #[arg(long, conflicts_with = "name")]
    pub(crate) together: bool,
    /// The name to register it under [default: its own]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Run it beside the version that runs, as NAME@VERSION, instead of replacing it
    #[arg(long)]
    pub(crate) beside: bool,
    /// Start it although its digest is quarantined, what it replaces does not want to go, or state does not fit and is left behind
    #[arg(long)]
    pub(crate) force: bool,
    /// When to start it again after its instance ended by itself
    #[arg(
        long,
        value_enum,
        default_value = "on-failure",
        hide_possible_values = true,
        value_name = "never|on-failure|always"
    )]
    pub(crate) restart: Restart,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Unload {
    /// NAME or NAME@VERSION
    pub(crate) plugin: String,
    /// Before it, drain and stop the plugins that require it, in place of refusing
    #[arg(long)]
    pub(crate) cascade: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Graph {
    /// How to draw it; `svg` needs nothing but a browser
    #[arg(
        long,
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        value_name = "text|dot|svg"
    )]
    pub(crate) format: Drawing,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// How to draw a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drawing {
    Text,
    Dot,
    Svg,
}

#[derive(Debug, Args)]
pub(crate) struct OnePlugin {
    /// NAME or NAME@VERSION
    pub(crate) plugin: String,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// NAME or NAME@VERSION [default: all plugins]
    pub(crate) plugin: Option<String>,
    /// The moves in the plugin's life instead: what its states were, and why
    #[arg(long, requires = "plugin")]
    pub(crate) moves: bool,
    /// Only changes before this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "moves")]
    pub(crate) before: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, conflicts_with = "moves", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// NAME or NAME@VERSION
    pub(crate) plugin: String,
    /// The number of the change to go back to, as `mortise history` has it [default: what the plugin was before what it is]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The number of a change, as `mortise history` has it
    pub(crate) from: u64,
    /// The number of another [default: shows what the first one changed]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// NAME, NAME@VERSION, or package.Service/Method alone
    pub(crate) plugin: String,
    /// The method's name
    pub(crate) method: Option<String>,
    #[command(flatten)]
    pub(crate) payload: Payload,
    /// A header as NAME=VALUE, for routing rules and propagation; may be repeated
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Route {
    #[command(subcommand)]
    pub(crate) task: RouteTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteTask {
    /// List the routes in the order in which they are tried, and who made them
    List(Remote),
    /// Set a route, in place of the operators' own of that name
    Set(RouteSet),
    /// Remove a route that an operator set
    Remove(RouteRemove),
    /// Say where a call would go, and why; nothing is called
    Explain(RouteExplain),
}

#[derive(Debug, Args)]
pub(crate) struct RouteSet {
    /// Its name
    pub(crate) name: String,
    /// Only calls of this service, as package.Service
    #[arg(long, value_name = "SERVICE", conflicts_with = "plugin")]
    pub(crate) service: Option<String>,
    /// Only calls of this method of the service
    #[arg(long, value_name = "METHOD", requires = "service")]
    pub(crate) method: Option<String>,
    /// Only calls that this plugin answers: the route chooses among its versions
    #[arg(long, value_name = "NAME")]
    pub(crate) plugin: Option<String>,
    /// A header that a call must have: NAME=VALUE, NAME^=PREFIX, NAME~=REGEX, or NAME alone; with `!` before it, must not; may be repeated
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Where these calls go: NAME or NAME@VERSION
    #[arg(
        long,
        value_name = "ADDRESS",
        required_unless_present = "split",
        conflicts_with = "split"
    )]
    pub(crate) to: Option<String>,
    /// A part of where they go: VERSION=WEIGHT of the plugin, or ADDRESS=WEIGHT; may be repeated
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) split: Vec<String>,
    /// The header whose value keeps calls of a split together
    #[arg(long, value_name = "NAME", requires = "split")]
    pub(crate) sticky: Option<String>,
    /// Try it before the other routes of operators
    #[arg(long)]
    pub(crate) first: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct RouteRemove {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct RouteExplain {
    /// package.Service/Method, or plugin.NAME.METHOD
    pub(crate) target: String,
    /// A header of the call as NAME=VALUE; may be repeated
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) task: ConfigTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigTask {
    /// Show a plugin's configuration as it is in force; of secrets, where they are
    Show(OnePlugin),
    /// Check mortise.toml and what it configures plugins with, before anything is started; exits with 1 if there is a fault
    Check(ConfigCheck),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheck {
    /// Configurations of hosts
    #[arg(default_value = "mortise.toml")]
    pub(crate) file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Plugins that become what their entries name, also where an operator or a canary had a word since
    pub(crate) plugins: Vec<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Canary {
    #[command(subcommand)]
    pub(crate) task: CanaryTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CanaryTask {
    /// Load a package beside the version that serves, and give it calls step by step
    Start(Box<CanaryStart>),
    /// Show the canaries: those that run, and of other plugins the last
    Status(Remote),
    /// Hold a canary where it is; bad numbers take it back all the same
    Pause(OneCanary),
    /// Let a canary go on
    Resume(OneCanary),
    /// Put a canary in the place of the version that serves
    Promote(OneCanary),
    /// Take a canary back
    Abort(CanaryAbort),
}

#[derive(Debug, Args)]
pub(crate) struct CanaryStart {
    /// A package folder, builtin:NAME or embedded:NAME
    pub(crate) source: String,
    /// The name of the plugin that it is a version of [default: its own]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Its steps, in order: `25%`, `header NAME=VALUE`, `pause`, `pause 30s`, `promote` [default: 5%,25%,50%,promote]
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub(crate) step: Vec<String>,
    /// The header whose value keeps a caller with the canary or away from it
    #[arg(long, value_name = "HEADER")]
    pub(crate) sticky: Option<String>,
    /// How long each step is looked at, at least [default: 60000]
    #[arg(long, value_name = "MS")]
    pub(crate) window_ms: Option<u64>,
    /// Calls of the canary before a number means anything and a step may pass [default: 50]
    #[arg(long, value_name = "CALLS")]
    pub(crate) requests_min: Option<u64>,
    /// Errors per call that are always forgiven [default: 0.01]
    #[arg(long, value_name = "RATIO")]
    pub(crate) error_ratio: Option<f64>,
    /// Multiple of the other version's error ratio that is forgiven [default: 2]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) error_factor: Option<f64>,
    /// How far its 95th percentile of latency may be above the other version's [default: 15]
    #[arg(long, value_name = "MS")]
    pub(crate) p95_step_ms: Option<f64>,
    /// How many times the other version's it may be; the smaller of the two counts [default: 3]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) p95_factor: Option<f64>,
    /// Start it although its digest is quarantined
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct OneCanary {
    /// The plugin's name
    pub(crate) plugin: String,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct CanaryAbort {
    /// The plugin's name
    pub(crate) plugin: String,
    /// Why, for the history and for whoever is told
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) why: String,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(subcommand)]
    pub(crate) task: EventsTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsTask {
    /// List topics, and what their events are
    Topics(Remote),
    /// List subscriptions, and how far behind they are
    Subscriptions(Remote),
    /// Show the newest events, or those after a number
    Tail(EventsTail),
    /// Publish an event to a topic that had one already
    Publish(EventsPublish),
    /// Events that a subscription gave up on
    Dead(Dead),
    /// Forget what a subscription has had, with its dead letters
    Forget(EventsForget),
}

#[derive(Debug, Args)]
pub(crate) struct EventsTail {
    /// A topic, or a pattern such as `orders.*.placed` [default: all]
    pub(crate) topic: Option<String>,
    /// Wait for more, and show them as they come; with JSON, one event per line
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<u64>,
    /// At most so many at first
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct EventsPublish {
    /// The topic
    pub(crate) topic: String,
    /// The message as a JSON object [default: {}]
    #[arg(long, value_name = "JSON")]
    pub(crate) json: Option<String>,
    /// The idempotency key: of several events with one key, the first one is kept
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// A header as NAME=VALUE that reaches the subscribers; may be repeated
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct EventsForget {
    /// The subscription: PLUGIN/GROUP
    pub(crate) subscription: String,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    pub(crate) task: DeadTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadTask {
    /// List dead letters, oldest first
    List(DeadList),
    /// Show one, with its event
    Show(DeadShow),
    /// Have some delivered again, to their subscription alone and with all attempts
    Replay(SomeLetters),
    /// Drop some
    Drop(SomeLetters),
}

#[derive(Debug, Args)]
pub(crate) struct DeadList {
    /// The subscription: PLUGIN/GROUP [default: all]
    pub(crate) subscription: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct DeadShow {
    /// The subscription: PLUGIN/GROUP
    pub(crate) subscription: String,
    /// The letter's number
    pub(crate) letter: u64,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct SomeLetters {
    /// The subscription: PLUGIN/GROUP
    pub(crate) subscription: String,
    /// The letters' numbers
    #[arg(conflicts_with = "all")]
    pub(crate) letter: Vec<u64>,
    /// All of the subscription
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Do not look for a running host
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
