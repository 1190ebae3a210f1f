use super::*;

#[test]
fn fits_the_longer_side_and_never_grows() {
    assert_eq!(fit((512, 512), 128), (128, 128));
    assert_eq!(fit((640, 427), 128), (128, 85));
    assert_eq!(fit((427, 640), 128), (85, 128));
    assert_eq!(fit((100, 50), 128), (100, 50));
    assert_eq!(fit((10_000, 1), 128), (128, 1));
}

#[test]
fn overlaps_cover_every_source_pixel_once() {
    for (source, target) in [(7, 3), (640, 128), (427, 85), (5, 5), (10_000, 1)] {
        let mut covered = vec![0; source];
        for at in 0..target {
            let mut width = 0;
            for (pixel, weight) in overlaps(at, source, target) {
                covered[pixel] += weight;
                width += weight;
            }
            assert_eq!(width, source as u64, "target pixel {at} of {source} -> {target}");
        }
        assert!(
            covered.iter().all(|it| *it == target as u64),
            "{source} -> {target}: {covered:?}"
        );
    }
}

#[test]
fn colour_survives_transparency() {
    let half = [200, 100, 50, 128];
    let there = premultiply(Pixels {
        width: 1,
        height: 1,
        bytes: half.to_vec(),
    });
    assert_eq!(
        over_white(&there),
        [227, 177, 152],
        "half of the colour and half of white, rounded"
    );
    let back = divide(there).bytes;
    let close = back.iter().zip(half).all(|(a, b)| a.abs_diff(b) <= 1);
    assert!(close, "{back:?}");
}

#[test]
fn not_an_image_is_the_callers_fault() {
    let status = decode(b"GIF89a, say").expect_err("no PNG and no JPEG");
    assert_eq!(status.kind(), Code::InvalidArgument);
    let status = decode(b"\x89PNG\r\n\x1a\n and then nothing").expect_err("cut");
    assert_eq!(status.kind(), Code::InvalidArgument);
}
