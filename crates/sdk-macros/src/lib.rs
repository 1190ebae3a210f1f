//! The attribute #[plugin].
