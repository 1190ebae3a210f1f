//! Every interleaving of a producer and a consumer, over a ring of four words and a slab of two.
//! `RUSTFLAGS="--cfg loom" cargo test -p mortise-shm --lib --release --target-dir target/loom`

use std::io::IoSlice;

use bytes::BytesMut;
use loom::{
    sync::{Arc as Shared, Condvar, Mutex},
    thread,
};

use super::*;
use crate::memory::plain::Plain;

/// An eventfd: it remembers that it was rung.
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    fn new() -> Shared<Self> {
        Shared::new(Self {
            rung: Mutex::new(false),
            wake: Condvar::new(),
        })
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.wake.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Sends `pieces`, each of which may wait for room, while another thread reads them; a wake-up that is lost is a deadlock, which loom finds.
fn exchange(pieces: &'static [&'static [u8]]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let (mine, theirs) = (Arc::new(Plain::new()), Arc::new(Plain::new()));
        let mut producer = Producer::new(mine.clone(), theirs.clone());
        let mut consumer = Consumer::new(theirs, mine);
        let (data, room) = (Bell::new(), Bell::new());
        let (their_data, their_room) = (data.clone(), room.clone());
        let sends = thread::spawn(move || {
            for piece in pieces {
                let mut rest = *piece;
                while !rest.is_empty() {
                    let written = producer.write(&[IoSlice::new(rest)]).unwrap();
                    if written.wake {
                        their_data.ring();
                    }
                    rest = &rest[written.bytes..];
                    if written.bytes == 0 {
                        if producer.sleep().unwrap() {
                            their_room.wait();
                        }
                        producer.woken();
                    }
                }
            }
        });
        let whole = pieces.concat();
        let mut out = BytesMut::new();
        while out.len() < whole.len() {
            let taken = consumer.read(&mut out, usize::MAX).unwrap();
            if taken.wake {
                room.ring();
            }
            if taken.bytes == 0 {
                if consumer.sleep() {
                    data.wait();
                }
                consumer.woken();
            }
        }
        assert_eq!(out, whole);
        sends.join().unwrap();
    });
}

#[test]
fn bytes_arrive_whole_and_nobody_sleeps_for_ever() {
    exchange(&[b"12345678", b"abcdefgh", b"ABCDEFGH"]);
}

#[test]
fn a_slab_is_not_filled_before_it_was_read() {
    exchange(&[b"123456789abc", b"ABCDEFGHIJKL"]);
}
