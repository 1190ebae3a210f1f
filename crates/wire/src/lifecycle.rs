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
    /// Its configuration is to be another one.
    Configure,
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
    pub const ALL: [Self; 6] = [
        Self::Configure,
        Self::LoadState,
        Self::MayReplace,
        Self::PostLoad,
        Self::PreUnload,
        Self::SaveState,
    ];

    /// Its name in [`SERVICE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configure => "Configure",
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

/// Some of the reserved methods: those that one plugin has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservedSet(u32);

impl ReservedSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Those of a plugin that is asked and told about its own life, and has no state.
    pub const HOOKS: Self = Self::NONE
        .with(Reserved::MayReplace)
        .with(Reserved::PostLoad)
        .with(Reserved::PreUnload);
    /// Those of a plugin that has state.
    pub const STATE: Self = Self::HOOKS.with(Reserved::LoadState).with(Reserved::SaveState);

    /// The same, and this one.
    #[must_use]
    pub const fn with(self, method: Reserved) -> Self {
        Self(self.0 | 1 << method as u32)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, method: Reserved) -> bool {
        self.0 & (1 << method as u32) != 0
    }

    /// How many they are.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Which of them it is, from 0, in the order in which they stand in `Metadata.methods`.
    #[must_use]
    pub const fn position(self, method: Reserved) -> Option<u32> {
        if self.contains(method) {
            Some((self.0 & ((1 << method as u32) - 1)).count_ones())
        } else {
            None
        }
    }

    /// They, in their order.
    pub fn iter(self) -> impl Iterator<Item = Reserved> {
        Reserved::ALL.into_iter().filter(move |it| self.contains(*it))
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
    fn a_set_keeps_their_order() {
        for (bit, method) in (0_u32..).zip(Reserved::ALL) {
            assert_eq!(method as u32, bit);
        }
        let set = ReservedSet::HOOKS.with(Reserved::Configure);
        let names: Vec<_> = set.iter().map(Reserved::name).collect();
        assert_eq!(names, ["Configure", "MayReplace", "PostLoad", "PreUnload"]);
        for (position, method) in (0_u32..).zip(set.iter()) {
            assert_eq!(set.position(method), Some(position));
        }
        assert_eq!(set.position(Reserved::SaveState), None);
        assert_eq!((set.len(), ReservedSet::STATE.len()), (4, 5));
        assert!(ReservedSet::NONE.is_empty());
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
