//! The reserved methods: by them a host asks a plugin about its own life, over the call that every runtime has anyway.
//!
//! They stand behind a plugin's own methods in `Metadata.methods`, in the order of [`Reserved::ALL`], as far as the plugin has them. A host calls
//! them by their numbers and routes nobody to them.

use crate::plugin::{Metadata, Method};

/// The service whose methods are reserved. No plugin provides it.
pub const SERVICE: &str = "mortise.plugin.v1.Lifecycle";

/// A reserved method, sorted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reserved {
    /// Takes over what a predecessor saved.
    LoadState,
    /// Whether it lets itself be replaced now.
    MayReplace,
    /// It has its state, and calls follow.
    PostLoad,
    /// It is let go.
    PreUnload,
    /// What it would carry on with.
    SaveState,
}

impl Reserved {
    /// All of them, in the order in which they stand in `Metadata.methods`.
    pub const ALL: [Self; 5] = [
        Self::LoadState,
        Self::MayReplace,
        Self::PostLoad,
        Self::PreUnload,
        Self::SaveState,
    ];

    /// Those of a plugin that has no state, in their order.
    pub const HOOKS: [Self; 3] = [Self::MayReplace, Self::PostLoad, Self::PreUnload];

    /// Its name in [`SERVICE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LoadState => "LoadState",
            Self::MayReplace => "MayReplace",
            Self::PostLoad => "PostLoad",
            Self::PreUnload => "PreUnload",
            Self::SaveState => "SaveState",
        }
    }

    /// Its row in `Metadata.methods`. Its hash is not stated: these messages only grow.
    #[must_use]
    pub fn row(self) -> Method {
        Method {
            service: SERVICE.to_owned(),
            name: self.name().to_owned(),
            wire_hash: vec![0; 32],
            full_hash: vec![0; 32],
            flags: 0,
        }
    }
}

impl Method {
    /// Whether it is one of [`SERVICE`], and so the host's alone.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.service == SERVICE
    }
}

impl Metadata {
    /// The methods that callers reach: all before the first reserved one.
    #[must_use]
    pub fn public_methods(&self) -> &[Method] {
        let end = self
            .methods
            .iter()
            .position(Method::is_reserved)
            .unwrap_or(self.methods.len());
        &self.methods[..end]
    }

    /// The number of a reserved method, if the plugin has it.
    #[must_use]
    pub fn reserved(&self, method: Reserved) -> Option<u32> {
        let index = self
            .methods
            .iter()
            .position(|it| it.is_reserved() && it.name == method.name())?;
        u32::try_from(index).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Method {
        Method {
            service: "a.v1.B".to_owned(),
            name: name.to_owned(),
            ..Method::default()
        }
    }

    #[test]
    fn reserved_methods_stand_behind_the_plugins_own_and_are_found_by_name() {
        let metadata = Metadata {
            methods: vec![own("C"), Reserved::LoadState.row(), Reserved::SaveState.row()],
            ..Metadata::default()
        };
        assert_eq!(metadata.public_methods().len(), 1);
        assert_eq!(metadata.reserved(Reserved::SaveState), Some(2));
        assert_eq!(metadata.reserved(Reserved::PreUnload), None);
        let names = Reserved::ALL.map(Reserved::name);
        assert!(names.is_sorted());
    }

    #[test]
    fn a_method_of_the_plugin_with_such_a_name_is_not_reserved() {
        let metadata = Metadata {
            methods: vec![own("SaveState")],
            ..Metadata::default()
        };
        assert_eq!(metadata.reserved(Reserved::SaveState), None);
        assert_eq!(metadata.public_methods().len(), 1);
    }
}
