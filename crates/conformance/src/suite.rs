//! All cases, and what is known to fail.

use std::{panic::AssertUnwindSafe, pin::Pin};

use mortise::{manifest::RuntimeName, runtime::process::ProcessLane};

use crate::{World, bad::Fault, cases};

/// A case's program.
pub type Program = fn(&World) -> Pin<Box<dyn Future<Output = ()> + '_>>;

/// One thing that every runtime must do.
pub struct Case {
    /// Its name; also the test's.
    pub name: &'static str,
    /// What it proves.
    pub proves: &'static str,
    /// The program; it panics when the runtime does something else.
    pub program: Program,
}

macro_rules! cases {
    ($($module:ident :: $name:ident => $proves:literal,)*) => {
        &[$(Case {
            name: stringify!($name),
            proves: $proves,
            program: |world| Box::pin(cases::$module::$name(world)),
        }),*]
    };
}

/// All cases, in the order in which they are listed.
pub const CASES: &[Case] = cases! {
    payload::echo => "bytes and text come back as they were",
    payload::empty => "an empty request and an empty reply are a call like any other",
    payload::sixteen_mib => "16 MiB in each direction",
    payload::unicode => "text crosses as text, whatever its script",
    error::details => "an error carries code, message, details and retryable",
    error::unknown_method => "a method that is not there is refused, and the refusal names it",
    error::malformed_payload => "bytes that are no request are the caller's fault and hurt nobody",
    error::payload_over_limit => "a payload over the limit is refused before the guest sees it",
    time::deadline => "a call over its deadline ends at once for its caller, and the plugin serves on",
    time::deadline_is_visible => "the guest sees how much time is left",
    time::cancel => "a caller that goes away frees its place",
    fault::panic => "a panic or a trap is one error, and the next call is served",
    fault::endless_loop => "the caller of an endless loop is freed, and other plugins are served",
    fault::endless_loop_is_stopped => "an endless loop is really ended",
    fault::memory_bomb => "a guest cannot use more memory than its limit",
    fault::refuses_to_start => "a plugin that declines to start says why, and nothing is left",
    concurrency::calls_256 => "256 calls at once, each with its own answer",
    host::key_value => "key-value data, private to the plugin",
    host::permission_not_granted => "a plugin whose permissions are not granted is refused, and the refusal names them",
    host::permission_not_declared => "what a plugin did not ask for is denied when it is used",
    host::clock_and_config => "a guest has a clock and its configuration",
    host::context => "trace, propagated headers, depth and caller reach the guest",
    host::headers_travel => "propagated headers reach the guest's log lines and its own calls to other plugins, and no other header does",
    host::calls_another_plugin => "a plugin calls another through the host",
    host::depth_limit => "a plugin that calls itself is stopped at depth 32",
    events::event_reaches_a_subscriber => "what a plugin publishes another is called with, with its key and its trace, and once for each key",
    events::event_needs_a_grant => "what is not granted is neither published nor subscribed to",
    events::event_that_fails_is_a_dead_letter => "what fails is tried as often as the manifest says, and can be replayed",
    events::event_outlives_its_subscriber => "swaps and unloads of a subscriber lose no event and double none",
    log::trace_id => "a log line carries plugin, instance and the trace of its call",
    log::flood => "a flood of log lines is cut and counted, and the call is answered",
    stream::stream_server => "5000 replies in order, and their end",
    stream::stream_client => "5000 requests in order, and one reply",
    stream::stream_both_ways => "5000 messages each way at once, in order",
    stream::stream_slow_reader => "a slow reader holds up the writer and not the memory",
    stream::stream_early_end => "a method that returns early is heard, and so is a caller that goes",
    stream::stream_error_in_the_middle => "an error comes after the replies before it",
    stream::stream_deadline => "a deadline ends a stream in the middle, and the plugin serves on",
    stream::stream_crash => "a crash ends a stream at once with one error, and the plugin serves again",
    stream::stream_swap => "a swap ends a stream that stays open, and the next one reaches the new version",
    stream::kinds_are_not_mixed => "a method is not called in the other's way",
    state::state_is_carried => "a counter goes through swaps under load exactly",
    state::state_survives_an_unload => "a load begins with what an unload saved",
    state::state_veto => "a plugin may refuse to be replaced, and the operator may insist",
    state::state_load_fails => "a new version that does not take the state is given up, and the old one goes on",
    state::state_load_crashes => "the same if it crashes over it",
    state::state_save_fails => "an old version that does not give its state goes on",
    state::state_save_is_slow => "a swap that takes too long is given up",
    state::state_save_crashes => "an old version that crashes while it saves comes back with what was saved last",
    state::state_after_a_crash => "a crash is followed by a restart from what was saved last",
    state::state_is_the_hosts_business => "nobody but the host reaches the methods for it",
    version::two_side_by_side => "two versions serve side by side under their own addresses",
    version::swap_under_load => "a swap under load loses no call and doubles none",
    version::reload_100 => "100 reloads leave no descriptor, thread or child behind",
};

/// A case that a runtime cannot pass, and why.
pub struct ExpectedFailure {
    /// The runtime.
    pub runtime: RuntimeName,
    /// The case, or the beginning of several and a star.
    pub case: &'static str,
    /// Why, and what to use instead.
    pub reason: &'static str,
}

impl ExpectedFailure {
    /// Whether the row is about this case: by its name, or by its beginning and a star.
    #[must_use]
    pub fn is_of(&self, case: &str) -> bool {
        match self.case.strip_suffix('*') {
            Some(beginning) => case.starts_with(beginning),
            None => self.case == case,
        }
    }
}

/// What is known to fail. A row whose case passes is itself a failure.
pub const EXPECTED_FAILURES: &[ExpectedFailure] = &[
    ExpectedFailure {
        runtime: RuntimeName::Native,
        case: "endless_loop_is_stopped",
        reason: "a thread in the host's address space cannot be stopped safely; choose wasm or process",
    },
    ExpectedFailure {
        runtime: RuntimeName::Native,
        case: "memory_bomb",
        reason: "a native plugin shares the host's allocator limits; choose wasm or process",
    },
    ExpectedFailure {
        runtime: RuntimeName::Native,
        case: "stream_*",
        reason: "the C ABI has no extension for streams yet; choose builtin or process",
    },
    ExpectedFailure {
        runtime: RuntimeName::Wasm,
        case: "stream_*",
        reason: "the world of WIT has calls only, and a guest cannot wait for the next message; choose builtin or process",
    },
    ExpectedFailure {
        runtime: RuntimeName::Builtin,
        case: "endless_loop_is_stopped",
        reason: "a builtin plugin is the host's own code; choose wasm or process",
    },
    ExpectedFailure {
        runtime: RuntimeName::Builtin,
        case: "memory_bomb",
        reason: "a builtin plugin is the host's own code; choose wasm or process",
    },
];

/// How a case went.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed, as it should.
    Passed,
    /// It failed, as the row says.
    FailedAsExpected(&'static str),
}

/// Runs one case on one runtime.
///
/// # Errors
/// The panic's message if the case failed and should not have; the stale row if it passed and should not have.
pub fn run(case: &Case, runtime: RuntimeName) -> Result<Verdict, String> {
    run_over(case, runtime, ProcessLane::Auto)
}

/// Runs one case on one runtime, processes over one lane.
///
/// # Errors
/// As [`run`].
pub fn run_over(case: &Case, runtime: RuntimeName, lane: ProcessLane) -> Result<Verdict, String> {
    let expected = EXPECTED_FAILURES
        .iter()
        .find(|it| it.runtime == runtime && it.is_of(case.name));
    match (
        in_world(runtime, lane, async |world| (case.program)(world).await),
        expected,
    ) {
        (Ok(()), None) => Ok(Verdict::Passed),
        (Err(_), Some(row)) => Ok(Verdict::FailedAsExpected(row.reason)),
        (Ok(()), Some(row)) => Err(format!(
            "`{}` passes on {runtime}; delete its row: {}",
            case.name, row.reason
        )),
        (Err(panic), None) => Err(panic),
    }
}

/// Runs one bad plugin on one runtime.
///
/// # Errors
/// The panic's message if the host did not survive it as it should.
pub fn run_survival(fault: Fault, runtime: RuntimeName) -> Result<(), String> {
    in_world(runtime, ProcessLane::Auto, async |world| {
        crate::survival::of(world, fault).await;
    })
}

/// Runs a program in a fresh world, and turns its panic into an error.
fn in_world(
    runtime: RuntimeName,
    lane: ProcessLane,
    program: impl AsyncFnOnce(&World),
) -> Result<(), String> {
    let whole = || {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("an executor can be made");
        executor.block_on(async {
            let world = World::over(runtime, lane).await;
            program(&world).await;
            world.end().await;
        });
    };
    std::panic::catch_unwind(AssertUnwindSafe(whole)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()))
            .unwrap_or_else(|| "it panicked without a message".to_owned())
    })
}
