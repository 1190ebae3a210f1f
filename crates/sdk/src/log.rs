//! Log lines with fields: `info!(cx, { side = 128 }, "made {} thumbnails", n)`.

/// A log line at a given level; the macros named after the levels are shorter.
#[macro_export]
macro_rules! log {
    ($cx:expr, $level:expr, { $($field:ident = $value:expr),* $(,)? }, $($message:tt)+) => {
        $crate::Cx::log($cx, $level, ::core::format_args!($($message)+), &[$((::core::stringify!($field), &$value)),*])
    };
    ($cx:expr, $level:expr, $($message:tt)+) => {
        $crate::Cx::log($cx, $level, ::core::format_args!($($message)+), &[])
    };
}

/// A log line at level `error`: `error!(cx, { field = value }, "text {}", argument)`; the fields may be left out.
#[macro_export]
macro_rules! error {
    ($cx:expr, $($rest:tt)+) => { $crate::log!($cx, $crate::Level::Error, $($rest)+) };
}

/// A log line at level `warn`: `warn!(cx, { field = value }, "text {}", argument)`; the fields may be left out.
#[macro_export]
macro_rules! warn {
    ($cx:expr, $($rest:tt)+) => { $crate::log!($cx, $crate::Level::Warn, $($rest)+) };
}

/// A log line at level `info`: `info!(cx, { field = value }, "text {}", argument)`; the fields may be left out.
#[macro_export]
macro_rules! info {
    ($cx:expr, $($rest:tt)+) => { $crate::log!($cx, $crate::Level::Info, $($rest)+) };
}

/// A log line at level `debug`: `debug!(cx, { field = value }, "text {}", argument)`; the fields may be left out.
#[macro_export]
macro_rules! debug {
    ($cx:expr, $($rest:tt)+) => { $crate::log!($cx, $crate::Level::Debug, $($rest)+) };
}

/// A log line at level `trace`: `trace!(cx, { field = value }, "text {}", argument)`; the fields may be left out.
#[macro_export]
macro_rules! trace {
    ($cx:expr, $($rest:tt)+) => { $crate::log!($cx, $crate::Level::Trace, $($rest)+) };
}
