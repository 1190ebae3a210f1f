use super::*;

/// What a plugin does with the buffer, in its three steps.
fn plugin_writes(out: *mut MtOut, bytes: &[u8]) -> MtStatus {
    // SAFETY: the buffer is alive and used by nobody else.
    unsafe { write(out, bytes) }
}

#[test]
fn appends_and_grows_up_to_the_bound() {
    let mut vec = b"before ".to_vec();
    let mut buffer = Buffer::new(&mut vec, 10);
    let out = buffer.as_out();
    assert_eq!(plugin_writes(out, b"12345"), MT_OK);
    assert_eq!(plugin_writes(out, b"67890"), MT_OK);
    assert_eq!(
        plugin_writes(out, b"!"),
        MT_E_NOMEM,
        "the bound counts what the plugin wrote"
    );
    assert_eq!(buffer.finish(), Ok(()));
    assert_eq!(vec, b"before 1234567890");
}

#[test]
fn a_vector_with_room_is_not_moved() {
    let mut vec = Vec::with_capacity(64);
    let before = vec.as_ptr();
    let mut buffer = Buffer::new(&mut vec, 1 << 20);
    assert_eq!(plugin_writes(buffer.as_out(), &[7; 64]), MT_OK);
    assert_eq!(buffer.finish(), Ok(()));
    assert_eq!((vec.as_ptr(), vec.len()), (before, 64));
}

#[test]
fn room_beyond_the_bound_is_not_offered() {
    let mut vec = Vec::with_capacity(64);
    let mut buffer = Buffer::new(&mut vec, 8);
    assert_eq!(plugin_writes(buffer.as_out(), &[7; 9]), MT_E_NOMEM);
}

#[test]
fn impossible_states_are_refused_and_change_nothing() {
    for spoil in [
        (|out: &mut MtOut| out.len = out.cap + 1) as fn(&mut MtOut),
        |out| out.len = usize::MAX,
        |out| {
            out.len = 1;
            out.ptr = ptr::dangling_mut();
        },
    ] {
        let mut vec = Vec::with_capacity(16);
        vec.extend_from_slice(b"kept");
        let mut buffer = Buffer::new(&mut vec, 16);
        // SAFETY: as above.
        spoil(unsafe { &mut *buffer.as_out() });
        assert!(buffer.finish().is_err());
        assert_eq!(vec, b"kept");
    }
}

#[test]
fn wild_sizes_are_refused() {
    let mut vec = Vec::new();
    let mut buffer = Buffer::new(&mut vec, usize::MAX);
    let out = buffer.as_out();
    // SAFETY: as above; `grow` gets the pointer that it belongs to.
    unsafe {
        let grow = (*out).grow.unwrap();
        assert_eq!(grow(out, usize::MAX), MT_E_NOMEM, "no abort for want of memory");
        (*out).len = 100;
        assert_eq!(grow(out, 200), MT_E_NOMEM, "more written than there was room");
        assert_eq!(grow(ptr::null_mut(), 1), MT_E_BAD_ARG);
    }
}
