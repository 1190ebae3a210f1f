//! The HTTP edge: JSON-RPC 2.0, health, and the control socket.
