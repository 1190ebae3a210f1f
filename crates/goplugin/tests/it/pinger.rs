//! `grpctest.PingPong`, which either side offers through the broker.

use bytes::Bytes;
use mortise_goplugin::{BoxFuture, Invoked, Service, Shape};
use prost::Message as _;
use tonic::Status;

use crate::messages::{PING, PongResponse};

/// What either side offers through the broker.
pub(crate) struct Pinger(pub(crate) &'static str);

impl Service for Pinger {
    fn shape(&self, method: &str) -> Option<Shape> {
        (method == PING).then_some(Shape::Unary)
    }

    fn call<'a>(&'a self, _: Invoked<'a>, _: Bytes) -> BoxFuture<'a, Result<Bytes, Status>> {
        let msg = self.0.to_owned();
        Box::pin(async move { Ok(PongResponse { msg }.encode_to_vec().into()) })
    }
}
