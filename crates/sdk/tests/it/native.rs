//! The plugin through the C ABI, as a host would call it, without a library in between.

use std::{collections::BTreeMap, ffi::c_void, ptr, slice, sync::Mutex};

use mortise_abi::{
    MT_ABI_MAJOR, MT_ABI_MINOR, MT_E_ABI, MT_E_NOMEM, MT_E_PANIC, MT_MAGIC, MT_OK, MtCall, MtEntry, MtHost,
    MtInstance, MtMethod, MtOut, MtSlice, MtStatus, MtStr,
};
use mortise_sdk::{
    CallHead, Code, Header, LogRecord, StartRequest, Status, guest::Plugin as _, json, native::Entry,
    prost::Message, prost_types::Struct,
};
use mortise_wire::{
    Health,
    host::{KvListReply, KvListRequest},
};

use crate::probe::{
    Plugin,
    contract::{ActReply, ActRequest, KeysReply, KeysRequest, act_request::Act},
    number,
};

static ENTRY: Entry = Entry::new::<Plugin>(Plugin::METADATA);

/// A host, and what was said to it.
#[derive(Debug, Default)]
struct Host {
    logs: Mutex<Vec<LogRecord>>,
    panics: Mutex<Vec<(String, String)>>,
    calls: Mutex<Vec<(u64, String, Vec<u8>)>>,
    /// What the next calls are answered with.
    answer: Mutex<Option<(MtStatus, Vec<u8>)>>,
}

/// A started instance; its host outlives it.
#[derive(Debug)]
struct Started<'a> {
    instance: *const MtInstance,
    _table: Box<MtHost>,
    _host: &'a Host,
}

/// The host's buffer, grown a little at a time so that growing is exercised.
#[repr(C)]
struct Buffer {
    out: MtOut,
    bytes: Vec<u8>,
    max: usize,
}

impl Buffer {
    fn new(max: usize) -> Self {
        let size = size_of::<MtOut>() as u32;
        let out = MtOut {
            size,
            reserved: 0,
            ptr: ptr::null_mut(),
            len: 0,
            cap: 0,
            grow: Some(grow),
        };
        Self {
            out,
            bytes: Vec::new(),
            max,
        }
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.out.len]
    }
}

unsafe extern "C" fn grow(out: *mut MtOut, min_cap: usize) -> i32 {
    // SAFETY: only buffers of this file have this function.
    let this = unsafe { &mut *out.cast::<Buffer>() };
    if min_cap > this.max {
        return MT_E_NOMEM;
    }
    this.bytes.resize(min_cap, 0xEE);
    this.out.ptr = this.bytes.as_mut_ptr();
    this.out.cap = this.bytes.len();
    MT_OK
}

fn text(text: MtStr) -> String {
    // SAFETY: the plugin's texts are valid for the call.
    let bytes = unsafe { slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8(bytes.to_vec()).expect("the ABI says UTF-8")
}

fn bytes<'a>(it: MtSlice) -> &'a [u8] {
    if it.len == 0 {
        return &[];
    }
    // SAFETY: the plugin's slices are valid for the call.
    unsafe { slice::from_raw_parts(it.ptr, it.len) }
}

unsafe extern "C" fn log(ctx: *mut c_void, record: MtSlice) {
    // SAFETY: every table of this file has a Host as its context.
    let host = unsafe { &*ctx.cast::<Host>() };
    host.logs
        .lock()
        .unwrap()
        .push(LogRecord::decode(bytes(record)).unwrap());
}

unsafe extern "C" fn panicked(ctx: *mut c_void, message: MtStr, location: MtStr) {
    // SAFETY: as above.
    let host = unsafe { &*ctx.cast::<Host>() };
    host.panics.lock().unwrap().push((text(message), text(location)));
}

unsafe extern "C" fn call(
    ctx: *mut c_void,
    parent: *const MtCall,
    target: MtStr,
    input: MtSlice,
    out: *mut MtOut,
) -> MtStatus {
    // SAFETY: as above; the parent is null or valid for the call, and `out` is the plugin's for us to write.
    let (host, parent, out) = unsafe { (&*ctx.cast::<Host>(), parent.as_ref(), &mut *out) };
    host.calls.lock().unwrap().push((
        parent.map_or(0, |it| it.call_id),
        text(target),
        bytes(input).to_vec(),
    ));
    let (status, answer) = host.answer.lock().unwrap().clone().unwrap_or_default();
    for chunk in answer.chunks(5) {
        // SAFETY: the plugin's own function on the plugin's own buffer.
        unsafe {
            assert_eq!(out.grow.unwrap()(out, out.len + chunk.len()), MT_OK);
            ptr::copy_nonoverlapping(chunk.as_ptr(), out.ptr.add(out.len), chunk.len());
        }
        out.len += chunk.len();
    }
    status
}

fn entry() -> &'static MtEntry {
    ENTRY.abi()
}

fn table(host: &Host) -> Box<MtHost> {
    Box::new(MtHost {
        size: size_of::<MtHost>() as u32,
        abi_major: MT_ABI_MAJOR,
        abi_minor: MT_ABI_MINOR,
        ctx: ptr::from_ref(host).cast_mut().cast(),
        log: Some(log),
        call: Some(call),
        panicked: Some(panicked),
        get_ext: None,
    })
}

fn start<'a>(host: &'a Host, config: &str) -> Result<Started<'a>, (MtStatus, Vec<u8>)> {
    let request = StartRequest {
        config_json: config.to_owned(),
        plugin: "probe".to_owned(),
        version: "0.3.1".to_owned(),
        instance: "probe@0.3.1#1".to_owned(),
    };
    let (table, request) = (table(host), request.encode_to_vec());
    let mut instance = ptr::null();
    let mut err = Buffer::new(1 << 20);
    // SAFETY: every argument is what mortise.h says, and valid long enough.
    let status = unsafe {
        entry().create.unwrap()(
            &*table,
            MtSlice::new(&request),
            &mut instance,
            (&raw mut err).cast(),
        )
    };
    if status != MT_OK {
        assert!(instance.is_null(), "a failed start leaves nothing behind");
        return Err((status, err.written().to_vec()));
    }
    Ok(Started {
        instance,
        _table: table,
        _host: host,
    })
}

impl Started<'_> {
    fn abi(&self) -> &MtInstance {
        // SAFETY: valid until `destroy`, which is in `drop`.
        unsafe { &*self.instance }
    }

    fn method(&self, number: u32) -> &MtMethod {
        assert!(number < self.abi().n_methods);
        // SAFETY: the plugin's table, walked by the plugin's stride.
        unsafe {
            &*self
                .abi()
                .methods
                .byte_add((number * self.abi().method_stride) as usize)
        }
    }

    fn raw(&self, number: u32, call: *const MtCall, payload: &[u8], out: &mut Buffer) -> MtStatus {
        let invoke = self.method(number).invoke.unwrap();
        // SAFETY: every argument is what mortise.h says, and valid long enough.
        unsafe {
            invoke(
                self.abi().this,
                call,
                MtSlice::new(payload),
                ptr::from_mut(out).cast(),
            )
        }
    }

    fn invoke(&self, number: u32, payload: &[u8]) -> Result<Vec<u8>, (MtStatus, Status)> {
        let mut out = Buffer::new(1 << 20);
        match self.raw(number, ptr::null(), payload, &mut out) {
            MT_OK => Ok(out.written().to_vec()),
            status => Err((status, Status::decode(out.written()).unwrap())),
        }
    }

    fn act(&self, act: Act) -> Result<ActReply, (MtStatus, Status)> {
        let reply = self.invoke(number::ACT, &ActRequest { act: Some(act) }.encode_to_vec())?;
        Ok(ActReply::decode(&*reply).unwrap())
    }

    fn health(&self) -> (MtStatus, Buffer) {
        let mut out = Buffer::new(1 << 20);
        // SAFETY: as in `raw`.
        let status = unsafe { self.abi().health.unwrap()(self.abi().this, (&raw mut out).cast()) };
        (status, out)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let abi = self.abi();
        // SAFETY: the last two calls, in the order of mortise.h.
        unsafe {
            abi.deactivate.unwrap()(abi.this, ptr::null_mut());
            abi.destroy.unwrap()(abi.this);
        }
    }
}

#[test]
fn the_entry_says_what_it_is() {
    assert_eq!((entry().magic, entry().abi_major), (MT_MAGIC, MT_ABI_MAJOR));
    let metadata = mortise_wire::Metadata::decode(bytes(entry().metadata)).expect("an encoded Metadata");
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let table: Vec<_> = (0..started.abi().n_methods)
        .map(|it| started.method(it))
        .map(|it| (text(it.service), text(it.method), it.flags, it.wire_hash.to_vec()))
        .collect();
    let told: Vec<_> = metadata
        .methods
        .into_iter()
        .map(|it| (it.service, it.name, it.flags, it.wire_hash))
        .collect();
    assert_eq!(table, told, "the table is in the metadata's order");
    assert_eq!(table.len() as u32, number::END);
    assert_eq!(table[number::KEYS as usize].1, "Keys");
    assert_eq!(
        table[number::ACT_INLINE as usize].2,
        3,
        "idempotent and nonblocking"
    );
}

#[test]
fn a_call_without_a_head_echoes() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    for payload in [vec![], vec![1, 2, 3], vec![9; 70_000]] {
        let reply = started.act(Act::Echo(payload.clone())).expect("it echoes");
        assert_eq!(reply.bytes, payload);
    }
}

#[test]
fn a_reply_is_appended_and_an_error_takes_its_place() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let mut out = Buffer::new(1 << 20);
    let request = |act| ActRequest { act: Some(act) }.encode_to_vec();
    assert_eq!(
        started.raw(number::ACT, ptr::null(), &request(Act::Echo(vec![1])), &mut out),
        MT_OK
    );
    let first = out.written().to_vec();
    assert_eq!(
        started.raw(number::ACT, ptr::null(), &request(Act::Echo(vec![2])), &mut out),
        MT_OK
    );
    assert_eq!(out.written(), [&first[..], &[10, 1, 2]].concat());
    assert_eq!(
        started.raw(number::ACT, ptr::null(), &request(Act::Fail(5)), &mut out),
        5
    );
    let status = Status::decode(&out.written()[first.len() * 2..]).expect("what was there stays");
    assert_eq!(
        (status.code, &*status.message, status.details.len()),
        (5, "as wished", 1)
    );
}

#[test]
fn a_reply_over_the_hosts_limit_is_no_memory() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let mut out = Buffer::new(100);
    let request = ActRequest {
        act: Some(Act::Fill(101)),
    }
    .encode_to_vec();
    assert_eq!(
        started.raw(number::ACT, ptr::null(), &request, &mut out),
        MT_E_NOMEM
    );
    assert!(
        started.act(Act::Fill(101)).is_ok(),
        "the instance is none the worse"
    );
}

#[test]
fn a_malformed_request_is_the_callers_fault() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let (code, status) = started
        .invoke(number::ACT, &[0x0a, 0xff])
        .expect_err("a cut varint");
    assert_eq!(code, Code::InvalidArgument as i32);
    assert!(status.message.contains("probe.v1.Probe/Act"), "{status}");
    let (code, _) = started.invoke(number::ACT, &[]).expect_err("no act is set");
    assert_eq!(code, Code::InvalidArgument as i32);
}

#[test]
fn a_code_outside_of_grpc_becomes_unknown() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    for code in [0, -4, 99] {
        let (status, body) = started.act(Act::Fail(code)).expect_err("it fails");
        assert_eq!(
            (status, body.code),
            (Code::Unknown as i32, Code::Unknown as i32),
            "code {code}"
        );
    }
}

#[test]
fn the_call_is_seen_from_inside() {
    let host = Host::default();
    let started = start(&host, r#"{"a":1}"#).expect("it starts");
    let header = |name: &str, value: &str| Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let head = CallHead {
        traceparent: "00-1-2-01".to_owned(),
        metadata: vec![header("x-canary", "yes")],
        caller: "other".to_owned(),
        ..CallHead::default()
    }
    .encode_to_vec();
    let cancelled = 1_u32;
    let call = MtCall {
        size: size_of::<MtCall>() as u32,
        flags: 0,
        call_id: 77,
        deadline_ns: 60_000_000_000,
        cancelled: &cancelled,
        head: MtSlice::new(&head),
        depth: 3,
        reserved: 0,
    };
    let mut out = Buffer::new(1 << 20);
    let request = ActRequest {
        act: Some(Act::Inspect(true)),
    }
    .encode_to_vec();
    assert_eq!(started.raw(number::ACT, &call, &request, &mut out), MT_OK);
    let seen = ActReply::decode(out.written()).unwrap().seen;
    for (name, value) in [
        ("call_id", "77"),
        ("traceparent", "00-1-2-01"),
        ("header x-canary", "yes"),
        ("caller", "other"),
        ("depth", "3"),
        ("time left", "true"),
        ("cancelled", "true"),
        ("plugin", "probe"),
        ("version", "0.3.1"),
        ("instance", "probe@0.3.1#1"),
        ("config", r#"{"a":1}"#),
    ] {
        assert_eq!(seen.get(name).map(|it| &**it), Some(value), "{name}");
    }
    let logs = host.logs.lock().unwrap();
    let [line] = &logs[..] else {
        panic!("one line, not {logs:?}")
    };
    assert_eq!(
        (&*line.message, line.level, line.call_id),
        ("inspected by Some(\"other\")", 4, 77)
    );
    assert_eq!(line.fields, [header("call", "77"), header("depth", "3")]);
}

#[test]
fn a_cancelled_call_stops_waiting() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let cancelled = 1_u32;
    let call = MtCall {
        size: size_of::<MtCall>() as u32,
        flags: 0,
        call_id: 1,
        deadline_ns: 0,
        cancelled: &cancelled,
        head: MtSlice::EMPTY,
        depth: 0,
        reserved: 0,
    };
    let mut out = Buffer::new(1 << 20);
    let request = ActRequest {
        act: Some(Act::SleepMs(u32::MAX)),
    }
    .encode_to_vec();
    assert_eq!(
        started.raw(number::ACT, &call, &request, &mut out),
        Code::Cancelled as i32
    );
    let call = MtCall {
        cancelled: ptr::null(),
        deadline_ns: 1,
        ..call
    };
    let mut out = Buffer::new(1 << 20);
    assert_eq!(
        started.raw(number::ACT, &call, &request, &mut out),
        Code::DeadlineExceeded as i32
    );
}

#[test]
fn calls_to_the_host_carry_their_parent_and_bring_its_answer() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let keys = vec!["a".repeat(40), "b".to_owned()];
    *host.answer.lock().unwrap() = Some((MT_OK, KvListReply { keys: keys.clone() }.encode_to_vec()));
    let reply = started.invoke(
        number::KEYS,
        &KeysRequest {
            prefix: "p".to_owned(),
        }
        .encode_to_vec(),
    );
    assert_eq!(
        KeysReply::decode(&*reply.expect("it answers")).unwrap().keys,
        keys
    );
    let (parent, target, payload) = host.calls.lock().unwrap().pop().expect("one call");
    assert_eq!((parent, &*target), (0, "mortise.host.v1.Kv/List"));
    assert_eq!(
        KvListRequest::decode(&*payload).unwrap(),
        KvListRequest {
            prefix: "p".to_owned(),
            limit: 10
        }
    );

    let denied = Status::new(Code::PermissionDenied, "no grant `kv`").encode_to_vec();
    *host.answer.lock().unwrap() = Some((7, denied));
    let (code, status) = started.invoke(number::KEYS, &[]).expect_err("the host said no");
    assert_eq!((code, &*status.message), (7, "no grant `kv`"));

    *host.answer.lock().unwrap() = Some((MT_E_ABI, Vec::new()));
    let (code, status) = started.invoke(number::KEYS, &[]).expect_err("the host is broken");
    assert_eq!(code, Code::Internal as i32);
    assert!(status.message.contains("platform status -7"), "{status}");
}

#[test]
fn a_panic_is_told_and_ends_the_instance_but_not_the_host() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let (code, status) = started.act(Act::Panic("boom".to_owned())).expect_err("it panics");
    assert_eq!(code, MT_E_PANIC);
    assert!(
        status.message.contains("boom") && status.message.contains("probe.rs"),
        "{status}"
    );
    let panics = host.panics.lock().unwrap().clone();
    let [(message, location)] = &panics[..] else {
        panic!("one panic, not {panics:?}")
    };
    assert_eq!(message, "boom");
    assert!(location.contains("probe.rs:"), "{location}");

    let (code, status) = started.act(Act::Echo(vec![1])).expect_err("it is poisoned");
    assert_eq!(code, MT_E_PANIC);
    assert!(status.message.contains("panicked before"), "{status}");
    assert_eq!(started.health().0, MT_E_PANIC);
    assert_eq!(host.panics.lock().unwrap().len(), 1, "plugin code ran no more");

    let other = start(&host, "{}").expect("a second instance of the same library starts");
    assert!(other.act(Act::Echo(vec![1])).is_ok(), "and is not poisoned");
}

#[test]
fn health_is_the_plugins_own_word() {
    let host = Host::default();
    let (status, out) = start(&host, "{}").expect("it starts").health();
    assert_eq!(
        (status, Health::decode(out.written()).unwrap().serving),
        (MT_OK, true)
    );
    let (status, out) = start(&host, r#"{"sick":1}"#).expect("it starts").health();
    let health = Health::decode(out.written()).unwrap();
    assert_eq!(
        (status, health.serving, &*health.detail),
        (MT_OK, false, "it was told to be sick")
    );
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let host = Host::default();
    let (code, status) = start(&host, r#"{"refuse":1}"#).expect_err("it refuses");
    assert_eq!(code, Code::FailedPrecondition as i32);
    assert_eq!(Status::decode(&*status).unwrap().message, "it was told to refuse");
    let (code, _) = start(&host, r#"{"panic":1}"#).expect_err("it panics");
    assert_eq!(code, MT_E_PANIC);
    assert_eq!(host.panics.lock().unwrap()[0].0, "in start");
}

#[test]
fn another_major_version_and_a_short_table_are_refused() {
    let host = Host::default();
    let create = |table: &MtHost| {
        let mut instance = ptr::null();
        // SAFETY: every argument is what mortise.h says, and valid long enough.
        unsafe { entry().create.unwrap()(table, MtSlice::EMPTY, &mut instance, ptr::null_mut()) }
    };
    let mut table = table(&host);
    table.abi_major += 1;
    assert_eq!(create(&table), MT_E_ABI);
    table.abi_major -= 1;
    table.size = 32;
    assert_eq!(create(&table), MT_E_ABI);
}

#[test]
fn a_plugin_without_a_schema_takes_and_gives_objects() {
    let host = Host::default();
    let started = start(&host, "{}").expect("it starts");
    let order = BTreeMap::from([("item".to_owned(), vec![1, 2, 3])]);
    let request = json::to_struct(&order).expect("an object").encode_to_vec();
    let reply = started.invoke(number::FREE, &request).expect("it gives it back");
    let reply: BTreeMap<String, Vec<u8>> =
        json::from_struct(Struct::decode(&*reply).unwrap()).expect("the same");
    assert_eq!(reply, order);
}
