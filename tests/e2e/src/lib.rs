//! End-to-end tests through the public surface: the binary, the sockets, the files.
