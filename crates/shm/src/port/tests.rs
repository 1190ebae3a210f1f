use std::{os::unix::net::UnixStream, thread};

use super::*;
use crate::{RING_BYTES, SLAB_BYTES, SLABS};

/// Two sides in one process, with their mappings and descriptors apart, and the socket between them.
fn pair() -> ((Port, UnixStream), (Port, UnixStream)) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (port, fds) = Port::create().unwrap();
    let borrowed = fds.each_ref().map(AsFd::as_fd);
    assert_eq!(crate::send_with_fds(&ours, b"w", &borrowed).unwrap(), 1);
    let (mut byte, mut received) = ([0], Vec::new());
    assert_eq!(
        crate::receive_with_fds(&theirs, &mut byte, &mut received).unwrap(),
        1
    );
    let joined = Port::join(received.try_into().unwrap()).unwrap();
    ((port, ours), (joined, theirs))
}

fn waiter(bell: BorrowedFd<'_>, socket: &UnixStream) -> Waiter {
    Waiter::new(bell, socket.as_fd()).unwrap()
}

/// Echoes until the other side is gone.
fn echo(mut port: Port, socket: &UnixStream) {
    let mut receives = waiter(port.receiver.bell(), socket);
    let mut sends = waiter(port.sender.bell(), socket);
    let mut buffer = BytesMut::new();
    loop {
        match port.receiver.receive(&mut buffer, 64 << 10, &mut receives) {
            Ok(_) => {}
            Err(PortError::Gone) => return,
            Err(error) => panic!("{error}"),
        }
        let bytes = buffer.split();
        let sent = port.sender.send_all(&mut [IoSlice::new(&bytes)], &mut sends);
        assert!(matches!(sent, Ok(()) | Err(PortError::Gone)));
    }
}

#[test]
fn bytes_cross_in_both_directions_and_the_end_is_seen() {
    let ((mut port, socket), (other, other_socket)) = pair();
    let echoing = thread::spawn(move || echo(other, &other_socket));
    let mut receives = waiter(port.receiver.bell(), &socket);
    let mut sends = waiter(port.sender.bell(), &socket);
    for size in [1, 7, 4096, RING_BYTES, SLAB_BYTES, SLABS * SLAB_BYTES] {
        let sent: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
        port.sender
            .send_all(&mut [IoSlice::new(&sent)], &mut sends)
            .unwrap();
        let mut back = BytesMut::new();
        while back.len() < sent.len() {
            port.receiver
                .receive(&mut back, sent.len(), &mut receives)
                .unwrap();
        }
        assert_eq!(back, sent);
    }
    drop(socket);
    echoing.join().unwrap();
}

#[test]
fn nobody_can_write_the_hosts_region_or_change_a_size() {
    let (_port, fds) = Port::create().unwrap();
    let [host, plugin, ..] = &fds;
    assert!(Region::map_mine(host).is_err(), "M1");
    assert!(Region::map_theirs(host).is_ok());
    for file in [host, plugin] {
        assert!(rustix::fs::ftruncate(file, 4096).is_err(), "M3");
        assert!(rustix::fs::ftruncate(file, 64 << 20).is_err(), "M3");
        let more = rustix::fs::SealFlags::WRITE;
        assert!(rustix::fs::fcntl_add_seals(file, more).is_err());
    }
    assert!(rustix::io::pwrite(host, b"x", 0).is_err(), "M1");
}

#[test]
fn a_file_of_another_size_or_without_seals_is_refused() {
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(Region::map_theirs(&file).is_err());
    rustix::fs::ftruncate(&file, crate::REGION_BYTES as u64).unwrap();
    let why = Region::map_theirs(&file).unwrap_err().to_string();
    assert!(why.contains("could change"), "{why}");
}

#[test]
fn a_bell_whose_counter_is_full_does_not_block_the_one_who_rings() {
    let ((mut port, _socket), (mut other, _other_socket)) = pair();
    assert!(other.receiver.sleep());
    rustix::io::write(other.receiver.bell(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(port.sender.try_send(&[IoSlice::new(b"hello")]).unwrap(), 5);
}
