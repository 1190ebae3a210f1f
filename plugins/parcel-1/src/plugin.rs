//! It gives back what it gets, byte for byte, and tells what bytes it got. So it never looks into a parcel: what a test finds in one is what the host
//! made of it.

use mortise_sdk::{
    prelude::*,
    prost::{
        DecodeError, Message,
        bytes::{Buf, BufMut},
        encoding::{DecodeContext, WireType},
    },
};

mortise_sdk::contract!();
use contract::{Parcels, SeenReply};

/// A message in its encoded form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sealed(Vec<u8>);

#[derive(Default)]
struct Post;

#[mortise_sdk::plugin]
impl Parcels for Post {
    fn send(&self, _: &Cx, parcel: Sealed) -> Result<Sealed> {
        Ok(parcel)
    }

    fn seen(&self, _: &Cx, parcel: Sealed) -> Result<SeenReply> {
        Ok(SeenReply { parcel: parcel.0 })
    }
}

impl Message for Sealed {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        unreachable!("`merge` takes the whole message, and no other message has one of these")
    }

    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
