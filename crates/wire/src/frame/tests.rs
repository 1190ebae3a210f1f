use super::*;

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    [&header(kind, 7, body.len() as u32)[..], body].concat()
}

#[test]
fn who_reads_what_is_missing_reads_nothing_past_the_frame() {
    let bytes = [frame(Kind::Welcome, b"hello"), b"what follows".to_vec()].concat();
    let mut decoder = Decoder::new(100);
    let (mut read, mut reads) = (0, 0);
    let whole = loop {
        if let Some(whole) = decoder.next().unwrap() {
            break whole;
        }
        let missing = decoder.missing();
        assert!(missing > 0);
        // A read may bring less than was asked for.
        let some = missing.min(3);
        decoder.push(&bytes[read..read + some]);
        (read, reads) = (read + some, reads + 1);
    };
    assert_eq!(
        (&whole.body[..], &bytes[read..]),
        (&b"hello"[..], &b"what follows"[..])
    );
    assert_eq!(reads, 8);
    assert_eq!(decoder.missing(), HEADER_BYTES);
}

#[test]
fn an_announced_length_over_the_maximum_is_not_waited_for() {
    let mut decoder = Decoder::new(100);
    decoder.push(&header(Kind::Call, 1, u32::MAX));
    assert_eq!(decoder.missing(), 100);
    assert!(matches!(
        decoder.next(),
        Err(FrameError::TooLong { max: 100, .. })
    ));
}
