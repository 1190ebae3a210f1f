//! Events kept in NATS JetStream: the port of `mortise-events` over a server, or a cluster, that several hosts may share.
//!
//! What it makes there has names that begin with `events.nats.prefix`:
//!
//! | stream | subjects | what |
//! |---|---|---|
//! | `PREFIX_EVENTS` | `PREFIX.events.TOPIC` | the log |
//! | `PREFIX_DEAD` | `PREFIX.dead.CONSUMER` | dead letters: the whole event, why, and after how many attempts |
//! | `PREFIX_SCHEMAS` | `PREFIX.schema.TOPIC` | what a topic's events are; the first word counts |
//!
//! A subscription is a durable pull consumer of the log. Its place, what is in flight and how often each event was delivered are the server's to keep,
//! so the machine of `mortise_events::delivery` has no part here; what it promises holds all the same.
//!
//! # What it holds to
//! - **N1** A publish is answered when the server confirmed it, never before; one that it did not confirm in time is `Unavailable`.
//! - **N2** At most `concurrency` events of a subscription are with this host: each of its *slots* asks for one event, sees it through, and asks again.
//! - **N3** What is with a slot is the slot's: it tells the server so until its receipt spoke, and a delivery that did not get to the subscriber
//!   stays with it, so that the server does not count it. Of a host that ends without a word, the server gives what it had to another after [`ACK_WAIT`].
//! - **N4** An event that was given out more often than it has attempts is a dead letter without another one: it takes its hosts with it.
//! - **N5** A dead letter is kept before the event is done with, and a replayed event is in the log before its letter goes: what ends the host between the
//!   two doubles, and loses nothing.
//! - **N6** Nothing of the log goes that a subscription is not done with, whatever its age: the streams have no age, and every host takes away, each
//!   minute and when there is no room, what all are done with.
//! - **N7** No credential is in an error or a log line. They are read anew for every connection.
//!
//! It starts no server, and opens no file but those of credentials and certificates.
#![forbid(unsafe_code)]

mod broker;
mod letters;
mod link;
mod log;
mod slots;
mod words;

pub use broker::NatsBroker;
pub use slots::ACK_WAIT;
