//! The plugin's private key-value data.

use mortise_wire::{
    client::unary_blocking,
    host::{
        KvDeleteReply, KvDeleteRequest, KvGetReply, KvGetRequest, KvListReply, KvListRequest, KvSetReply,
        KvSetRequest, target,
    },
};

use crate::{Cx, Result};

/// Key-value data of this plugin's name. Needs permission `kv`; without the operator's grant every method gives
/// `PermissionDenied` that names it.
#[derive(Clone, Copy)]
pub struct Kv<'a> {
    cx: &'a Cx,
}

impl<'a> Kv<'a> {
    pub(crate) const fn new(cx: &'a Cx) -> Self {
        Self { cx }
    }

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// The host's status.
    pub fn get(self, key: &str) -> Result<Option<Vec<u8>>> {
        let reply: KvGetReply =
            unary_blocking(self.cx, target::KV_GET, &KvGetRequest { key: key.to_owned() })?;
        Ok(reply.value)
    }

    /// Gives `key` a value.
    ///
    /// # Errors
    /// The host's status.
    pub fn set(self, key: &str, value: impl Into<Vec<u8>>) -> Result<()> {
        let request = KvSetRequest {
            key: key.to_owned(),
            value: value.into(),
        };
        let KvSetReply {} = unary_blocking(self.cx, target::KV_SET, &request)?;
        Ok(())
    }

    /// Takes the value of `key` away; tells whether it had one.
    ///
    /// # Errors
    /// The host's status.
    pub fn delete(self, key: &str) -> Result<bool> {
        let reply: KvDeleteReply = unary_blocking(
            self.cx,
            target::KV_DELETE,
            &KvDeleteRequest { key: key.to_owned() },
        )?;
        Ok(reply.existed)
    }

    /// Up to `limit` keys that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// The host's status.
    pub fn list(self, prefix: &str, limit: u32) -> Result<Vec<String>> {
        let request = KvListRequest {
            prefix: prefix.to_owned(),
            limit,
        };
        let reply: KvListReply = unary_blocking(self.cx, target::KV_LIST, &request)?;
        Ok(reply.keys)
    }
}
