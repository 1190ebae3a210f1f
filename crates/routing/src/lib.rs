//! Which instance serves a method: the method table, versions, weights, header rules.
