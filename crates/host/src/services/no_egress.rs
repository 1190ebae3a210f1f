//! In place of `egress` in a host that was built without feature `http`: the same questions, and one answer.

use std::{sync::Arc, time::Instant};

use mortise_manifest::Grant;
use mortise_wire::{
    Code, Status,
    host::{HttpReply, HttpRequest},
};

use super::{About, NameLookup, denials::Denials};

/// No way out.
pub(crate) struct Egress;

impl Egress {
    pub(crate) fn new(_: About, _: Arc<Denials>, _: &Grant, _: Arc<dyn NameLookup>, _: usize) -> Self {
        Self
    }

    pub(crate) async fn send(&self, _: HttpRequest, _: Instant) -> Result<HttpReply, Status> {
        Err(unavailable())
    }

    pub(crate) async fn connect(&self, _: &str, _: u16) -> Result<std::net::TcpStream, Status> {
        Err(unavailable())
    }
}

fn unavailable() -> Status {
    let why = "this host was built without a way out for plugins; build it with feature `http` of `mortise` or `mortise-host`, or feature `full` \
               of `mortise-testkit`";
    Status::new(Code::Unimplemented, why)
}
