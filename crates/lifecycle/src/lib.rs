//! The life of a plugin as a pure function: state and event in, state and effects out.
