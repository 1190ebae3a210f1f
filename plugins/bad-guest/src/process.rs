//! The executable: the frames of `mortise_wire::frame`, by hand.

#[cfg(not(unix))]
/// There is no lane on this system.
pub fn main() {
    eprintln!("the process runtime needs unix sockets");
}

#[cfg(unix)]
pub use lane::main;

#[cfg(unix)]
mod lane {
    use std::{
        env,
        io::{Read, Write},
        os::{
            fd::{FromRawFd, OwnedFd},
            unix::net::UnixStream,
        },
        process::exit,
    };

    use bad_fault::{EXIT_CODE, Fault};

    use crate::message::{bytes_of, put_bytes, put_uint};

    const LANE_VERSION: u64 = 2;
    const HELLO: u8 = 1;
    const START: u8 = 3;
    const READY: u8 = 4;
    const CALL: u8 = 16;
    const REPLY: u8 = 17;
    const LOG: u8 = 48;
    const PING: u8 = 64;
    const PONG: u8 = 65;
    const STOP: u8 = 66;

    struct Lane(UnixStream);

    /// Speaks the lane until the host is gone.
    pub fn main() {
        let mut fault = crate::fault(&[]);
        if fault == Fault::ExitsAtOnce {
            exit(EXIT_CODE);
        }
        let Some(number) = env::var("MORTISE_LANE_FD").ok().and_then(|it| it.parse().ok()) else {
            eprintln!("this is a plugin; a host starts it");
            exit(2);
        };
        // SAFETY: the host passed the descriptor to this process for this purpose, and nobody else here uses it.
        let mut lane = Lane(UnixStream::from(unsafe { OwnedFd::from_raw_fd(number) }));
        lane.hello(fault);
        loop {
            let (kind, call_id, body) = lane.receive();
            match kind {
                START => {
                    fault = crate::fault(&body);
                    lane.send(READY, 0, &[]);
                }
                CALL => {
                    let head = body
                        .get(..4)
                        .and_then(|it| it.try_into().ok())
                        .map_or(0, u32::from_le_bytes);
                    let payload = body.get(8 + head as usize..).unwrap_or_default();
                    lane.call(fault, call_id, payload);
                }
                PING => lane.send(PONG, call_id, &crate::HEALTH),
                STOP => exit(0),
                _ => {}
            }
        }
    }

    impl Lane {
        fn hello(&mut self, fault: Fault) {
            let field = |number| bytes_of(crate::metadata(), number).unwrap_or_default();
            let mut hello = Vec::new();
            put_uint(
                &mut hello,
                1,
                if fault == Fault::WrongAbi {
                    99
                } else {
                    LANE_VERSION
                },
            );
            put_bytes(&mut hello, 2, field(2));
            put_bytes(&mut hello, 3, field(3));
            put_bytes(&mut hello, 4, field(7));
            put_uint(&mut hello, 5, 16);
            self.send(HELLO, 0, &hello);
        }

        fn call(&mut self, fault: Fault, call_id: u64, payload: &[u8]) {
            let reply = crate::answer(fault, payload);
            match fault {
                Fault::NeverAnswers => return,
                Fault::ExitsInACall => exit(EXIT_CODE),
                Fault::AnnouncesAHugeFrame => {
                    let mut header = header(REPLY, call_id, 0);
                    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
                    return self.write(&header);
                }
                Fault::FloodsItsLog => {
                    for record in crate::flood() {
                        self.send(LOG, call_id, &record);
                        let text = bytes_of(&record, 3).unwrap_or_default();
                        let _ = std::io::stderr()
                            .write_all(text)
                            .and_then(|()| std::io::stderr().write_all(b"\n"));
                    }
                }
                Fault::AnswersTwice => self.send(REPLY, call_id, &reply),
                Fault::AnswersAnotherCall => self.send(REPLY, call_id.wrapping_add(1 << 40), &reply),
                _ => {}
            }
            self.send(REPLY, call_id, &reply);
        }

        fn send(&mut self, kind: u8, call_id: u64, body: &[u8]) {
            let mut frame = header(kind, call_id, body.len() as u32).to_vec();
            frame.extend_from_slice(body);
            self.write(&frame);
        }

        /// The host is gone when it does not read; then so is this process.
        fn write(&mut self, bytes: &[u8]) {
            if self.0.write_all(bytes).is_err() {
                exit(0);
            }
        }

        fn receive(&mut self) -> (u8, u64, Vec<u8>) {
            let mut header = [0; 16];
            self.read(&mut header);
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let mut id = [0; 8];
            id.copy_from_slice(&header[8..]);
            let mut body = vec![0; length as usize];
            self.read(&mut body);
            (header[4], u64::from_le_bytes(id), body)
        }

        fn read(&mut self, bytes: &mut [u8]) {
            if self.0.read_exact(bytes).is_err() {
                exit(0);
            }
        }
    }

    fn header(kind: u8, call_id: u64, body_bytes: u32) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&body_bytes.to_le_bytes());
        header[4] = kind;
        header[8..].copy_from_slice(&call_id.to_le_bytes());
        header
    }
}
