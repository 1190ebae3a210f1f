use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::memory::{REGION_BYTES, plain::Plain};

type Pair = (Arc<Plain>, Arc<Plain>, Producer<Plain>, Consumer<Plain>);

fn pair() -> Pair {
    let (mine, theirs) = (Arc::new(Plain::new()), Arc::new(Plain::new()));
    let producer = Producer::new(mine.clone(), theirs.clone());
    let consumer = Consumer::new(theirs.clone(), mine.clone());
    (mine, theirs, producer, consumer)
}

/// Writes as long as there is room.
fn write(producer: &mut Producer<Plain>, bytes: &[u8]) -> usize {
    let mut all = 0;
    loop {
        let written = producer.write(&[IoSlice::new(&bytes[all..])]);
        match written.expect("the consumer is honest").bytes {
            0 => return all,
            written => all += written,
        }
    }
}

fn read(consumer: &mut Consumer<Plain>) -> Vec<u8> {
    let mut out = BytesMut::new();
    let taken = consumer.read(&mut out, usize::MAX);
    taken.expect("the producer is honest");
    out.to_vec()
}

#[test]
fn what_goes_in_comes_out_around_the_ring() {
    let (.., mut producer, mut consumer) = pair();
    let mut sent = 0u8;
    for round in 0..400 {
        let piece: Vec<u8> = (0..1 + round * 7 % 2999)
            .map(|_| {
                sent = sent.wrapping_add(1);
                sent
            })
            .collect();
        assert_eq!(write(&mut producer, &piece), piece.len());
        assert_eq!(read(&mut consumer), piece);
    }
    assert!(consumer.head > RING_BYTES as u64);
}

#[test]
fn a_large_piece_takes_slabs_and_gives_them_back() {
    let (.., mut producer, mut consumer) = pair();
    let large: Vec<u8> = (0..2 * SLAB_BYTES + 100_000).map(|i| (i % 251) as u8).collect();
    for _ in 0..3 {
        assert_eq!(write(&mut producer, &large), large.len());
        // Slabs leave the ring to small frames.
        assert!(producer.tail - producer.head < 400);
        assert_eq!(read(&mut consumer), large);
        assert!(producer.room().unwrap() == RING_BYTES as u64);
    }
}

#[test]
fn with_no_slab_left_the_ring_takes_what_it_can() {
    let (.., mut producer, mut consumer) = pair();
    let large = vec![7; (SLABS + 1) * SLAB_BYTES];
    let written = write(&mut producer, &large);
    assert!(written > SLABS * SLAB_BYTES && written < large.len());
    assert_eq!(write(&mut producer, &large[written..]), 0);
    assert!(producer.sleep().unwrap(), "there is no room to wait for");
    let mut out = BytesMut::new();
    let taken = consumer.read(&mut out, usize::MAX).unwrap();
    assert_eq!((taken.bytes, taken.wake), (written, true));
    assert!(!producer.sleep().unwrap(), "there is room now");
    producer.woken();
    assert_eq!(write(&mut producer, &large[written..]), large.len() - written);
}

#[test]
fn a_reader_that_sleeps_is_to_be_woken() {
    let (.., mut producer, mut consumer) = pair();
    assert!(consumer.sleep());
    assert!(producer.write(&[IoSlice::new(b"hello")]).unwrap().wake);
    consumer.woken();
    assert!(!producer.write(&[IoSlice::new(b"again")]).unwrap().wake);
    assert!(!consumer.sleep(), "there is something");
}

#[test]
fn lies_about_cursors_are_found() {
    let (mine, theirs, mut producer, mut consumer) = pair();
    write(&mut producer, b"12345678");
    theirs.word(Word::Head).store(4096, Ordering::Release);
    assert!(matches!(producer.sleep(), Err(Broken::Head { .. })));
    mine.word(Word::Tail)
        .store(RING_BYTES as u64 + 8, Ordering::Release);
    let mut out = BytesMut::new();
    assert!(matches!(consumer.read(&mut out, 9), Err(Broken::Tail { .. })));
    assert!(out.is_empty());
}

#[test]
fn a_slab_is_taken_once() {
    let (mine, _, mut producer, mut consumer) = pair();
    let large = vec![1; INLINE_BYTES_MAX + 1];
    write(&mut producer, &large);
    assert_eq!(read(&mut consumer).len(), large.len());
    // The same record once more.
    let again = ring_offset(producer.tail);
    mine.write(again, &(large.len() as u64 | 1 << 32).to_ne_bytes());
    mine.write(again + 8, &1u64.to_ne_bytes());
    mine.word(Word::Tail).store(producer.tail + 16, Ordering::Release);
    let broken = consumer.read(&mut BytesMut::new(), 1).unwrap_err();
    assert!(
        matches!(
            broken,
            Broken::Generation {
                generation: 1,
                expected: 2,
                ..
            }
        ),
        "{broken}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 48 }, ..ProptestConfig::default() })]

    /// A stream stays a stream, however it is cut.
    #[test]
    fn a_stream_stays_a_stream(sizes in prop::collection::vec((0usize..200_000, 0usize..400_000), 1..20)) {
        let (.., mut producer, mut consumer) = pair();
        let (mut sent, mut received) = (Vec::new(), BytesMut::new());
        let mut next = 0u32;
        for (size, enough) in sizes {
            let piece: Vec<u8> = (0..size).map(|_| { next = next.wrapping_mul(1_664_525).wrapping_add(1); (next >> 24) as u8 }).collect();
            let (a, b) = piece.split_at(size / 3);
            let written = producer.write(&[IoSlice::new(a), IoSlice::new(b)]).unwrap().bytes;
            sent.extend_from_slice(&piece[..written]);
            consumer.read(&mut received, enough).unwrap();
        }
        while consumer.is_ready() {
            consumer.read(&mut received, usize::MAX).unwrap();
        }
        prop_assert_eq!(sent, received.to_vec());
    }

    /// A producer that writes whatever it likes wherever it likes, its cursor included: the consumer takes bytes or says that it is broken. It never
    /// leaves the region (`check` would panic) and never takes more than the tail lets in.
    #[test]
    fn a_hostile_producer_breaks_nothing_but_itself(
        scribbles in prop::collection::vec((0usize..64, prop_oneof![any::<u64>(), 0u64..300_000, (0u64..6).prop_map(|it| it << 32 | 9)]), 0..40),
        tail in prop_oneof![any::<u64>(), 0u64..=RING_BYTES as u64, (0u64..64).prop_map(|it| it * 8)],
        enough in 0usize..100_000,
    ) {
        let (mine, _, _, mut consumer) = pair();
        for (place, word) in scribbles {
            mine.write(ring_offset(place as u64 * 8), &word.to_ne_bytes());
        }
        mine.word(Word::Tail).store(tail, Ordering::Release);
        let mut out = BytesMut::new();
        for _ in 0..4 {
            if consumer.read(&mut out, enough).is_err() {
                break;
            }
        }
        prop_assert!(out.len() <= REGION_BYTES + SLABS * SLAB_BYTES);
    }

    /// A consumer that lies about its cursor and the slabs.
    #[test]
    fn a_hostile_consumer_breaks_nothing_but_itself(
        heads in prop::collection::vec((any::<u64>(), any::<u64>(), 0usize..300_000), 1..12),
    ) {
        let (_, theirs, mut producer, _) = pair();
        for (head, released, size) in heads {
            theirs.word(Word::Head).store(head, Ordering::Release);
            theirs.word(Word::Released(0)).store(released, Ordering::Release);
            let piece = vec![1; size];
            match producer.write(&[IoSlice::new(&piece)]) {
                Ok(written) => prop_assert!(written.bytes <= size),
                Err(_) => break,
            }
            prop_assert!(producer.tail - producer.head <= RING_BYTES as u64);
        }
    }
}
