//! Who turns names into addresses for plugins' HTTP requests.

use std::{io, net::IpAddr};

use mortise_runtime::BoxFuture;

/// Turns a host's name into addresses. The default asks the system.
pub trait NameLookup: Send + Sync + 'static {
    /// All addresses of `host`; their ports mean nothing.
    ///
    /// # Errors
    /// What the resolver says.
    fn lookup<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Asks the system's resolver.
#[derive(Debug)]
pub(crate) struct SystemLookup;

impl NameLookup for SystemLookup {
    fn lookup<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0))
                .await?
                .map(|it| it.ip())
                .collect())
        })
    }
}
