//! Publishes orders, and books those that are published, by whichever plugin: loaded under two names, in two runtimes, it is both sides.
//!
//! What is booked is in its key-value data, so that it is there after any end of the host. The operator's configuration `{"broken": "why"}` has it
//! fail over every order, and an order with the note `senseless` is one that it never takes.
#![forbid(unsafe_code)]

use mortise_sdk::{prelude::*, prost::Message as _};

mortise_sdk::contract!();
use contract::*;

/// What keys of booked orders begin with.
const BOOKED: &str = "booked/";

struct Ledger {
    broken: Option<String>,
}

#[mortise_sdk::plugin(start = Self::open)]
impl Orders for Ledger {
    fn place(&self, cx: &Cx, request: PlaceRequest) -> Result<PlaceReply> {
        let mut reply = PlaceReply::default();
        for number in (request.first..).take(request.count as usize) {
            let placed = Placed {
                number,
                note: request.note.clone(),
            };
            if request.key.is_empty() {
                reply.last_id = cx.events().publish(&request.topic, &placed)?;
                reply.accepted += 1;
            } else {
                let key = format!("{}{number}", request.key);
                let is_first = cx.events().publish_once(&request.topic, &key, &placed)?;
                reply.accepted += u32::from(is_first);
            }
        }
        Ok(reply)
    }

    fn book(&self, cx: &Cx, placed: Placed) -> Result<Booked> {
        if placed.note == "senseless" {
            return Err(Status::invalid_argument("this order makes no sense"));
        }
        if let Some(why) = &self.broken {
            return Err(Status::internal(why));
        }
        let event = cx
            .event()
            .ok_or_else(|| Status::failed_precondition("an order is booked when it is published"))?;
        let key = format!("{BOOKED}{:012}", placed.number);
        let before = match cx.kv().get(&key)? {
            Some(bytes) => Entry::decode(&*bytes).map_err(Status::internal)?,
            None => Entry::default(),
        };
        let entry = Entry {
            number: placed.number,
            times: before.times + 1,
            event_id: event.id,
            key: event.key.to_owned(),
            attempt: event.attempt,
            traceparent: cx.traceparent().to_owned(),
        };
        cx.kv().set(&key, entry.encode_to_vec())?;
        Ok(Booked {})
    }

    fn books(&self, cx: &Cx, _: BooksRequest) -> Result<BooksReply> {
        let mut reply = BooksReply::default();
        for key in cx.kv().list(BOOKED, 1000)? {
            if let Some(bytes) = cx.kv().get(&key)? {
                reply
                    .entries
                    .push(Entry::decode(&*bytes).map_err(Status::internal)?);
            }
        }
        Ok(reply)
    }
}

impl Ledger {
    fn open(cx: &Cx) -> Result<Self> {
        Ok(Self {
            broken: text_of(cx.config_json(), "broken").map(str::to_owned),
        })
    }
}

/// The text of a field of a flat JSON object, without escapes: a JSON library would be most of this guest.
fn text_of<'a>(json: &'a str, field: &str) -> Option<&'a str> {
    let (_, after) = json.split_once(&format!("\"{field}\""))?;
    let (_, text) = after.split_once(':')?.1.split_once('"')?;
    Some(text.split_once('"')?.0)
}
