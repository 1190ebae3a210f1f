//! The plugin's life in its process: handshake, calls, end.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{ExitCode, exit},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use mortise_wire::{
    CallHead, Code, Level, LogRecord, METHOD_NONBLOCKING, MethodKind, StartRequest, Status, StreamLink,
    frame::{Frame, Kind, LANE_VERSION, number, split_call},
    plugin::{Hello, Welcome},
};
use prost::Message;

use super::{
    carrier::{Answer, Calls, CarriedCall, Carrier},
    lane::{self, Lane, ReadError, Reader, lock},
    relief::Relief,
    streams::Streaming,
};
use crate::{
    Cx, Link, Result,
    guest::{Method, Plugin, method, unknown_method},
};

const EXIT_REFUSED: i32 = 1;
const EXIT_PROTOCOL: i32 = 2;
const EXIT_PANICKED: i32 = 101;

/// Calls that wait for a worker; the host admits fewer, so more is a host that does not keep to its own number.
const QUEUE_MAX: usize = 4096;

/// The one running copy.
struct Work<P: 'static> {
    lane: Arc<Lane>,
    /// Whoever has it reads.
    reader: Mutex<Reader>,
    relief: Arc<Relief>,
    relieved: OnceLock<bool>,
    plugin: OnceLock<P>,
    started: OnceLock<StartRequest>,
    workers_max: OnceLock<usize>,
    /// Calls come beside the frames, and the host hears by an End of its own that one is over that it gave up.
    carries_calls: OnceLock<bool>,
    state: Mutex<State<P>>,
    /// A job came.
    queued: Condvar,
    /// The last job is done.
    idle: Condvar,
}

struct State<P: 'static> {
    jobs: VecDeque<Job<P>>,
    workers: usize,
    workers_idle: usize,
    /// Methods that run, on whatever thread but the nonblocking ones: never more than agreed.
    running: usize,
    /// Calls that were taken and not answered, by their number.
    unanswered: HashMap<u64, Unanswered>,
}

struct Job<P: 'static> {
    number: u32,
    method: &'static Method<P>,
    call: Call,
    payload: Bytes,
    /// Credit of its frame, until it is taken up.
    units: u32,
    /// It was opened as a stream.
    stream: Option<Messages>,
    /// Where the outcome goes, if not into a frame.
    answer: Option<Answer>,
}

struct Unanswered {
    cancel: Arc<Cancel>,
    stream: Option<Arc<Streaming>>,
    /// The host has given up a call that did not come as a frame, and is told once it is over.
    given_up: bool,
}

/// The messages of a call that streams.
enum Messages {
    Frames(Arc<Streaming>),
    Carried(Arc<dyn StreamLink>),
}

/// The thread on which a method runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The one that reads, and reads again when the method has returned.
    Reader,
    /// The one that read, with another standing by.
    Relieved,
    Worker,
}

/// The host's side of a `Cx`, for one call.
struct Call {
    lane: Arc<Lane>,
    started: &'static StartRequest,
    head: Bytes,
    call_id: u64,
    arrived: Instant,
    cancel: Arc<Cancel>,
    place: Place,
    relief: Option<Arc<Relief>>,
}

/// Set when the host sends Cancel.
#[derive(Default)]
struct Cancel {
    set: Mutex<bool>,
    woken: Condvar,
}

thread_local! {
    /// The call that plugin code on this thread works on, for the panic hook.
    static CALL_ID: Cell<u64> = const { Cell::new(0) };
}

/// Serves until the host is gone or says stop. Never returns but where nothing was started.
pub(super) fn serve<P: Plugin>(socket: UnixStream, carrier: Option<Box<dyn Carrier>>) -> ExitCode {
    let (lane, mut reader) = match Lane::new(&socket, carrier) {
        Ok((lane, reader)) => (Arc::new(lane), reader),
        Err(error) => {
            eprintln!(
                "{} {}: cannot use the lane: {error}",
                P::BUILD.name,
                P::BUILD.version
            );
            return ExitCode::from(EXIT_PROTOCOL as u8);
        }
    };
    drop(socket);
    log_panics(&lane);
    let concurrency = greet::<P>(&lane, &mut reader);
    // One per process, for its life.
    let work: &'static Work<P> = Box::leak(Box::new(Work {
        lane,
        reader: Mutex::new(reader),
        relief: Arc::new(Relief::new(crate::guest::numbers::<P>())),
        relieved: OnceLock::new(),
        plugin: OnceLock::new(),
        started: OnceLock::new(),
        workers_max: OnceLock::from(concurrency),
        carries_calls: OnceLock::new(),
        state: Mutex::new(State {
            jobs: VecDeque::new(),
            workers: 0,
            workers_idle: 0,
            running: 0,
            unanswered: HashMap::new(),
        }),
        queued: Condvar::new(),
        idle: Condvar::new(),
    }));
    let mut reader = lock(&work.reader);
    let carried = reader.take_calls(work);
    work.carries_calls.get_or_init(|| carried);
    work.read(reader)
}

/// Hello and Welcome; gives the number of calls to work on at once.
fn greet<P: Plugin>(lane: &Arc<Lane>, reader: &mut Reader) -> usize {
    let build = P::BUILD;
    lane.send(
        Kind::Hello,
        0,
        &Hello {
            lane_versions: vec![LANE_VERSION],
            name: build.name.to_owned(),
            version: build.version.to_owned(),
            contract_hash: build.contract_hash.to_vec(),
            concurrency: build.concurrency,
            lanes: reader.offered(),
        },
    );
    let frame = read(reader);
    let welcome = match (frame.kind, Welcome::decode(frame.body)) {
        (Kind::Welcome, Ok(it)) => it,
        (kind, _) => protocol(format_args!("expected Welcome, and got {kind:?}")),
    };
    if welcome.lane_version != LANE_VERSION {
        protocol(format_args!(
            "the host chose lane version {}, and this plugin speaks {LANE_VERSION}",
            welcome.lane_version
        ));
    }
    if let Err(why) = lane.welcomed(reader, &welcome) {
        protocol(why);
    }
    let concurrency = match welcome.concurrency {
        0 => build.concurrency,
        host => host.min(build.concurrency.max(1)),
    };
    concurrency.max(1) as usize
}

fn read(reader: &mut Reader) -> Frame {
    match reader.next() {
        Ok(frame) => frame,
        Err(ReadError::Closed) => exit(0),
        Err(ReadError::Frame(error)) => protocol(error),
        Err(ReadError::Transport(error)) => protocol(error),
    }
}

fn protocol(why: impl std::fmt::Display) -> ! {
    eprintln!("the host broke the protocol: {why}");
    exit(EXIT_PROTOCOL)
}

// === impl Work: the reading thread ===

impl<P: Plugin> Work<P> {
    /// Reads, whenever this thread is the one that does, and stands by in between.
    fn read(&'static self, mut reader: MutexGuard<'static, Reader>) -> ! {
        loop {
            let frame = read(&mut reader);
            let Some(job) = self.receive(frame) else {
                continue;
            };
            drop(reader);
            lane::reads_no_longer();
            let number = job.number;
            self.relief.begin(number);
            self.run(job);
            self.relief.end();
            reader = self
                .try_reader()
                .unwrap_or_else(|| self.relief.stand_by(|| self.try_reader()));
        }
    }

    fn try_reader(&'static self) -> Option<MutexGuard<'static, Reader>> {
        match self.reader.try_lock() {
            Ok(reader) => Some(reader),
            Err(TryLockError::Poisoned(reader)) => Some(reader.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes a frame. A job that it gives is to be run by the reading thread, with the reader put down.
    fn receive(&'static self, frame: Frame) -> Option<Job<P>> {
        let units = self.lane.received(&frame).unwrap_or_else(|why| protocol(why));
        match frame.kind {
            Kind::Call | Kind::Open => return self.call(frame, units),
            Kind::Item | Kind::End | Kind::Grant => self.on_stream(frame),
            Kind::Cancel => {
                self.cancel(frame.call_id);
                self.give_up(frame.call_id);
            }
            Kind::HostReply | Kind::HostError => {
                self.lane.replied(frame);
                self.lane.release(units);
            }
            Kind::Credit => self.lane.credited(&frame).unwrap_or_else(|why| protocol(why)),
            Kind::Ping => self.aside("mortise-health", move || self.health(frame.call_id)),
            Kind::Start => self.aside("mortise-start", move || self.start(&frame.body)),
            Kind::Stop => self.aside("mortise-stop", || self.stop()),
            Kind::Hello
            | Kind::Welcome
            | Kind::Ready
            | Kind::Failed
            | Kind::Reply
            | Kind::Error
            | Kind::HostCall
            | Kind::Log
            | Kind::Pong => protocol(format_args!("it sent {:?}", frame.kind)),
        }
        None
    }

    fn call(&'static self, frame: Frame, units: u32) -> Option<Job<P>> {
        let arrived = Instant::now();
        let (call_id, kind) = (frame.call_id, frame.kind);
        let (number, head, payload) = split_call(frame.body).unwrap_or_else(|error| protocol(error));
        let refuse = |status: Status| {
            self.lane.release(units);
            self.lane.send(Kind::Error, call_id, &status);
        };
        let (Some(method), Some(started)) = (method::<P>(number), self.started.get()) else {
            refuse(unknown_method::<P>(number));
            return None;
        };
        let cancel = Arc::new(Cancel::default());
        let stream = (kind == Kind::Open)
            .then(|| Arc::new(Streaming::new(self.lane.clone(), call_id, head.clone(), arrived)));
        let unanswered = Unanswered {
            cancel: cancel.clone(),
            stream: stream.clone(),
            given_up: false,
        };
        let streams = stream.is_some();
        let job = |place| Job {
            number,
            method,
            call: Call {
                lane: self.lane.clone(),
                started,
                head,
                call_id,
                arrived,
                cancel: cancel.clone(),
                place,
                relief: (place == Place::Relieved).then(|| self.relief.clone()),
            },
            payload,
            units,
            stream: stream.map(Messages::Frames),
            answer: None,
        };
        if !streams && method.flags & METHOD_NONBLOCKING != 0 {
            self.run(job(Place::Reader));
            return None;
        }
        let mut state = lock(&self.state);
        if state.jobs.len() >= QUEUE_MAX {
            drop(state);
            refuse(queue_full());
            return None;
        }
        state.unanswered.insert(call_id, unanswered);
        // A stream waits, that is what it is for.
        let free = !streams && state.jobs.is_empty() && state.running < self.running_max();
        if free && self.is_relieved() && self.relief.may_run(number) {
            state.running += 1;
            return Some(job(Place::Relieved));
        }
        self.hand_over(state, job(Place::Worker));
        None
    }

    /// Gives a job to the workers, and starts one more if all are busy.
    fn hand_over(&'static self, mut state: MutexGuard<'_, State<P>>, job: Job<P>) {
        state.jobs.push_back(job);
        let wanted = state.jobs.len() > state.workers_idle && state.workers < self.running_max();
        state.workers += usize::from(wanted);
        drop(state);
        self.queued.notify_one();
        if wanted
            && thread::Builder::new()
                .name("mortise-worker".to_owned())
                .spawn(|| self.work())
                .is_err()
        {
            // The other workers will come to it. Without any, the call's deadline does.
            lock(&self.state).workers -= 1;
        }
    }

    /// Methods that may run at once.
    fn running_max(&self) -> usize {
        *self.workers_max.wait()
    }

    /// Whether there is a second thread for the reader; it is started when first asked for.
    fn is_relieved(&'static self) -> bool {
        *self.relieved.get_or_init(|| {
            let relief = || {
                let reader = self.relief.stand_by(|| self.try_reader());
                self.read(reader)
            };
            thread::Builder::new()
                .name("mortise-relief".to_owned())
                .spawn(relief)
                .is_ok()
        })
    }

    /// Something for a call that streams. What comes after the method has returned was on its way.
    fn on_stream(&self, frame: Frame) {
        let open = lock(&self.state)
            .unanswered
            .get(&frame.call_id)
            .and_then(|it| it.stream.clone());
        let Some(stream) = open else { return };
        let taken = match frame.kind {
            Kind::Item => stream.item(frame.body),
            Kind::Grant => number(&frame)
                .map_err(|error| error.to_string())
                .and_then(|it| stream.granted(it)),
            _ => {
                stream.end();
                Ok(())
            }
        };
        taken.unwrap_or_else(|why| protocol(why));
    }

    fn cancel(&self, call_id: u64) {
        let cancel = lock(&self.state).unanswered.get(&call_id).map(|it| {
            if let Some(stream) = &it.stream {
                stream.cancel();
            }
            it.cancel.clone()
        });
        if let Some(cancel) = cancel {
            *lock(&cancel.set) = true;
            cancel.woken.notify_all();
            self.lane.cancel(call_id);
        }
    }

    /// The host waits for the end of a call that did not come as a frame: it hears of it when the method has returned, or now if there is none.
    fn give_up(&self, call_id: u64) {
        if self.carries_calls.get() != Some(&true) {
            return;
        }
        let mut state = lock(&self.state);
        match state.unanswered.get_mut(&call_id) {
            Some(it) => it.given_up = true,
            None => {
                drop(state);
                self.lane.send_bytes(Kind::End, call_id, &[]);
            }
        }
    }

    /// Runs something short that may block, without holding up the lane.
    fn aside(&self, name: &str, body: impl FnOnce() + Send + 'static) {
        if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(body) {
            eprintln!(
                "{} {}: cannot start a thread: {error}",
                P::BUILD.name,
                P::BUILD.version
            );
            exit(EXIT_REFUSED);
        }
    }
}

// === impl Work: calls that are no frames ===

impl<P: Plugin> Calls for Work<P> {
    fn find(&self, target: &str) -> Option<(u32, MethodKind)> {
        let (service, name) = target.split_once('/')?;
        if service == mortise_wire::lifecycle::SERVICE {
            return Some((crate::lifecycle::number::<P>(name)?, MethodKind::Unary));
        }
        let service = P::SERVICES.iter().find(|it| it.name == service)?;
        let nth = service.methods.iter().position(|it| it.name == name)?;
        let number = service.first.checked_add(u32::try_from(nth).ok()?)?;
        Some((number, MethodKind::of_flags(service.methods[nth].flags)))
    }

    fn begin(&'static self, call: CarriedCall) {
        let CarriedCall {
            number,
            head,
            payload,
            stream,
            answer,
        } = call;
        let (Some(method), Some(started)) = (method::<P>(number), self.started.get()) else {
            return answer(Err(unknown_method::<P>(number)));
        };
        let streams = stream.is_some();
        let call_id = head.call_id;
        let cancel = Arc::new(Cancel::default());
        let unanswered = Unanswered {
            cancel: cancel.clone(),
            stream: None,
            given_up: false,
        };
        let job = |place, answer| Job {
            number,
            method,
            call: Call {
                lane: self.lane.clone(),
                started,
                head: head.encode_to_vec().into(),
                call_id,
                arrived: Instant::now(),
                cancel,
                place,
                relief: None,
            },
            payload,
            units: 0,
            stream: stream.map(Messages::Carried),
            answer: Some(answer),
        };
        if !streams && method.flags & METHOD_NONBLOCKING != 0 {
            // The carrier's thread moves the frames too.
            return lane::as_reader(|| self.run(job(Place::Reader, answer)));
        }
        let mut state = lock(&self.state);
        if state.jobs.len() >= QUEUE_MAX {
            drop(state);
            return answer(Err(queue_full()));
        }
        state.unanswered.insert(call_id, unanswered);
        self.hand_over(state, job(Place::Worker, answer));
    }

    fn cancel(&self, call_id: u64) {
        Work::cancel(self, call_id);
    }
}

fn queue_full() -> Status {
    Status::resource_exhausted(format_args!("{QUEUE_MAX} calls wait already"))
}

// === impl Work: the other threads ===

impl<P: Plugin> Work<P> {
    fn start(&'static self, request: &[u8]) {
        let outcome = StartRequest::decode(request)
            .map_err(|error| {
                Status::invalid_argument(format_args!("the start request does not parse: {error}"))
            })
            .and_then(|request| {
                let started = self.started.get_or_init(|| request);
                let cx = Cx::new(Call {
                    lane: self.lane.clone(),
                    started,
                    head: Bytes::new(),
                    call_id: 0,
                    arrived: Instant::now(),
                    cancel: Arc::default(),
                    place: Place::Worker,
                    relief: None,
                });
                let plugin = guarded(0, || P::start(&cx))?;
                self.plugin
                    .set(plugin)
                    .map_err(|_| Status::failed_precondition("Start was sent twice"))
            });
        match outcome {
            Ok(()) => self.lane.send_bytes(Kind::Ready, 0, &[]),
            Err(status) => {
                self.lane.send(
                    Kind::Failed,
                    0,
                    &Status {
                        code: status.kind() as i32,
                        ..status
                    },
                );
                self.lane.flush();
                exit(EXIT_REFUSED);
            }
        }
    }

    fn work(&self) {
        loop {
            let mut state = lock(&self.state);
            let job = loop {
                if state.running < self.running_max()
                    && let Some(job) = state.jobs.pop_front()
                {
                    state.running += 1;
                    break job;
                }
                state.workers_idle += 1;
                state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.workers_idle -= 1;
            };
            drop(state);
            self.run(job);
        }
    }

    /// Runs a method and answers, exactly once, also if the call was cancelled: that is how the host knows that it ended.
    fn run(&self, job: Job<P>) {
        let Job {
            number,
            method,
            call,
            payload,
            units,
            stream,
            answer,
        } = job;
        self.lane.release(units);
        let (call_id, place, begun) = (call.call_id, call.place, Instant::now());
        let cx = Cx::new(call);
        let outcome = match self.plugin.get() {
            Some(plugin) => guarded(call_id, || match &stream {
                None => (method.invoke)(plugin, &cx, &payload).map(Some),
                Some(Messages::Frames(link)) => (method.stream)(plugin, &cx, &**link).map(|()| None),
                Some(Messages::Carried(link)) => (method.stream)(plugin, &cx, &**link).map(|()| None),
            }),
            None => Err(Status::failed_precondition(
                "the plugin was called before it was ready",
            )),
        };
        if stream.is_some()
            && let Some(it) = lock(&self.state).unanswered.get_mut(&call_id)
        {
            // What comes for it from now on was on its way.
            it.stream = None;
        }
        if place != Place::Reader {
            self.relief.note(number, begun.elapsed(), place == Place::Worker);
        }
        match (answer, outcome) {
            (Some(answer), outcome) => answer(outcome.and_then(|reply| match &reply {
                Some(bytes) => self.lane.fits(bytes.len()).map(|_| reply),
                None => Ok(reply),
            })),
            (None, Ok(Some(reply))) => self.lane.send_bytes(Kind::Reply, call_id, &reply),
            (None, Ok(None)) => self.lane.send_bytes(Kind::End, call_id, &[]),
            (None, Err(status)) => {
                self.lane.send(
                    Kind::Error,
                    call_id,
                    &Status {
                        code: status.kind() as i32,
                        ..status
                    },
                );
            }
        }
        if place != Place::Reader {
            // Not before the answer is sent: `stop` ends the process when the last one is.
            let mut state = lock(&self.state);
            let unanswered = state.unanswered.remove(&call_id);
            state.running -= 1;
            if place == Place::Relieved && !state.jobs.is_empty() {
                // It came while we held the last place; a worker looks again by itself.
                self.queued.notify_one();
            }
            if state.unanswered.is_empty() {
                self.idle.notify_all();
            }
            drop(state);
            if unanswered.is_some_and(|it| it.given_up) {
                self.lane.send_bytes(Kind::End, call_id, &[]);
            }
        }
    }

    fn health(&self, call_id: u64) {
        let health = match self.plugin.get() {
            Some(plugin) => guarded(0, || crate::health_of(plugin)),
            None => mortise_wire::Health {
                serving: false,
                detail: "not started".to_owned(),
            },
        };
        self.lane.send(Kind::Pong, call_id, &health);
    }

    fn stop(&self) -> ! {
        let mut state = lock(&self.state);
        while !state.unanswered.is_empty() {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if let Some(plugin) = self.plugin.get() {
            guarded(0, || plugin.stop());
        }
        self.lane.close();
        exit(0)
    }
}

// === impl Call ===

impl Call {
    fn will_wait(&self) {
        if let Some(relief) = &self.relief {
            relief.call();
        }
    }
}

impl Link for Call {
    fn started(&self) -> &StartRequest {
        self.started
    }

    fn head(&self) -> CallHead {
        CallHead {
            call_id: self.call_id,
            ..CallHead::decode(self.head.clone()).unwrap_or_default()
        }
    }

    fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }

    fn is_cancelled(&self) -> bool {
        *lock(&self.cancel.set)
    }

    fn now(&self) -> Result<SystemTime> {
        Ok(SystemTime::now())
    }

    fn wait(&self, duration: Duration) {
        self.will_wait();
        let set = lock(&self.cancel.set);
        let waited = self.cancel.woken.wait_timeout_while(set, duration, |set| !*set);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn log(&self, record: &LogRecord) {
        self.lane.send(Kind::Log, 0, record);
    }

    fn call(&self, _: u64, target: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        if self.place == Place::Reader {
            return Err(Status::new(
                Code::FailedPrecondition,
                format!(
                    "`{target}` was called out of a method that its contract calls nonblocking; take the option from the method"
                ),
            ));
        }
        self.will_wait();
        self.lane
            .call(self.call_id, target, &payload, || self.is_cancelled())
    }
}

// === panics ===

/// Runs plugin code. A panic in it ends the process: its state is not to be trusted, and a process is replaced for little.
fn guarded<T>(call_id: u64, body: impl FnOnce() -> T) -> T {
    CALL_ID.set(call_id);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(it) => {
            CALL_ID.set(0);
            it
        }
        // The hook has told the host.
        Err(_) => exit(EXIT_PANICKED),
    }
}

/// Before the default hook prints to standard error, the host gets a log line that knows its call.
fn log_panics(lane: &Arc<Lane>) {
    let (lane, default) = (lane.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or("a panic without a text");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        lane.send(
            Kind::Log,
            0,
            &LogRecord {
                level: Level::Error as i32,
                message: format!("panicked at {location}: {message}"),
                call_id: CALL_ID.try_with(Cell::get).unwrap_or_default(),
                ..LogRecord::default()
            },
        );
        lane.flush();
        default(info);
    }));
}
