-- `head`: an encoded mortise.plugin.v1.CallHead with what travels beside the payload. `bytes` counts towards the log's limit.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    head BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_topic ON events (topic, seq);

-- Idempotency keys for as long as they are remembered; an event may be gone before its key.
CREATE TABLE keys (
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (at_ms);

CREATE TABLE schemas (
    topic TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    descriptor_set BLOB NOT NULL
) STRICT;

CREATE TABLE subscriptions (
    name TEXT PRIMARY KEY,
    pattern TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    dead_dropped INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Events that were begun and are not settled; `due_ms` is null while one is in flight.
CREATE TABLE pending (
    subscription TEXT NOT NULL,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms INTEGER,
    PRIMARY KEY (subscription, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX pending_by_event ON pending (seq);

CREATE TABLE dead (
    subscription TEXT NOT NULL,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (subscription, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_by_event ON dead (seq);

-- Kept in step with `events` in the same transaction, so that a limit costs no scan.
CREATE TABLE usage (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO usage (id, bytes) VALUES (1, 0);
