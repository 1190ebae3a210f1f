//! Where a call came through.

use std::{fmt, sync::Arc};

use crate::InstanceId;

/// The instances that a call came through, the nearest first: each of them is in the middle of a call on whose behalf this one is made, or was when it
/// was made. An instance that made it of its own accord is in it, too.
///
/// Only the host makes and reads one. It stays in this process: a runtime keeps it with the [`CallContext`](crate::CallContext) of a call and brings it
/// back with the calls that are made on its behalf. Cheap to clone; an empty one costs nothing.
#[derive(Clone, Default)]
pub struct Trail(Option<Arc<Step>>);

struct Step {
    instance: InstanceId,
    before: Trail,
}

impl Trail {
    /// The same, and then through `instance`.
    #[must_use]
    pub fn through(&self, instance: InstanceId) -> Self {
        Self(Some(Arc::new(Step {
            instance,
            before: self.clone(),
        })))
    }

    /// Whether it came through none: it comes from outside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The instances, the nearest first.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceId> {
        let mut next = self.0.as_deref();
        std::iter::from_fn(move || {
            let step = next?;
            next = step.before.0.as_deref();
            Some(&step.instance)
        })
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.instances().map(|it| &it.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_what_it_began_with_stays_as_it_was() {
        let id = |text: &str| InstanceId(text.into());
        let one = Trail::default().through(id("a-1"));
        let two = one.through(id("b-2"));
        assert!(Trail::default().is_empty() && !one.is_empty());
        assert_eq!(format!("{one:?} {two:?}"), r#"["a-1"] ["b-2", "a-1"]"#);
    }
}
