//! As much protobuf as is needed here, by hand.

/// Appends field `number` of a varint type.
pub fn put_uint(message: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(message, u64::from(number) << 3);
    put_varint(message, value);
}

/// Appends field `number` of type string, bytes or message.
pub fn put_bytes(message: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(message, u64::from(number) << 3 | 2);
    put_varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

/// The last value of field `number` of type string, bytes or message; `None` if there is none or the message does not parse.
#[must_use]
pub fn bytes_of(message: &[u8], number: u32) -> Option<&[u8]> {
    let mut rest = message;
    let mut found = None;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match key & 7 {
            0 => {
                take_varint(&mut rest)?;
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                if key >> 3 == u64::from(number) {
                    found = Some(value);
                }
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    found
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let mut message = Vec::new();
        put_uint(&mut message, 1, u64::MAX);
        put_bytes(&mut message, 200, &[7; 300]);
        put_bytes(&mut message, 2, b"first");
        put_bytes(&mut message, 2, b"last");
        assert_eq!(bytes_of(&message, 2), Some(&b"last"[..]));
        assert_eq!(bytes_of(&message, 200), Some(&[7; 300][..]));
        assert_eq!(bytes_of(&message, 3), None);
        for end in 0..message.len() {
            let _ = bytes_of(&message[..end], 2);
        }
    }
}
