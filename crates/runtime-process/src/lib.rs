//! Plugins as child processes that speak the lane over a unix socket.
