//! What a plugin asks for and what the operator gives.

/// Permissions as a plugin declares them. Declaring grants nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// `host:port` pairs it wants to reach over HTTP; `*.example.com:443` allowed.
    pub net_connect: Vec<String>,
    /// Paths it wants to read.
    pub fs_read: Vec<String>,
    /// Paths it wants to write.
    pub fs_write: Vec<String>,
    /// Private key-value data.
    pub kv: bool,
}

/// What the operator grants; always a subset of what the plugin declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The granted permissions.
    pub permissions: Permissions,
}
