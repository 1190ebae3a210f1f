//! A counter with state: what it counted goes from one instance into the next, exactly.
//!
//! The operator's configuration makes it misbehave: `{"veto": "why"}` refuses to be replaced, and `{"fault": ..}` is one of the words in
//! [`Fault::of`].
#![forbid(unsafe_code)]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use mortise_sdk::{lifecycle::Successor, prelude::*};

mortise_sdk::contract!();
use contract::*;

/// Far longer than a swap may take.
const TOO_LONG: Duration = Duration::from_millis(400);

struct Tally {
    count: AtomicU64,
    handovers: AtomicU64,
    fault: Option<Fault>,
    veto: Option<String>,
}

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    SaveFails,
    SavePanics,
    SaveTakesLong,
    LoadFails,
    LoadPanics,
    /// Panics in about one of four saves and loads.
    PanicsAtTimes,
}

#[mortise_sdk::plugin(start = Self::open, stateful, veto = Self::veto)]
impl Counter for Tally {
    fn add(&self, _: &Cx, request: AddRequest) -> Result<AddReply> {
        Ok(self.plus(request.by))
    }

    fn add_slowly(&self, cx: &Cx, request: AddSlowlyRequest) -> Result<AddReply> {
        cx.sleep(Duration::from_millis(request.ms.into()))?;
        Ok(self.plus(request.by))
    }

    fn panic(&self, _: &Cx, _: CounterPanicRequest) -> Result<CounterPanicReply> {
        panic!("as you wish");
    }
}

impl Stateful for Tally {
    type State = CounterState;

    fn save_state(&self, cx: &Cx) -> Result<CounterState> {
        match self.fault {
            Some(Fault::SaveFails) => return Err(Status::internal("out of paper")),
            Some(Fault::SavePanics) => panic!("in the middle of a save"),
            Some(Fault::SaveTakesLong) => cx.sleep(TOO_LONG)?,
            Some(Fault::PanicsAtTimes) if is_time(cx)? => panic!("a save at a bad time"),
            _ => {}
        }
        Ok(CounterState {
            count: self.count.load(Ordering::Relaxed),
            handovers: self.handovers.load(Ordering::Relaxed),
        })
    }

    fn load_state(&self, cx: &Cx, state: CounterState) -> Result<()> {
        match self.fault {
            Some(Fault::LoadFails) => return Err(Status::internal("illegible")),
            Some(Fault::LoadPanics) => panic!("in the middle of a load"),
            Some(Fault::PanicsAtTimes) if is_time(cx)? => panic!("a load at a bad time"),
            _ => {}
        }
        self.count.store(state.count, Ordering::Relaxed);
        self.handovers.store(state.handovers + 1, Ordering::Relaxed);
        Ok(())
    }
}

impl Tally {
    fn open(cx: &Cx) -> Result<Self> {
        let word = |field| text_of(cx.config_json(), field);
        Ok(Self {
            count: AtomicU64::new(0),
            handovers: AtomicU64::new(0),
            fault: word("fault").map(Fault::of).transpose()?,
            veto: word("veto").map(str::to_owned),
        })
    }

    fn veto(&self, _: &Cx, _: &Successor) -> Result<()> {
        match &self.veto {
            Some(why) => Err(Status::failed_precondition(why)),
            None => Ok(()),
        }
    }

    fn plus(&self, by: u64) -> AddReply {
        AddReply {
            count: self.count.fetch_add(by, Ordering::Relaxed) + by,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            handovers: self.handovers.load(Ordering::Relaxed),
        }
    }
}

impl Fault {
    fn of(word: &str) -> Result<Self> {
        Ok(match word {
            "save fails" => Self::SaveFails,
            "save panics" => Self::SavePanics,
            "save takes long" => Self::SaveTakesLong,
            "load fails" => Self::LoadFails,
            "load panics" => Self::LoadPanics,
            "panics at times" => Self::PanicsAtTimes,
            other => {
                return Err(Status::invalid_argument(format_args!(
                    "`{other}` is no fault of this plugin"
                )));
            }
        })
    }
}

/// One of four calls, as good as at random.
fn is_time(cx: &Cx) -> Result<bool> {
    let now = cx
        .now()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let micros = u64::from(now.subsec_micros());
    Ok(micros.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0)
}

/// The text of a field of a flat JSON object, without escapes: a JSON library would be most of this guest.
fn text_of<'a>(json: &'a str, field: &str) -> Option<&'a str> {
    let (_, after) = json.split_once(&format!("\"{field}\""))?;
    let (_, text) = after.split_once(':')?.1.split_once('"')?;
    Some(text.split_once('"')?.0)
}
