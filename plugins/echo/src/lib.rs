//! The conformance guest: every thing a plugin can do, and every way in which it can misbehave.
//!
//! The contract (`contract/echo.proto`) says what each method is for; the suite calls all of them on every runtime.
#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use mortise_sdk::{prelude::*, prost_types::Any};

mortise_sdk::contract!();
use contract::*;

/// Memory is touched this often: no system has smaller pages.
const PAGE_BYTES: usize = 4096;

/// Calls between two looks at the clock in [`Echo::spin`].
const SPIN_ROUNDS: u64 = 1 << 16;

#[derive(Default)]
struct ConformanceGuest {
    count: AtomicU64,
}

#[mortise_sdk::plugin(start = Self::open, health = Self::healthy, also(Streams))]
impl Echo for ConformanceGuest {
    fn echo(&self, _: &Cx, EchoRequest { message, text }: EchoRequest) -> Result<EchoReply> {
        Ok(EchoReply { message, text })
    }

    fn reverse(&self, _: &Cx, request: ReverseRequest) -> Result<ReverseReply> {
        Ok(ReverseReply {
            text: request.text.chars().rev().collect(),
        })
    }

    fn fail(&self, _: &Cx, request: FailRequest) -> Result<FailReply> {
        let details = request.details.into_iter().map(|it| Any {
            type_url: it.type_url,
            value: it.value,
        });
        Err(Status {
            code: request.code,
            message: request.message,
            details: details.collect(),
            retryable: request.retryable,
        })
    }

    fn panic(&self, _: &Cx, request: PanicRequest) -> Result<PanicReply> {
        panic!("{}", request.message);
    }

    fn spin(&self, _: &Cx, request: SpinRequest) -> Result<SpinReply> {
        let bound = Bound::new(request.bound_ms);
        let mut rounds = 0_u64;
        loop {
            rounds = black_box(rounds + 1);
            if rounds.is_multiple_of(SPIN_ROUNDS) && bound.is_over() {
                return Ok(SpinReply { rounds });
            }
        }
    }

    fn allocate(&self, _: &Cx, request: AllocateRequest) -> Result<AllocateReply> {
        let blocks: Vec<_> = (0..request.mib)
            .map(|_| {
                let mut block = vec![0_u8; 1 << 20];
                block.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
                black_box(block)
            })
            .collect();
        let bytes = blocks.iter().map(|it| it.len() as u64).sum();
        if request.leak {
            std::mem::forget(blocks);
        }
        Ok(AllocateReply { bytes })
    }

    fn sleep(&self, cx: &Cx, request: SleepRequest) -> Result<SleepReply> {
        cx.sleep(Duration::from_millis(request.ms.into()))?;
        Ok(SleepReply {})
    }

    fn log(&self, cx: &Cx, request: LogRequest) -> Result<LogReply> {
        let level = match request.level {
            1 => Level::Trace,
            2 => Level::Debug,
            4 => Level::Warn,
            5 => Level::Error,
            _ => Level::Info,
        };
        for line in 0..request.lines {
            mortise_sdk::log!(cx, level, { line = line }, "{}", request.message);
        }
        Ok(LogReply {})
    }

    fn host_info(&self, cx: &Cx, _: HostInfoRequest) -> Result<HostInfoReply> {
        let left = cx.remaining();
        let unix = cx
            .now()?
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(HostInfoReply {
            has_deadline: left.is_some(),
            deadline_left_ns: nanoseconds(left.unwrap_or_default()),
            traceparent: cx.traceparent().to_owned(),
            metadata: cx
                .metadata()
                .iter()
                .map(|it| (it.name.clone(), it.value.clone()))
                .collect(),
            depth: cx.depth(),
            caller: cx.caller().unwrap_or_default().to_owned(),
            call_id: cx.call_id(),
            plugin: cx.plugin().to_owned(),
            version: cx.version().to_owned(),
            instance: cx.instance().to_owned(),
            config_json: cx.config_json().to_owned(),
            unix_ns: nanoseconds(unix),
        })
    }

    fn kv_round_trip(&self, cx: &Cx, request: KvRoundTripRequest) -> Result<KvRoundTripReply> {
        let (kv, key) = (cx.kv(), &request.key);
        let before = kv.get(key)?;
        kv.set(key, request.value)?;
        let value = kv
            .get(key)?
            .ok_or_else(|| Status::internal(format_args!("`{key}` was set and is not there")))?;
        let keys = kv.list(key, 100)?;
        let existed = if request.keep { true } else { kv.delete(key)? };
        Ok(KvRoundTripReply {
            before,
            value,
            keys,
            existed,
        })
    }

    fn call_plugin(&self, cx: &Cx, request: CallPluginRequest) -> Result<CallPluginReply> {
        Ok(CallPluginReply {
            payload: cx.call_blocking(&request.target, request.payload)?,
        })
    }

    fn version(&self, _: &Cx, _: VersionRequest) -> Result<VersionReply> {
        Ok(VersionReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn malformed(&self, _: &Cx, _: MalformedRequest) -> Result<MalformedReply> {
        Ok(MalformedReply {})
    }

    fn count(&self, _: &Cx, _: CountRequest) -> Result<CountReply> {
        Ok(CountReply {
            count: self.count.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }
}

impl Streams for ConformanceGuest {
    fn numbers(&self, cx: &Cx, request: NumbersRequest, replies: &mut Replies<Number>) -> Result<()> {
        for value in 0..request.count {
            replies.send(Number {
                value: value.into(),
                filler: vec![0; request.filler_bytes as usize],
            })?;
        }
        if request.panic {
            panic!("after {} numbers", request.count);
        }
        if request.stay {
            cx.sleep(Duration::from_secs(3600))?;
        }
        match request.fail {
            0 => Ok(()),
            code => Err(Status {
                code,
                message: format!("after {} numbers", request.count),
                ..Status::default()
            }),
        }
    }

    fn sum(&self, _: &Cx, requests: &mut Requests<Number>) -> Result<SumReply> {
        let mut reply = SumReply::default();
        for number in requests {
            let Number { value, .. } = number?;
            if value == 13 {
                break;
            }
            reply.sum += value;
            reply.count += 1;
        }
        Ok(reply)
    }

    fn relay(&self, _: &Cx, requests: &mut Requests<Number>, replies: &mut Replies<Number>) -> Result<()> {
        for number in requests {
            replies.send(number?)?;
        }
        Ok(())
    }
}

impl ConformanceGuest {
    /// Configuration `{"refuse": "why"}` makes it refuse to start.
    fn open(cx: &Cx) -> Result<Self> {
        match text_of(cx.config_json(), "refuse") {
            Some(why) => Err(Status::failed_precondition(why)),
            None => Ok(Self::default()),
        }
    }

    fn healthy(&self) -> Result<()> {
        Ok(())
    }
}

/// The text of a field of a flat JSON object, without escapes: a JSON library would be most of this guest.
fn text_of<'a>(json: &'a str, field: &str) -> Option<&'a str> {
    let (_, after) = json.split_once(&format!("\"{field}\""))?;
    let (_, text) = after.split_once(':')?.1.split_once('"')?;
    Some(text.split_once('"')?.0)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// When an endless loop ends after all: never, in a sandbox that must be able to stop it.
struct Bound {
    #[cfg(not(target_family = "wasm"))]
    end: std::time::Instant,
}

impl Bound {
    #[cfg(not(target_family = "wasm"))]
    fn new(bound_ms: u32) -> Self {
        Self {
            end: std::time::Instant::now() + Duration::from_millis(bound_ms.into()),
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn is_over(&self) -> bool {
        std::time::Instant::now() >= self.end
    }

    #[cfg(target_family = "wasm")]
    fn new(_: u32) -> Self {
        Self {}
    }

    #[cfg(target_family = "wasm")]
    fn is_over(&self) -> bool {
        false
    }
}
