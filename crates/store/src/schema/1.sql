-- Append only. `at_ms` is for people and may go back with the clock; order is by `seq`.
CREATE TABLE transitions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    plugin TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    actor TEXT NOT NULL,
    from_state TEXT NOT NULL,
    event TEXT NOT NULL,
    to_state TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_by_plugin ON transitions (plugin, seq);

-- What the operator wants to run, whatever runs now.
CREATE TABLE desired (
    name TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE quarantine (
    digest TEXT PRIMARY KEY,
    plugin TEXT NOT NULL,
    version TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE kv (
    plugin TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (plugin, key)
) STRICT, WITHOUT ROWID;

-- Kept in step with `kv` in the same transaction, so that a limit costs no scan.
CREATE TABLE kv_usage (
    plugin TEXT PRIMARY KEY,
    keys INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
