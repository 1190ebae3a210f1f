-- The last state that each plugin saved. `taken_ns` orders them: an older one never replaces a newer one.
CREATE TABLE state (
    plugin TEXT PRIMARY KEY,
    taken_ns INTEGER NOT NULL,
    version TEXT NOT NULL,
    schema TEXT NOT NULL,
    wire_hash BLOB NOT NULL,
    descriptor_set BLOB NOT NULL,
    bytes BLOB NOT NULL
) STRICT, WITHOUT ROWID;
